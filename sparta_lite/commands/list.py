"""``sparta-lite list``: the runs below a directory."""

from __future__ import annotations

import dataclasses
import json as json_text
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from sparta_lite.commands.places import RUNS
from sparta_lite.show.lines import BETTER, FAINT, PLAIN, STRONG, WORSE
from sparta_lite.show.runs import Overview, find_runs
from sparta_lite.show.text import clean, duration

_STYLES = {"running": BETTER, "failed": WORSE, "unreadable": WORSE, "stopped": FAINT}
_WIDTH = 200
"""Columns where there is no terminal: nothing is broken in a pipe."""


def list_runs(
    below: Annotated[Path, typer.Argument(metavar="DIR", help="Where to look.")] = RUNS,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object a line.")] = False,
) -> None:
    """Show every run below a directory, the newest last."""
    # Where nothing has been run there is no directory of runs yet: that is no mistake.
    found = find_runs(below) if below.is_dir() or below != RUNS else []
    if json:
        for run in found:
            typer.echo(json_text.dumps({**dataclasses.asdict(run), "path": str(run.path)}))
        return
    if not found:
        typer.echo(f"no runs yet in {below}/; `sparta-lite run` makes one")
        return
    console = Console()
    if not console.is_terminal:
        console.width = _WIDTH
    console.print(_table(below, found))
    for run in found:
        if run.note:
            console.print(Text(f"{_place(below, run)}: {clean(run.note)}", style=WORSE))


def _table(below: Path, runs: Sequence[Overview]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, header_style=FAINT, padding=(0, 1, 0, 0))
    table.add_column("run", style=STRONG, overflow="fold")
    table.add_column("status", no_wrap=True)
    for title in ("done", "duels", "tribe"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("base", overflow="ellipsis", no_wrap=True)
    table.add_column("accuracy", justify="right", style=STRONG, no_wrap=True)
    table.add_column("started", no_wrap=True)
    table.add_column("time", justify="right", no_wrap=True)
    for run in runs:
        started = "–" if run.started is None else time.strftime("%d %b %H:%M", time.localtime(run.started))
        table.add_row(
            Text(clean(_place(below, run))),
            Text(run.state, style=_STYLES.get(run.state, PLAIN)),
            f"{run.done}/{'–' if run.iterations is None else run.iterations}",
            "–" if run.duels is None else f"{run.duels:,}",
            "–" if run.tribe is None else str(run.tribe),
            Text("–" if run.base is None else clean(_short(run.base))),
            "–" if run.accuracy is None else f"{run.accuracy:.3f}",
            started,
            "–" if run.seconds is None else duration(run.seconds),
        )
    return table


def _place(below: Path, run: Overview) -> str:
    """As seen from the directory that was looked through; that one itself by its own name."""
    inside = run.path.relative_to(below)
    return str(inside if inside.parts else run.path)


def _short(base: str) -> str:
    """A directory by its last name; a hub id whole."""
    return Path(base).name if Path(base).is_absolute() else base
