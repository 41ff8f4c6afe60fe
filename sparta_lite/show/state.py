"""What a run looks like now, folded from its events."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from sparta_lite.campaign.events import (
    AdapterStanding,
    DuelDecided,
    Evaluated,
    Event,
    LearnsAlone,
    Phase,
    PhaseFinished,
    PhaseProgress,
    PhaseStarted,
    Planned,
    RunFinished,
    RunStarted,
    StandingsChanged,
    TrainingStep,
    Warned,
)

Figure = TypeVar("Figure", float, float | None)

ITERATION: tuple[Phase, ...] = ("match", "generate", "judge", "settle", "train")
PHASES: tuple[Phase, ...] = (*ITERATION, "evaluate")
UNITS: dict[Phase, str] = {
    "match": "duels",
    "generate": "responses",
    "judge": "judgments",
    "settle": "duels",
    "train": "steps",
    "evaluate": "answers",
}


@dataclass
class Round:
    """One phase of one iteration, as far as it has come."""

    phase: Phase
    iteration: int
    total: int
    done: int = 0
    seconds: float = 0.0
    """Spent by this process."""
    tokens: int = 0
    """Processed by this process."""
    inherited: tuple[int, float] | None = None
    """Units done, and seconds passed, when this process began to measure; None before its first report."""

    @property
    def measured(self) -> tuple[int, float]:
        """Units done by this process, and the seconds they took."""
        units, seconds = self.inherited or (self.done, self.seconds)
        return self.done - units, self.seconds - seconds


@dataclass(frozen=True)
class HeldOut:
    """The tribe on held-out items after ``iteration`` iterations."""

    iteration: int
    mean: float
    best: float
    worst: float
    best_adapter: str
    worst_adapter: str
    base: float


@dataclass(frozen=True)
class Place:
    """One adapter's line of the leaderboard."""

    adapter: str
    standing: AdapterStanding | None
    accuracy: float | None
    change: float | None
    """Since iteration 0."""
    history: tuple[float | None, ...]
    """Accuracy after 0, 1, 2, ... iterations; None where it was not measured."""
    failed_votes: int


