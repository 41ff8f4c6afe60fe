"""What a campaign tells whoever watches: small frozen records, one JSON line each.

The live view, the plain lines and ``events.jsonl`` are all fed by the same stream.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from sparta_lite.errors import SpartaError

Phase = Literal["evaluate", "match", "generate", "judge", "settle", "train"]


@dataclass(frozen=True)
class RunStarted:
    run: str
    base: str
    device: str
    tribe: tuple[str, ...]
    iterations: int
    duels: int
    seed: int
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
    memory: dict[str, int]
    """Phase -> the bytes that it is planned to need, reserve included."""
    available: int
    """Bytes."""
    brief: tuple[str, ...] = ()
    """What a view says in place of ``lines``; empty: it says those."""


@dataclass(frozen=True)
class PhaseStarted:
    iteration: int
    phase: Phase
    total: int
    """Units of work: responses to generate, responses to judge, optimizer steps, items to evaluate."""


@dataclass(frozen=True)
class PhaseProgress:
    iteration: int
    phase: Phase
    done: int
    total: int
    tokens: int
    """Tokens processed so far in this phase by this process."""
    seconds: float
    """Seconds spent so far in this phase by this process."""
    memory: int
    """Bytes in use: peak resident size on the CPU, peak allocated memory on a GPU."""


@dataclass(frozen=True)
class PhaseFinished:
    iteration: int
    phase: Phase
    seconds: float
    tokens: int


@dataclass(frozen=True)
class DuelDecided:
    iteration: int
    duel: int
    instruction: str
    fighters: tuple[str, str]
    responses: tuple[str, str]
    votes: dict[str, tuple[float | None, float | None]]
    """Judge -> its scores of both responses; None is a judgment that failed, which is no vote."""
    scores: tuple[float, float] | None
    """Aggregated scores; None when no judge cast a valid vote."""
    winner: str | None


@dataclass(frozen=True)
class AdapterStanding:
    reputation: float
    deviation: float
    wins: int
    losses: int
    draws: int
    weight: float
    """Its share of all judges' weight, 1 / adapters when all count alike."""


@dataclass(frozen=True)
class StandingsChanged:
    iteration: int
    standings: dict[str, AdapterStanding]
    """After the iteration's last duel; wins, losses and draws since the run began, duels with oneself left
    out."""


@dataclass(frozen=True)
class TrainingStep:
    iteration: int
    step: int
    steps: int
    loss: dict[str, float]
    margin: dict[str, float]


@dataclass(frozen=True)
class Evaluated:
    iteration: int
    """Number of iterations the adapters have learned from: 0 before the first."""
    accuracy: dict[str, float]
    base: float
    """Accuracy of the bare base, without an adapter."""
    task: str = "pocket"
    unparsed: dict[str, int] = field(default_factory=dict)
    """Per adapter the answers in which none could be found; they count as not right."""


@dataclass(frozen=True)
class Scored:
    """An evaluation in a task without right answers, which the bare base judges."""

    iteration: int
    """Number of iterations the adapters have learned from: 0 before the first."""
    scores: dict[str, float | None]
    """Mean score from 1 to 10; None where no judgment was valid."""
    base: float | None
    """That of the bare base's own answers."""
    task: str
    failed: dict[str, int]
    """Per adapter the answers whose judgment failed; they are in no mean."""


@dataclass(frozen=True)
class Warned:
    message: str


@dataclass(frozen=True)
class RunFinished:
    seconds: float


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


def from_row(row: Any) -> Event:
    """The event that ``to_row`` wrote, also after a round trip through JSON.

    Raises:
        SpartaError: the row names no event, or its fields are not that event's.
    """
    name = row.get("event") if isinstance(row, dict) else None
    if not isinstance(name, str) or name not in _KINDS:
        raise SpartaError(f"{name!r} is no event of this version; expected one of {', '.join(_KINDS)}")
    fields = {key: _frozen(value) for key, value in row.items() if key not in ("event", "time")}
    try:
        if name == "StandingsChanged":
            fields["standings"] = {
                adapter: AdapterStanding(**standing) for adapter, standing in fields["standings"].items()
            }
        return _KINDS[name](**fields)
    except (AttributeError, KeyError, TypeError) as error:
        raise SpartaError(f"a row says {name}, but its fields are not that event's ({error})") from error


_KINDS: dict[str, Callable[..., Event]] = {kind.__name__: kind for kind in get_args(Event)}


def _frozen(value: Any) -> Any:
    """JSON has no tuples: every list in a row was one."""
    if isinstance(value, list):
        return tuple(_frozen(item) for item in value)
    if isinstance(value, dict):
        return {key: _frozen(item) for key, item in value.items()}
    return value
