"""``sparta-lite report``: a run as one HTML page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sparta_lite.commands.quiet import quiet_libraries


def report(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run's directory.")],
    out: Annotated[Path | None, typer.Option(help="The file.", show_default="RUN/report.html")] = None,
) -> None:
    """Write what a run came to as one HTML file that needs no network."""
    quiet_libraries()
    from sparta_lite.show.report.page import write_run_report

    place = out or run / "report.html"
    write_run_report(run, place)
    typer.echo(f"{place} ({place.stat().st_size / 1e6:.1f} MB)")
