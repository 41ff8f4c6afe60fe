"""``sparta-lite watch``: the live view of a run that another process makes, or has made."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from sparta_lite.campaign.events import Event, Listener
from sparta_lite.commands.quiet import quiet_libraries
from sparta_lite.errors import SpartaError
from sparta_lite.show.follow import Tail, condition
from sparta_lite.show.live import LiveView, Still, can_show
from sparta_lite.show.plain import PlainView

_LOOK_EVERY = 0.5  # seconds
_HEIGHT = 40
"""Lines of one drawing where there is no terminal to fill."""


def watch(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run's directory; it may not have begun yet.")],
    once: Annotated[bool, typer.Option("--once", help="Draw how it stands and stop.")] = False,
) -> None:
    """Show a run that goes on in another terminal, or how one ended. It reads the run's files alone."""
    quiet_libraries()
    tail = Tail(run)
    state = condition(run)
    if state is None and once:
        raise SpartaError(f"{run}: no run has begun there; leave --once out to wait for it")
    try:
        if state is None:
            typer.echo(f"waiting for a run in {run}; Ctrl-C ends this", err=True)
            state = _awaited(run)
        if once or state != "running":
            _draw(tail)
        else:
            state = _follow(run, tail)
    except KeyboardInterrupt:
        return  # the way to leave a run that goes on
    typer.echo(_said(run, state, tail.latest))


def _awaited(run: Path) -> str:
    while (state := condition(run)) is None:
        time.sleep(_LOOK_EVERY)
    return state


def _draw(tail: Tail) -> None:
    console = Console()
    events = tail.read()
    elapsed = 0.0 if tail.started is None or tail.latest is None else tail.latest - tail.started
    console.print(Still(events, elapsed, console.height if console.is_terminal else _HEIGHT))


def _follow(run: Path, tail: Tail) -> str:
    """Show what happens until no process works on the run any more; how it stands then."""
    console = Console()
    earlier = _first(run, tail)
    live = can_show(console)
    with LiveView(console, earlier, tail.started) if live else PlainView(sys.stdout, earlier) as view:
        while True:
            # Asked before the file is read, so that nothing which was told before the end is missed.
            state = condition(run)
            _tell(view, tail.read())
            if state != "running":
                return state or "stopped"
            time.sleep(_LOOK_EVERY)


def _first(run: Path, tail: Tail) -> list[Event]:
    """What was told so far; a run that loads its base says nothing for a while."""
    events = tail.read()
    while tail.started is None and condition(run) == "running":
        time.sleep(_LOOK_EVERY)
        events += tail.read()
    return events


def _tell(view: Listener, events: list[Event]) -> None:
    for event in events:
        view(event)


def _said(run: Path, state: str, latest: float | None) -> str:
    """One line on how the run stands."""
    if state == "running":
        return f"{run} is running"
    if state == "finished":
        return f"{run} is finished"
    when = (
        ""
        if latest is None
        else f"; its last sign of life is of {time.strftime('%d %b, %H:%M', time.localtime(latest))}"
    )
    return f"{run} {'failed' if state == 'failed' else 'was stopped'}{when}"
