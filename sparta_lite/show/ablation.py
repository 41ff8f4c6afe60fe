"""An ablation on the terminal: a line per run, what the run at hand is doing, and the table at the end."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, TextIO, cast

from rich import box
from rich.console import Console, Group, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from sparta_lite.ablation.running import RunBegins, RunEnds
from sparta_lite.campaign.events import (
    Evaluated,
    Event,
    PhaseProgress,
    PhaseStarted,
    RunStarted,
    Scored,
    Warned,
)
from sparta_lite.show.lines import BETTER, FAINT, STRONG, WORSE
from sparta_lite.show.outlet import Outlet
from sparta_lite.show.state import UNITS
from sparta_lite.show.text import clean, duration


class AblationView:
    """Lines that stay, and on a terminal two bars below them: the ablation's and the run's.

    Args:
        console: a write to it that fails silences the view, not the runs.
        bars: whether the console can draw over what it has drawn.
    """

    def __init__(self, console: Console, bars: bool) -> None:
        console.file = cast(TextIO, Outlet(console.file))
        self._console = console
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not bars,
        )
        self._whole = self._progress.add_task("runs", total=None)
        self._inner = self._progress.add_task("", total=None)
        self._iterations = 0
        self._began = 0.0
        self._values: dict[str, list[float]] = {}
        """Of the run at hand: task -> the tribe's latest figures."""
        self._warned: set[str] = set()

    def __enter__(self) -> AblationView:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._progress.stop()

    def __call__(self, event: Event | RunBegins | RunEnds) -> None:
        match event:
            case RunBegins():
                self._values, self._began = {}, time.monotonic()
                verb = "goes on" if event.resumed else "begins"
                self._say(f"{_where(event)} {verb}")
                self._progress.update(self._whole, total=event.runs, completed=event.number - 1)
            case RunEnds():
                self._progress.update(self._whole, total=event.runs, completed=event.number)
                self._say(f"{_where(event)} {self._end() if event.worked else 'was finished before'}")
            case RunStarted():
                self._iterations = event.iterations
            case PhaseStarted():
                shown = f"iteration {min(event.iteration + 1, self._iterations)}/{self._iterations}"
                self._progress.reset(
                    self._inner, total=event.total, description=f"{shown} {event.phase}, {UNITS[event.phase]}"
                )
            case PhaseProgress():
                self._progress.update(self._inner, completed=event.done, total=event.total)
            case Evaluated():
                self._values[event.task] = list(event.accuracy.values())
            case Scored():
                self._values[event.task] = [value for value in event.scores.values() if value is not None]
            case Warned() if event.message not in self._warned:
                self._warned.add(event.message)
                self._say(f"  warning: {clean(event.message)}")

    def _end(self) -> str:
        parts = [
            f"{clean(task)} mean {sum(values) / len(values):.3f}, best {max(values):.3f}"
            for task, values in self._values.items()
            if values
        ]
        return (
            "; ".join(["ends", *parts]).replace(";", ":", 1)
            + f" ({duration(time.monotonic() - self._began)})"
        )

    def _say(self, line: str) -> None:
        self._console.print(Text(line), soft_wrap=True)


def table(summary: Mapping[str, Any]) -> RenderableType:
    """The rows of an ablation's summary, for each task: figures, what they amount to, and what they cost."""
    rows: Sequence[Mapping[str, Any]] = summary["rows"]
    parts: list[RenderableType] = []
    for task in dict.fromkeys(row["task"] for row in rows):
        own = [row for row in rows if row["task"] == task]
        how = "the same seeds for all" if summary["paired"] else "other seeds for each"
        heading = f"\n{clean(task)}: {summary['seeds']} runs per arm, {how}; differences to {own[0]['arm']}"
        parts += [Text(heading, style=STRONG), _figures(own), *map(_verdict, own[1:]), _costs(own)]
    return Group(*parts, Text(f"intervals: {summary['intervals']}", style=FAINT))


def _figures(rows: Sequence[Mapping[str, Any]]) -> Table:
    made = _table("arm", "mean", "sd", "diff.", "95 % by t", "by bootstrap")
    for row in rows:
        made.add_row(
            clean(row["arm"]),
            _figure(row["mean"]),
            _figure(row["sd"]),
            _figure(row["difference"], "+.3f"),
            _between(row["low"], row["high"]),
            _between(row["bootstrap_low"], row["bootstrap_high"]),
        )
    return made


def _verdict(row: Mapping[str, Any]) -> Text:
    style = "" if not row["separable"] else BETTER if row["difference"] > 0 else WORSE
    return Text(f" {clean(row['arm'])}: ").append(row["verdict"], style=style)


def _costs(rows: Sequence[Mapping[str, Any]]) -> Table:
    costs = ("seconds", "answers", "references", "updates")
    made = _table("mean of runs", "start", "best", "worst", "best init", *costs)
    for row in rows:
        if row["kind"] == "arm":
            shown = [_figure(row[name]) for name in ("start", "best", "worst", "best_init")]
            spent = [_figure(row[name], ",.0f") for name in costs]
            made.add_row(clean(row["arm"]), *shown, *spent)
    return made


def _table(first: str, *others: str) -> Table:
    made = Table(box=box.SIMPLE_HEAD, header_style=FAINT, pad_edge=False)
    made.add_column(first, overflow="fold")
    for title in others:
        made.add_column(title, justify="right", no_wrap=True)
    return made


def _where(event: RunBegins | RunEnds) -> str:
    return f"[{event.number}/{event.runs}] {clean(event.run.arm)}, seed {event.run.config.seed}"


def _figure(value: float | None, form: str = ".3f") -> str:
    return "–" if value is None else f"{value:{form}}"


def _between(low: float | None, high: float | None) -> str:
    return "–" if low is None or high is None else f"{low:+.3f} to {high:+.3f}"
