"""An ablation on the terminal: a line per run, what the run at hand is doing, and the table at the end."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from statistics import fmean
from types import TracebackType
from typing import Any, TextIO, cast

from rich import box
from rich.console import Console, Group, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from sparta_lite.ablation.grid import Grid, is_finished
from sparta_lite.ablation.running import AblationEvent, RunBegins, RunEnds, RunFails
from sparta_lite.campaign.events import (
    Evaluated,
    Event,
    PhaseProgress,
    PhaseStarted,
    Scored,
    Warned,
    read_events,
)
from sparta_lite.campaign.store import Store
from sparta_lite.show.lines import BETTER, FAINT, STRONG, WORSE
from sparta_lite.show.outlet import Outlet
from sparta_lite.show.state import UNITS, Board
from sparta_lite.show.text import clean, counted, duration
from sparta_lite.show.trackers import Trackers, require_trackers

_UNTRAINED = {"best init": " (before training)", "bare base": " (no adapter)"}
"""What the rows are that are no arms."""

_ADAPTERS = (
    "start: mean before training; gain: the mean above, less it; best and worst: adapters after training; "
    "best init: the best of all before it"
)

_ENDS = {"start": ".3f", "gain": "+.3f", "best": ".3f", "worst": ".3f", "best_init": ".3f"}

_COSTS = dict.fromkeys(("seconds", "answers", "references", "updates"), ",.0f")

_SPENT = (
    "seconds: of duels, judging and training, without loading and held-out questions; answers: generated in "
    "duels; references: answers from the data, where a baseline needs them; updates: optimizer steps at a "
    "learning rate above 0, of every adapter that learns"
)


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
        self._board = Board()
        """Of the run at hand."""
        self._began = 0.0
        self._values: dict[str, Mapping[str, float | None]] = {}
        """Of the run at hand: task -> adapter -> its latest figure."""
        self._warned: set[str] = set()

    def __enter__(self) -> AblationView:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._progress.stop()

    def __call__(self, event: Event | AblationEvent) -> None:
        if not isinstance(event, AblationEvent):
            self._board.update(event)
        match event:
            case RunBegins():
                self._board, self._values, self._began = Board(), {}, time.monotonic()
                verb = "goes on" if event.resumed else "begins"
                self._say(f"{_where(event)} {verb}")
                self._progress.update(self._whole, total=event.runs, completed=event.number - 1)
            case RunEnds():
                self._progress.update(self._whole, total=event.runs, completed=event.number)
                self._say(f"{_where(event)} {self._end() if event.worked else 'was finished before'}")
            case RunFails():
                self._progress.update(self._whole, total=event.runs, completed=event.number)
                self._say(f"{_where(event)} failed: {clean(event.why)}")
            case PhaseStarted():
                iterations = 0 if self._board.run is None else self._board.run.iterations
                shown = f"iteration {min(event.iteration + 1, iterations)}/{iterations}"
                self._progress.reset(
                    self._inner, total=event.total, description=f"{shown} {event.phase}, {UNITS[event.phase]}"
                )
            case PhaseProgress():
                self._progress.update(self._inner, completed=event.done, total=event.total)
            case Evaluated():
                self._values[event.task] = event.accuracy
            case Scored():
                self._values[event.task] = event.scores
            case Warned() if event.message not in self._warned:
                self._warned.add(event.message)
                self._say(f"  warning: {clean(event.message)}")

    def _end(self) -> str:
        """What the adapters came to that the run is judged by, and how long it took."""
        parts = []
        for task, figures in self._values.items():
            values = list(self._board.judged_by(figures).values())
            known = [value for value in values if value is not None]
            measured = len(known) == len(values)  # a mean of what is not known is not known
            said = f"mean {fmean(known):.3f}, best {max(known):.3f}" if measured else "not measured"
            parts.append(f"{clean(task)} {said}")
        reached = f"ends: {'; '.join(parts)}" if parts else "ends"
        return f"{reached} ({duration(time.monotonic() - self._began)})"

    def _say(self, line: str) -> None:
        self._console.print(Text(line), soft_wrap=True)


class AblationTrackers:
    """Passes every run of an ablation on to the trackers of its settings, named after its arm and its seed.

    Raises:
        SpartaError: a tracker's library is not installed, and a run that is not finished asks for it.
    """

    def __init__(self, grid: Grid) -> None:
        self._grid = grid
        self._open = ExitStack()
        self._tracked: Trackers | None = None
        for run in grid.runs():
            if not is_finished(run):
                require_trackers(run.config.trackers)

    def __enter__(self) -> AblationTrackers:
        return self

    def __call__(self, event: Event | AblationEvent) -> None:
        match event:
            case RunBegins():
                self._tracked = self._open.enter_context(self._trackers(event))
            case RunEnds() | RunFails():
                self._open.close()
                self._tracked = None
            case _ if self._tracked is not None:
                self._tracked(event)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._open.close()

    def _trackers(self, event: RunBegins) -> Trackers:
        run = event.run
        store = Store(run.path)
        resumed = event.resumed and store.events.is_file()
        earlier = read_events(store.content(store.events), store.events) if resumed else []
        # The ablation's own name is in it: Trackio takes up a run of the same name.
        name = f"{self._grid.root.resolve().name}, {run.arm}, seed {run.config.seed}"
        return Trackers(run.config.trackers, run.path, run.config.model_dump(), earlier, name)


def table(summary: Mapping[str, Any]) -> RenderableType:
    """The rows of an ablation's summary, for each task: figures, what they amount to, and what they cost."""
    rows: Sequence[Mapping[str, Any]] = summary["rows"]
    parts: list[RenderableType] = []
    for task in dict.fromkeys(row["task"] for row in rows):
        own = [row for row in rows if row["task"] == task]
        how = "the same seeds for all" if summary["paired"] else "other seeds for each"
        runs = f"{counted(summary['seeds'], 'runs')} per arm"
        heading = f"\n{clean(task)}: {runs}, {how}; differences to {clean(own[0]['arm'])}"
        arms = [row for row in own if row["kind"] == "arm"]
        parts += [Text(heading, style=STRONG), _figures(own), *map(_verdict, own[1:])]
        parts.append(Text(f"best init and bare base: of the runs of {clean(own[0]['arm'])}", style=FAINT))
        parts += [_means(arms, _ENDS), Text(_ADAPTERS, style=FAINT)]
    # What the arms cost is the same for every task: it stands once.
    arms = [row for row in rows if row["kind"] == "arm" and row["task"] == rows[0]["task"]]
    parts += [_means(arms, _COSTS), Text(_SPENT, style=FAINT)]
    parts += [_warning(each, summary["seeds"]) for each in summary["warnings"]]
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
    which = clean(row["arm"]) + ("" if row["kind"] == "arm" else _UNTRAINED[row["arm"]])
    return Text(f" {which}: ").append(row["verdict"], style=style)


