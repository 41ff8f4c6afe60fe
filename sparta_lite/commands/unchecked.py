"""What is said, once, of a run whose files nothing vouches for."""

from __future__ import annotations

from pathlib import Path

import typer

from sparta_lite.campaign.run_record import UNCHECKED
from sparta_lite.campaign.store import Store


def note_unchecked(run: Path) -> None:
    """Note on standard error that a run was begun by a version that kept no digests, where one was."""
    store = Store(run)
    if store.run.is_file() and store.digests() is None:
        typer.echo(f"note: {run} {UNCHECKED}", err=True)