@dataclass
class Board:
    """Everything that a view shows. ``update`` takes a few microseconds.

    A resumed run's earlier events may be folded in first: the next ``RunStarted`` keeps what they told and
    forgets only what another process measured.
    """

    run: RunStarted | None = None
    round: Round | None = None
    finished: RunFinished | None = None
    learned: int = 0
    """Iterations whose training is over."""
    tokens_per_second: float | None = None
    memory: int | None = None
    task: str | None = None
    """The task whose accuracy is shown: the first that was measured."""
    evaluations: dict[int, Evaluated] = field(default_factory=dict)
    standings: dict[str, AdapterStanding] = field(default_factory=dict)
    duel: DuelDecided | None = None
    training: TrainingStep | None = None
    failed_votes: Counter[str] = field(default_factory=Counter)
    alone: str | None = None
    """Who learns alone, once that was told."""
    warnings: list[str] = field(default_factory=list)
    plan: tuple[str, ...] = ()
    """What was said of the memory plan."""
    planned: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """Phase -> the least and the most seconds that a round of it was planned to take."""
    _duels: set[tuple[int, int]] = field(default_factory=set)
    measured_rounds: dict[Phase, tuple[int, float]] = field(default_factory=dict)
    """Units and seconds of this process's finished rounds."""
    totals: dict[Phase, int] = field(default_factory=dict)
    """Units in a phase's latest round."""
    _first_iteration: int | None = None
    """Of this process."""

    def update(self, event: Event) -> None:
        """Fold one more event in."""
        match event:
            case PhaseProgress():
                self._progress(event)
            case DuelDecided():
                self._decide(event)
            case TrainingStep():
                self.training = event
            case PhaseStarted():
                self._begin(event)
            case PhaseFinished():
                self._finish(event)
            case StandingsChanged():
                self.standings = event.standings
            case Evaluated():
                self.task = self.task or event.task
                if event.accuracy and event.task == self.task:
                    self.evaluations[event.iteration] = event
            case LearnsAlone():
                self.alone = event.adapter
            case Planned():
                self.plan = event.brief or event.lines
                self.planned = event.seconds
            case Warned():
                self.warnings.append(event.message)
            case RunStarted():
                self._start(event)
            case RunFinished():
                self.finished = event

    @property
    def adapters(self) -> tuple[str, ...]:
        """The tribe, in its own order."""
        return self.run.tribe if self.run else tuple(self.standings)

    @property
    def choices(self) -> list[str]:
        """What the settings left to the machine, and why, in lines."""
        return [f"{name}: {choice}" for name, choice in self.run.choices.items()] if self.run else []

    @property
    def iteration_shown(self) -> int:
        """The current iteration counted from 1, as people do; 0 while the untrained tribe is evaluated."""
        if self.round is None or self.round.phase == "evaluate":
            return self.learned
        return self.round.iteration + 1

    @property
    def training_now(self) -> TrainingStep | None:
        """The latest optimizer step while the tribe trains, else None."""
        training = self.round is not None and self.round.phase == "train" and self.finished is None
        return self.training if training else None

    @property
    def hostile(self) -> tuple[str, ...]:
        return self.run.hostile if self.run else ()

    @property
    def baseline(self) -> str | None:
        """The algorithm of a run in which one adapter learns alone; None where the tribe learns together."""
        return self.run.algorithm if self.run is not None and self.run.algorithm != "sparta" else None

    @property
    def learner(self) -> str | None:
        """Who learns alone; None while that is not known yet, and where the tribe learns together."""
        if self.baseline is None or self.alone is not None:
            return self.alone
        return None if self.duel is None else self.duel.fighters[0]

    def mark(self, adapter: str) -> str:
        """What sets an adapter apart from the others, in a word; empty for most."""
        return "hostile" if adapter in self.hostile else "learns" if adapter == self.learner else ""

    @property
    def best_init(self) -> float | None:
        """Held-out accuracy of the best adapter before the first iteration, hostile ones left out."""
        if 0 not in self.evaluations:
            return None
        first = self.evaluations[0].accuracy
        return max(value for name, value in first.items() if name not in self.hostile)

    def held_out(self) -> tuple[HeldOut, ...]:
        """Every measured iteration, oldest first; empty for data without ground truth.

        Of all adapters that are not hostile, or of the one that learns alone.
        """
        events = [self.evaluations[iteration] for iteration in sorted(self.evaluations)]
        return tuple(_held_out(event, self.judged_by(event.accuracy)) for event in events)

    def judged_by(self, figures: Mapping[str, Figure]) -> dict[str, Figure]:
        """Those of whom a run is judged by: of all but hostile adapters, or of the one that learns alone."""
        if self.learner is not None:
            return {self.learner: figures[self.learner]}
        return {name: value for name, value in figures.items() if name not in self.hostile}

    def leaderboard(self) -> list[Place]:
        """All adapters, the highest reputation first; in the tribe's order before the first standings."""
        latest = max(self.evaluations, default=0)
        places = [self._place(adapter, latest) for adapter in self.adapters]
        return sorted(places, key=lambda place: -place.standing.reputation if place.standing else 0.0)

    def _start(self, event: RunStarted) -> None:
        self.run = event
        self.round = self.finished = self.tokens_per_second = self.memory = self._first_iteration = None
        self.measured_rounds.clear()

    def _begin(self, event: PhaseStarted) -> None:
        self._store_round()
        if self._first_iteration is None:
            self._first_iteration = event.iteration
        if event.phase != "evaluate" or not self.evaluations:
            self.learned = event.iteration
        self.round = Round(event.phase, event.iteration, event.total)
        self.totals[event.phase] = event.total
        if not self._may_inherit(event.iteration):
            self.round.inherited = (0, 0.0)

    def _may_inherit(self, iteration: int) -> bool:
        """Only the phases of the iteration in which a run was resumed can hold another process's work."""
        return self.run is not None and self.run.resumed and iteration == self._first_iteration

    def _progress(self, event: PhaseProgress) -> None:
        current = self.round
        if current is None or (current.phase, current.iteration) != (event.phase, event.iteration):
            return
        current.done, current.total = event.done, event.total
        current.seconds, current.tokens = event.seconds, event.tokens
        if current.inherited is None:
            current.inherited = (event.done, event.seconds)
        self.totals[event.phase] = event.total
        self.memory = event.memory
        self._measure_tokens(current)

    def _finish(self, event: PhaseFinished) -> None:
        current = self.round
        if current is not None and (current.phase, current.iteration) == (event.phase, event.iteration):
            current.done = current.total
            current.seconds, current.tokens = event.seconds, event.tokens
            self._measure_tokens(current)
        if event.phase == "train":
            self.learned = event.iteration + 1

    def _measure_tokens(self, current: Round) -> None:
        if current.tokens and current.seconds > 0:
            self.tokens_per_second = current.tokens / current.seconds

    def _store_round(self) -> None:
        if self.round is not None:
            units, seconds = self.measured_rounds.get(self.round.phase, (0, 0.0))
            more_units, more_seconds = self.round.measured
            self.measured_rounds[self.round.phase] = (units + more_units, seconds + more_seconds)

    def _decide(self, event: DuelDecided) -> None:
        self.duel = event
        if (event.iteration, event.duel) not in self._duels:  # a resumed run may settle a duel twice
            self._duels.add((event.iteration, event.duel))
            for judge, votes in event.votes.items():
                self.failed_votes[judge] += votes.count(None)

    def _place(self, adapter: str, latest: int) -> Place:
        history = tuple(
            self.evaluations[iteration].accuracy.get(adapter) if iteration in self.evaluations else None
            for iteration in range(latest + 1)
        )
        accuracy, first = history[-1], history[0]
        change = accuracy - first if accuracy is not None and first is not None and latest > 0 else None
        return Place(
            adapter, self.standings.get(adapter), accuracy, change, history, self.failed_votes[adapter]
        )


def _held_out(event: Evaluated, accuracy: dict[str, float]) -> HeldOut:
    best = max(accuracy, key=accuracy.__getitem__)
    worst = min(accuracy, key=accuracy.__getitem__)
    mean = sum(accuracy.values()) / len(accuracy)
    return HeldOut(event.iteration, mean, accuracy[best], accuracy[worst], best, worst, event.base)
