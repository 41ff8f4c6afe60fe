"""What a campaign tells whoever watches: small frozen records, one JSON line each.

The live view, the plain lines and ``events.jsonl`` are all fed by the same stream.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import Field

from sparta_lite.campaign.records import Score, Share
from sparta_lite.errors import SpartaError, shown
from sparta_lite.typed import RESTORE, Count, Form, Moment, Number, Positive, Seconds

Phase = Literal["evaluate", "match", "generate", "judge", "settle", "train"]


@dataclass(frozen=True)
class RunStarted:
    run: str
    base: str
    device: str
    tribe: Annotated[tuple[str, ...], Field(min_length=2)]
    iterations: Annotated[int, Field(ge=1, le=10**6)]
    duels: Positive
    seed: Count
    resumed: bool
    choices: dict[str, str] = field(default_factory=dict)
    """What the settings left to the machine, such as ``dtype``: what was chosen, and why."""
    algorithm: str = "sparta"
    hostile: tuple[str, ...] = ()
    """The adapters that were told to spoil the duels."""


@dataclass(frozen=True)
class LearnsAlone:
    """Who learns where the algorithm is a baseline; told as soon as it is known."""

    adapter: str


@dataclass(frozen=True)
class Planned:
    lines: tuple[str, ...]
    """The memory plan, for people."""
    memory: dict[str, Count]
    """Phase -> the bytes that it is planned to need, reserve included."""
    available: Count
    """Bytes."""
    brief: tuple[str, ...] = ()
    """What a view says in place of ``lines``; empty: it says those."""
    seconds: dict[str, tuple[Seconds, Seconds]] = field(default_factory=dict)
    """Phase -> the least and the most that one round of it is estimated to take."""


@dataclass(frozen=True)
class PhaseStarted:
    iteration: Count
    phase: Phase
    total: Count
    """Units of work: responses to generate, responses to judge, optimizer steps, items to evaluate."""


@dataclass(frozen=True)
class PhaseProgress:
    iteration: Count
    phase: Phase
    done: Count
    total: Count
    tokens: Count
    """Tokens processed so far in this phase by this process."""
    seconds: Seconds
    """Seconds spent so far in this phase by this process."""
    memory: Count
    """Bytes in use: peak resident size on the CPU, peak allocated memory on a GPU."""


@dataclass(frozen=True)
class PhaseFinished:
    iteration: Count
    phase: Phase
    seconds: Seconds
    tokens: Count


@dataclass(frozen=True)
class DuelDecided:
    iteration: Count
    duel: Count
    instruction: str
    fighters: tuple[str, str]
    responses: tuple[str, str]
    votes: dict[str, tuple[Score | None, Score | None]]
    """Judge -> its scores of both responses; None is a judgment that failed, which is no vote."""
    scores: tuple[Score, Score] | None
    """Aggregated scores; None when no judge cast a valid vote."""
    winner: str | None


@dataclass(frozen=True)
class AdapterStanding:
    reputation: Number
    deviation: Number
    wins: Count
    losses: Count
    draws: Count
    weight: Share
    """Its share of all judges' weight, 1 / adapters when all count alike."""


@dataclass(frozen=True)
class StandingsChanged:
    iteration: Count
    standings: dict[str, AdapterStanding]
    """After the iteration's last duel; wins, losses and draws since the run began, duels with oneself left
    out."""


@dataclass(frozen=True)
class TrainingStep:
    iteration: Count
    step: Count
    steps: Count
    loss: dict[str, Number]
    margin: dict[str, Number]


@dataclass(frozen=True)
class Evaluated:
    iteration: Count
    """Number of iterations the adapters have learned from: 0 before the first."""
    accuracy: Annotated[dict[str, Share], Field(min_length=1)]
    base: Share
    """Accuracy of the bare base, without an adapter."""
    task: str = "pocket"
    unparsed: dict[str, Count] = field(default_factory=dict)
    """Per adapter the answers in which none could be found; they count as not right."""


@dataclass(frozen=True)
class Scored:
    """An evaluation in a task without right answers, which the bare base judges."""

    iteration: Count
    """Number of iterations the adapters have learned from: 0 before the first."""
    scores: dict[str, Score | None]
    """Mean score from 1 to 10; None where no judgment was valid."""
    base: Score | None
    """That of the bare base's own answers."""
    task: str
    failed: dict[str, Count]
    """Per adapter the answers whose judgment failed; they are in no mean."""


@dataclass(frozen=True)
class Warned:
    message: str


@dataclass(frozen=True)
class RunFinished:
    seconds: Seconds


