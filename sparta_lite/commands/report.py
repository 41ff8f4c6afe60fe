"""``sparta-lite report``: a run or an ablation as one HTML page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sparta_lite.campaign.store import ABLATION
from sparta_lite.commands.quiet import quiet_libraries
from sparta_lite.commands.unchecked import note_unchecked


def report(
    directory: Annotated[
        Path, typer.Argument(metavar="RUN|ABLATION", help="The directory of a run or of an ablation.")
    ],
    out: Annotated[
        Path | None, typer.Option(help="The file.", show_default="report.html in that directory")
    ] = None,
) -> None:
    """Write what a run or an ablation came to as one HTML file that needs no network."""
    quiet_libraries()
    from sparta_lite.show.report.page import write_ablation_report, write_run_report

    place = out or directory / "report.html"
    write = write_ablation_report if (directory / ABLATION).is_file() else write_run_report
    write(directory, place)
    note_unchecked(directory)
    typer.echo(f"{place} ({place.stat().st_size / 1e6:.1f} MB)")