def _warning(warning: Mapping[str, Any], seeds: int) -> Text:
    """A text of the runs, how many like it there are, and whose runs they are."""
    whose = ", ".join(f"{clean(arm)} ({count} of {seeds})" for arm, count in warning["runs"].items())
    others = warning["alike"] - 1
    alike = f" (and {others:,} like it, with other numbers)" if others else ""
    return Text(f"warning in runs of {whose}: {clean(warning['text'])}{alike}", style=WORSE)


def _means(arms: Sequence[Mapping[str, Any]], forms: Mapping[str, str]) -> Table:
    """Columns of the summary, each in its form."""
    made = _table("mean of runs", *(name.replace("_", " ") for name in forms))
    for row in arms:
        made.add_row(clean(row["arm"]), *(_figure(row[name], form) for name, form in forms.items()))
    return made


def _table(first: str, *others: str) -> Table:
    made = Table(box=box.SIMPLE_HEAD, header_style=FAINT, pad_edge=False)
    made.add_column(first, overflow="fold")
    for title in others:
        made.add_column(title, justify="right", no_wrap=True)
    return made


def _where(event: AblationEvent) -> str:
    return f"[{event.number}/{event.runs}] {clean(event.run.arm)}, seed {event.run.config.seed}"


def _figure(value: float | None, form: str = ".3f") -> str:
    return "–" if value is None else f"{value:{form}}"


def _between(low: float | None, high: float | None) -> str:
    return "–" if low is None or high is None else f"{low:+.3f} to {high:+.3f}"