Event = (
    RunStarted
    | LearnsAlone
    | Planned
    | PhaseStarted
    | PhaseProgress
    | PhaseFinished
    | DuelDecided
    | StandingsChanged
    | TrainingStep
    | Evaluated
    | Scored
    | Warned
    | RunFinished
)

Listener = Callable[[Event], None]


def to_row(event: Event, time: float) -> dict[str, Any]:
    """The event as a JSON object: ``{"event": "DuelDecided", "time": seconds since 1970, ...}``."""
    return {"event": type(event).__name__, "time": round(time, 3)} | dataclasses.asdict(event)


@dataclass(frozen=True)
class Stamped:
    """An event, and when it happened, in seconds since 1970."""

    event: Event
    time: float


class EventReader:
    """Reads the events of one run, line by line: each has to be an event of the run that began above it.

    Args:
        path: what the lines are said to be of.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._line = 0
        self._run: RunStarted | None = None

    def read(self, line: bytes) -> Stamped:
        """The event of the next line.

        Raises:
            SpartaError: it is none of this version, or does not fit its run.
        """
        self._line += 1
        where = f"{self._path}, line {self._line}"
        stamp = _STAMP.of(line, where)
        if stamp.event not in _FORMS:
            raise SpartaError(f"{where}: no event is called {shown(stamp.event)}; {RESTORE}")
        event: Event = _FORMS[stamp.event].of(line, where)
        if wrong := self._fault(event):
            raise SpartaError(f"{where}: {wrong}; {RESTORE}")
        if isinstance(event, RunStarted):
            self._run = event
        return Stamped(event, stamp.time)

    def _fault(self, event: Event) -> str | None:
        run = self._run
        if isinstance(event, RunStarted):
            return _wrong_start(event, run)
        if isinstance(event, Planned | Warned | RunFinished):
            return None
        if run is None:
            return f"{type(event).__name__} before any run has begun"
        return _wrong_place(event, run) or _wrong_names(event, run)


def read_events(data: bytes, path: Path) -> list[Event]:
    """All events of a run's ``events.jsonl``.

    Raises:
        SpartaError: a whole line is no event, or does not fit the others.
    """
    reader = EventReader(path)
    return [reader.read(line).event for line in data.split(b"\n")[:-1]]


@dataclass(frozen=True)
class _Stamp:
    event: str
    time: Moment


_STAMP = Form(_Stamp)
_FORMS: dict[str, Form[Any]] = {kind.__name__: Form(kind) for kind in get_args(Event)}


def _wrong_start(event: RunStarted, before: RunStarted | None) -> str | None:
    if len(set(event.tribe)) < len(event.tribe) or not set(event.hostile) < set(event.tribe):
        return "its tribe and its hostile adapters do not fit each other"
    same = before is None or all(getattr(event, key) == getattr(before, key) for key in _LASTING)
    return None if same else "is not of the run that began above"


_LASTING = ("tribe", "iterations", "duels", "seed", "algorithm", "hostile")
"""What is the same whenever a run is taken up again."""


def _wrong_place(event: Event, run: RunStarted) -> str | None:
    """Of events that have an iteration."""
    iteration: int | None = getattr(event, "iteration", None)
    measured = isinstance(event, Evaluated | Scored) or getattr(event, "phase", None) == "evaluate"
    last = run.iterations if measured else run.iterations - 1
    if iteration is not None and iteration > last:
        return f"iteration is {iteration}, the run's last is {last}"
    if isinstance(event, DuelDecided) and event.duel >= run.duels:
        return f"duel is {event.duel} of {run.duels}"
    return None


def _wrong_names(event: Event, run: RunStarted) -> str | None:
    named = set(_names(event))
    if foreign := sorted(named - set(run.tribe)):
        return f"{shown(foreign[0])} is not in the tribe"
    if isinstance(event, Evaluated | Scored | StandingsChanged) and len(named) < len(run.tribe):
        return f"says nothing of {shown(sorted(set(run.tribe) - named)[0])}"
    if isinstance(event, DuelDecided) and event.winner not in (*event.fighters, None):
        return f"the winner {shown(event.winner)} has not fought"
    return None


def _names(event: Event) -> Iterable[str]:
    """The adapters that an event tells of."""
    match event:
        case Evaluated():
            return event.accuracy
        case Scored():
            return event.scores
        case StandingsChanged():
            return event.standings
        case DuelDecided():
            return (*event.fighters, *event.votes)
        case TrainingStep():
            return (*event.loss, *event.margin)
        case LearnsAlone():
            return (event.adapter,)
        case _:
            return ()
