"""Plain lines: for log files, pipes, and terminals that cannot redraw."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import TextIO

from rich.console import Console

from sparta_lite.campaign.events import (
    Evaluated,
    Event,
    LearnsAlone,
    PhaseFinished,
    PhaseProgress,
    Planned,
    RunFinished,
    RunStarted,
    Scored,
    StandingsChanged,
    Warned,
)
from sparta_lite.show import remaining
from sparta_lite.show.outlet import Outlet
from sparta_lite.show.state import UNITS, Board, Round
from sparta_lite.show.summary import summary
from sparta_lite.show.text import clean, counted, duration, durations, harmless, rate

SECONDS_BETWEEN_REPORTS = 60
"""A phase that takes long says so often how far it is."""
SHORTEST_RATED = 0.1
"""Seconds; a rate over less says nothing."""
_WIDTH = 100


class PlainView:
    """One line per finished phase, standings and held-out accuracy per iteration, the summary at the end.

    Args:
        stream: a write to it that fails silences the view, not the run.
        earlier: the events of the processes that a resumed run goes on from.
    """

    def __init__(self, stream: TextIO, earlier: Iterable[Event] = ()) -> None:
        self._stream = Outlet(stream)
        self._board = Board()
        for event in earlier:
            self._board.update(event)
        self._reported = 0.0

    def __enter__(self) -> PlainView:
        return self

    def __call__(self, event: Event) -> None:
        self._board.update(event)
        for line in self._lines(event):
            self._stream.write(line + "\n")
        self._stream.flush()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        text = io.StringIO()
        Console(file=text, width=_WIDTH, no_color=True, color_system=None).print(summary(self._board))
        self._stream.write("".join(line.rstrip() + "\n" for line in text.getvalue().splitlines()))
        self._stream.flush()

    def _lines(self, event: Event) -> list[str]:
        match event:
            case PhaseProgress():
                return self._report(event)
            case PhaseFinished():
                self._reported = 0.0
                return self._finished_phase(event)
            case StandingsChanged() | Evaluated() | Scored() if self._board.round is None:
                return []  # a resumed run recalls what an earlier process has said
            case StandingsChanged():
                return [self._standings(event)] if event.standings and self._board.baseline is None else []
            case Evaluated():
                if event.task != self._board.task:
                    return [self._further(event.task, event.accuracy, event.base, event.unparsed, "unparsed")]
                return [self._held_out(sum(event.unparsed.values()))] if event.accuracy else []
            case Scored():
                return [self._further(event.task, event.scores, event.base, event.failed, "not judged")]
            case Planned():
                return [harmless(line) for line in event.brief or event.lines]
            case Warned():
                return [f"warning: {clean(event.message)}"]
            case RunStarted():
                return [_started(event), *map(clean, self._board.choices)]
            case LearnsAlone():
                return [f"{self._board.baseline}: {clean(event.adapter)} learns, all others stay as they are"]
            case RunFinished():
                return [f"finished in {duration(event.seconds)}"]
        return []

    def _where(self) -> str:
        run = self._board.run
        return f"[{self._board.iteration_shown}/{run.iterations}]" if run else ""

    def _report(self, event: PhaseProgress) -> list[str]:
        if event.seconds - self._reported < SECONDS_BETWEEN_REPORTS or event.done >= event.total:
            return []
        self._reported = event.seconds
        line = f"{event.done:,} of {event.total:,} {UNITS[event.phase]}"
        if (here := remaining.left_in_phase(self._board)) is not None:
            line += f", {duration(here)} left"
        if (left := remaining.left(self._board)) is not None:
            line += f" ({durations(left)} for the run)"
        return [f"{self._where()} {event.phase:<9} {line}"]

    def _finished_phase(self, event: PhaseFinished) -> list[str]:
        current = self._board.round
        if current is None or current.phase != event.phase:
            return []
        parts = [counted(current.total, UNITS[event.phase]), f"{event.seconds:.1f} s", *_rates(current)]
        return [f"{self._where()} {event.phase:<9} {', '.join(parts)}"]

    def _standings(self, event: StandingsChanged) -> str:
        places = [place for place in self._board.leaderboard() if place.standing is not None]
        ends = []
        for label, place in (("highest", places[0]), ("lowest", places[-1])):
            standing = place.standing
            assert standing is not None
            ends.append(
                f"{label} {self._named(place.adapter)} {standing.reputation:.2f} ±{standing.deviation:.2f}"
            )
        weights = [standing.weight for standing in event.standings.values()]
        ends.append(f"judge weights {min(weights):.2%} to {max(weights):.2%}")
        return f"{self._where()} standings {', '.join(ends)}"

    def _held_out(self, unparsed: int) -> str:
        now = self._board.held_out()[-1]
        line = f"{self._where()} held-out  "
        if self._board.learner is None:
            line += (
                f"mean {now.mean:.3f}, best {now.best:.3f} {clean(now.best_adapter)}, "
                f"worst {now.worst:.3f} {clean(now.worst_adapter)}"
            )
        else:
            line += f"{clean(self._board.learner)} {now.mean:.3f}"
        if self._board.best_init is not None:
            line += f"; best init {self._board.best_init:.3f}"
        line += f", bare base {now.base:.3f}"
        return line + _lost(unparsed, "unparsed")

    def _further(
        self,
        task: str,
        values: Mapping[str, float | None],
        base: float | None,
        lost: Mapping[str, int],
        said: str,
    ) -> str:
        """A task beside the first one, or one that is judged from 1 to 10."""
        judged = self._board.judged_by(values)
        known = {name: value for name, value in judged.items() if value is not None}
        line = f"{self._where()} {clean(task)}  "
        if known:
            best = max(known, key=known.__getitem__)
            line += f"mean {sum(known.values()) / len(known):.3f}, best {known[best]:.3f} {clean(best)}, "
        line += "bare base –" if base is None else f"bare base {base:.3f}"
        return line + _lost(sum(lost.values()), said)

    def _named(self, adapter: str) -> str:
        mark = self._board.mark(adapter)
        return clean(adapter) + (f" ({mark})" if mark else "")


def _lost(answers: int, said: str) -> str:
    return f"; {counted(answers, 'answers')} {said}" if answers else ""


def _started(event: RunStarted) -> str:
    verb = "resumes" if event.resumed else "starts"
    algorithm = "" if event.algorithm == "sparta" else f"{event.algorithm}, "
    tribe = f"{len(event.tribe)} adapters" + (f" ({len(event.hostile)} hostile)" if event.hostile else "")
    return (
        f"{clean(event.run)} {verb}: {algorithm}base {clean(event.base)}, {tribe}, "
        f"{event.iterations} x {counted(event.duels, 'duels')}, seed {event.seed}, {clean(event.device)}"
    )


def _rates(current: Round) -> list[str]:
    """Units and tokens a second, of this process alone."""
    units, seconds = current.measured
    rates = [rate(units / seconds)] if units > 0 and seconds >= SHORTEST_RATED else []
    if current.tokens and current.seconds > 0:
        rates.append(f"{current.tokens / current.seconds:,.0f} tokens/s")
    return rates
