"""The live view: the whole terminal while the run lasts, its results left behind afterwards."""

from __future__ import annotations

import contextlib
import io
import sys
import threading
import time
from collections.abc import Iterable
from types import TracebackType
from typing import TextIO, cast

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.segment import Segment
from rich.text import Text

from sparta_lite.campaign.events import Event
from sparta_lite.show.frame import frame
from sparta_lite.show.lines import WORSE
from sparta_lite.show.outlet import Outlet
from sparta_lite.show.state import Board
from sparta_lite.show.summary import summary
from sparta_lite.show.text import clean, harmless

REFRESHES_PER_SECOND = 2
"""A drawing takes two to three milliseconds: so it stays under a hundredth of one core."""


def can_show(console: Console) -> bool:
    """Whether ``console`` is a terminal that can move its cursor and draw the view's characters."""
    return console.is_terminal and not console.is_dumb_terminal and console.encoding.startswith("utf")


class LiveView:
    """Shows a run on the terminal's alternate screen, then prints the summary on the normal one.

    An event only updates the board; a thread draws it a few times a second, at the terminal's size of that
    moment. What other code prints meanwhile would spoil the picture: it is kept back and comes at the end.

    Args:
        console: must satisfy ``can_show``; a write to it that fails silences the view, not the run.
        earlier: the events of the processes that a resumed run goes on from.
        started: seconds since 1970 when the run began, where another process runs it; None: it begins now.
    """

    def __init__(self, console: Console, earlier: Iterable[Event] = (), started: float | None = None) -> None:
        console.file = cast(TextIO, Outlet(console.file))
        self._console = console
        self._board = Board()
        for event in earlier:
            self._board.update(event)
        self._lock = threading.Lock()
        self._passed = 0.0 if started is None else max(time.time() - started, 0.0)
        self._began = time.monotonic()
        self._strays = io.StringIO()
        self._exit = contextlib.ExitStack()

    def __enter__(self) -> LiveView:
        live = Live(
            console=self._console,
            screen=True,
            refresh_per_second=REFRESHES_PER_SECOND,
            get_renderable=lambda: self,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._began = time.monotonic()
        self._exit.enter_context(contextlib.redirect_stdout(self._strays))
        self._exit.enter_context(contextlib.redirect_stderr(self._strays))
        self._exit.enter_context(live)
        live.refresh()
        return self

    def __call__(self, event: Event) -> None:
        with self._lock:
            self._board.update(event)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._exit.close()
        Outlet(sys.stderr).write(self._strays.getvalue())
        for line in (*self._board.plan, *self._board.choices):
            self._console.print(Text(harmless(line)))
        for warning in self._board.warnings:
            self._console.print(Text(f"warning: {clean(warning)}", style=WORSE))
        self._console.print(summary(self._board))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width, height = options.size
        with self._lock:
            elapsed = self._passed + time.monotonic() - self._began
            lines = frame(self._board, width, height, elapsed)
        for line in lines:
            yield from line
            yield Segment.line()


class Still:
    """The live view as it stands after ``events``, drawn once: as many of ``height`` lines as it fills."""

    def __init__(self, events: Iterable[Event], elapsed: float, height: int) -> None:
        self._board = Board()
        for event in events:
            self._board.update(event)
        self._elapsed, self._height = elapsed, height

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        lines = frame(self._board, options.max_width, self._height - 2, self._elapsed)
        while lines and not lines[-1]:
            lines.pop()
        for line in lines:
            yield from line
            yield Segment.line()
