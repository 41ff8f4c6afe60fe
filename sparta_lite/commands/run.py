"""``sparta-lite run``: start a campaign, or go on with one."""

from __future__ import annotations

import contextlib
import shlex
import signal
import sys
from pathlib import Path
from typing import Annotated

import typer

from sparta_lite.campaign.config import Config, load_config, show_config
from sparta_lite.campaign.events import Evaluated, Event, Listener, Scored, read_events
from sparta_lite.campaign.sources import require_sources
from sparta_lite.campaign.store import Store
from sparta_lite.commands import places
from sparta_lite.commands.quiet import quiet_libraries
from sparta_lite.commands.usage import INTERRUPTED
from sparta_lite.errors import SpartaError
from sparta_lite.show.trackers import Trackers


def run(
    config: Annotated[
        Path | None, typer.Argument(metavar="CONFIG.yaml", help="Settings; none runs the pocket tribe.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="The run's directory.", show_default="runs/<name>-<seed>")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Replaces the seed of the settings.")] = None,
    sets: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change one setting: --set reputation.kind=uniform."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in --out, or the newest unfinished one.")
    ] = False,
    plain: Annotated[bool, typer.Option("--plain", help="Print plain lines.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one event a line, as JSON.")] = False,
    show: Annotated[bool, typer.Option("--show-config", help="Print all settings and stop.")] = False,
) -> None:
    """Let the tribe duel, judge and learn."""
    if plain and json:
        raise SpartaError("--plain and --json: choose one")
    if resume:
        out = out or places.newest_unfinished()
        settings = _recorded(out, config, sets or [], seed)
    else:
        settings = load_config(config, sets or [], seed)
    if show:
        typer.echo(show_config(settings), nl=False)
        return
    if not resume:
        out = _new(out, config, settings)
    assert out is not None
    require_sources(settings)
    _campaign(settings, out, resume, plain, json)


def _recorded(out: Path, config: Path | None, sets: list[str], seed: int | None) -> Config:
    """What the run in ``out`` was started with; settings that are given again must say the same."""
    recorded = out / "config.yaml"
    if not recorded.is_file():
        raise SpartaError(f"{out}: no run to resume there; leave --resume out to start one")
    return load_config(config or recorded, sets, seed)


def _new(out: Path | None, config: Path | None, settings: Config) -> Path:
    if out is not None:
        places.require_free(out)
        if config is not None and config.resolve() == (out / "config.yaml").resolve():
            raise SpartaError(f"{config}: the run would overwrite it; give --out another directory")
        return out
    name = Path(settings.base).name if config is None else config.stem
    with contextlib.suppress(SpartaError):  # another run's damage is no matter of this one
        if stopped := next(places.unfinished(), None):
            typer.echo(f"note: {stopped} is unfinished; `{_resuming(stopped)}` goes on with it", err=True)
    return places.fresh(f"{name}-{settings.seed}")


def _campaign(settings: Config, out: Path, resume: bool, plain: bool, json: bool) -> None:
    quiet_libraries()
    # The view must leave the terminal as it was, also when a batch system ends the run.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    measured = False
    try:
        earlier = _earlier(out) if resume else []
        tracked = Trackers(settings.trackers, out, settings.model_dump(), earlier)
        with tracked, _view(plain, json, earlier) as view:
            from sparta_lite.campaign.loop import run as campaign

            def listener(event: Event) -> None:
                nonlocal measured
                measured = measured or isinstance(event, Evaluated | Scored)
                view(event)
                tracked(event)

            campaign(settings, out, resume, listener)
        if not json:
            typer.echo(_whats_next(out, measured))
    except KeyboardInterrupt as error:
        advice = f"; go on with `{_resuming(out)}`" if (out / "run.json").is_file() else ""
        typer.echo(f"interrupted{advice}", err=True)
        raise typer.Exit(INTERRUPTED) from error


def _view(plain: bool, json: bool, earlier: list[Event]) -> contextlib.AbstractContextManager[Listener]:
    if json:
        from sparta_lite.show.json_lines import JsonView

        return JsonView(sys.stdout)
    from rich.console import Console

    from sparta_lite.show.live import LiveView, can_show
    from sparta_lite.show.outlet import Outlet
    from sparta_lite.show.plain import PlainView

    console = Console()
    if not plain and can_show(console):
        return LiveView(console, earlier)
    stream = Outlet(sys.stdout)
    stream.write("loading ...\n")  # the libraries alone take seconds
    stream.flush()
    return PlainView(sys.stdout, earlier)


def _whats_next(out: Path, measured: bool) -> str:
    """Where a finished run is and what can be done with it; what would be refused is not offered."""
    place = shlex.quote(str(out))
    further = "`eval`, `chat` or `export`" if measured else "`chat` or `export --adapter NAME`"
    return (
        f"all of it is in {place}; look at it with `sparta-lite report {place}` or `audit`, "
        f"go on with {further}"
    )


def _earlier(out: Path) -> list[Event]:
    """What the processes before this one told."""
    store = Store(out)
    return read_events(store.content(store.events), store.events) if store.events.is_file() else []


def _resuming(out: Path) -> str:
    return f"sparta-lite run --resume --out {shlex.quote(str(out))}"
