"""``sparta-lite audit``: what a run's judges agree on, what they lean to, and whether votes can be bought."""

from __future__ import annotations

import json as json_text
import sys
from pathlib import Path
from typing import Annotated

import typer

from sparta_lite.commands.quiet import quiet_libraries
from sparta_lite.commands.unchecked import note_unchecked
from sparta_lite.files import write_json
from sparta_lite.outcome.finished import open_run


def audit(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run's directory.")],
    duels: Annotated[
        int, typer.Option(min=0, help="Duels to judge anew; 0: only what the run's files say, no model.")
    ] = 40,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Audit the judges of a run; the record goes to RUN/audit.json."""
    quiet_libraries()
    finished = open_run(run)
    from sparta_lite.outcome.audit.auditing import audit as audited

    record = audited(finished, duels, _say)
    place = finished.store.root / "audit.json"
    write_json(place, record)
    if json:
        typer.echo(json_text.dumps(record, indent=1))
    else:
        from rich.console import Console

        from sparta_lite.show.audit import tables

        Console(highlight=False).print(tables(record))
    note_unchecked(run)
    _say(f"saved as {place}")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
