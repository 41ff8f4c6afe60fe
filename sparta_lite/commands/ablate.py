"""``sparta-lite ablate``: the same campaign under several settings and seeds, and what tells them apart."""

from __future__ import annotations

import shlex
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sparta_lite.campaign.sources import require_sources
from sparta_lite.campaign.store import ABLATION
from sparta_lite.commands import places
from sparta_lite.commands.quiet import quiet_libraries
from sparta_lite.commands.usage import INTERRUPTED
from sparta_lite.errors import SpartaError

if TYPE_CHECKING:
    from sparta_lite.ablation.arms import Arm
    from sparta_lite.ablation.grid import Grid

_SEEDS = 5


def ablate(
    config: Annotated[
        Path | None,
        typer.Argument(metavar="CONFIG.yaml", help="What all arms share; none takes the pocket tribe."),
    ] = None,
    vary: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=A,B", help="Values of one setting; several make a grid of all."),
    ] = None,
    arms: Annotated[
        Path | None, typer.Option(metavar="FILE", help="In place of --vary: YAML, names and their settings.")
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(metavar="WORD", help="In place of --vary: reputation, matchmaking, size, or diversity."),
    ] = None,
    seeds: Annotated[int | None, typer.Option(help="Runs of every arm.", show_default=str(_SEEDS))] = None,
    paired: Annotated[bool, typer.Option("--paired", help="The same seeds for all arms.")] = False,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Go on with the ablation in --out; more arms and seeds may be given."),
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="The ablation's directory.", show_default="runs/<name>")
    ] = None,
    sets: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change one setting of all arms."),
    ] = None,
    plain: Annotated[bool, typer.Option("--plain", help="Print plain lines.")] = False,
) -> None:
    """Compare settings: every arm under several seeds, on one loaded base."""
    if sum(given is not None and given != [] for given in (vary, arms, preset)) > 1:
        raise SpartaError("--vary, --arms and --preset: choose one")
    again = [*(vary or []), *(sets or []), *(each for each in (config, arms, preset) if each)]
    if not resume and not (vary or arms or preset):
        raise SpartaError(
            "nothing to compare; give --preset, --arms, or --vary: --vary reputation.kind=paper,uniform"
        )
    if resume and again and not (vary or arms or preset):
        raise SpartaError("--resume: give all that the ablation was started with, or --out alone")
    quiet_libraries()
    from sparta_lite.ablation.grid import extended, new_grid, open_grid

    made = _arms(config, sets or [], vary or [], arms, preset) if again else None
    if resume:
        grid = extended(open_grid(out or _newest_unfinished()), made, seeds, paired)
    else:
        assert made is not None
        name = f"{config.stem if config else 'pocket'}-{preset or 'ablation'}"
        root = _free(out) if out else places.fresh(name)
        grid = new_grid(root, made, _SEEDS if seeds is None else seeds, paired)
    _require_sources(grid)
    _run(grid, plain)


def _arms(
    config: Path | None, sets: list[str], vary: list[str], file: Path | None, preset: str | None
) -> tuple[Arm, ...]:
    from sparta_lite.ablation.arms import from_file, from_preset, grid, load_arms

    if preset is not None:
        named = from_preset(preset, config, sets)
    else:
        named = grid(vary) if file is None else from_file(file)
    return load_arms(config, sets, named)


def _free(out: Path) -> Path:
    if (out / ABLATION).exists():
        raise SpartaError(f"{out}: holds an ablation; go on with it by --resume, or give another --out")
    places.require_free(out)
    return out


def _newest_unfinished() -> Path:
    from sparta_lite.ablation.grid import is_finished, open_grid

    found = sorted(places.RUNS.glob(f"*/{ABLATION}"), key=lambda path: path.stat().st_mtime, reverse=True)
    for record in found:
        if not all(map(is_finished, open_grid(record.parent).runs())):
            return record.parent
    raise SpartaError(f"{places.RUNS}/: holds no unfinished ablation; name one with --out")


def _require_sources(grid: Grid) -> None:
    """Refuse an arm that lacks something on this machine; finished runs need nothing of it."""
    from sparta_lite.ablation.arms import of_arm
    from sparta_lite.ablation.grid import is_finished

    for run in grid.runs():
        if not is_finished(run):
            with of_arm(run.arm):
                require_sources(run.config)


def _run(grid: Grid, plain: bool) -> None:
    from rich.console import Console

    from sparta_lite.ablation.running import AblationEvent, run_all
    from sparta_lite.ablation.summary import summarize, write_results
    from sparta_lite.campaign.events import Event
    from sparta_lite.show.ablation import AblationTrackers, AblationView, table
    from sparta_lite.show.live import can_show
    from sparta_lite.show.report.page import write_ablation_report

    place = shlex.quote(str(grid.root))
    # The bars must leave the terminal as it was, also when a batch system ends the work.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    console = Console()
    try:
        with (
            AblationTrackers(grid) as tracked,
            AblationView(console, not plain and can_show(console)) as view,
        ):

            def listener(event: Event | AblationEvent) -> None:
                view(event)
                tracked(event)

            run_all(grid, listener)
        summary = summarize(grid)
        write_results(grid.root, summary)
        write_ablation_report(grid.root, grid.root / "report.html")
    except KeyboardInterrupt as error:
        begun = (grid.root / ABLATION).exists()
        advice = f"; go on with `sparta-lite ablate --resume --out {place}`" if begun else ""
        typer.echo(f"interrupted{advice}", err=True)
        raise typer.Exit(INTERRUPTED) from error
    console.print(table(summary))
    typer.echo(f"all of it is in {place}: table.csv, table.json, summary.json, report.html, and every run")
