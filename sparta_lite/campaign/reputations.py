"""``reputation.json``: what the votes of one iteration came to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field, PlainValidator

from sparta_lite.campaign.records import Score, Share
from sparta_lite.combat import Standing
from sparta_lite.errors import SpartaError
from sparta_lite.typed import Count, Form, Number


def _standing(data: Any) -> Standing:
    try:
        return Standing.from_json(data)
    except SpartaError as error:
        said = str(error).rpartition(": restore")[0]
        raise ValueError(said) from error  # which pydantic says with its place


Recorded = Annotated[Standing, PlainValidator(_standing)]


@dataclass(frozen=True)
class Tally:
    """An adapter's duels since the run began; those with itself are none."""

    wins: Count
    losses: Count
    draws: Count


@dataclass(frozen=True)
class VerdictRow:
    """What the votes on one duel came to."""

    scores: tuple[Score, Score]
    winner: Annotated[int, Field(ge=0, le=1)] | None
    """A place in the duel's fighters; None where the scores are equal."""


@dataclass(frozen=True)
class Reputation:
    """What ``reputation.json`` holds."""

    iteration: Count
    before: Recorded
    after: Recorded
    judge_weights: dict[str, Share]
    """Adapter -> its share of all judges' weight, after the iteration."""
    tally: dict[str, Tally]
    verdicts: tuple[VerdictRow | None, ...]
    """One per duel; None where there was no valid vote."""
    instruction_log_weights: Annotated[tuple[Number, ...], Field(min_length=1)] | None = None
    """What a curriculum has learned: the log weight of every arm; None: there is none."""

    @property
    def tribe(self) -> tuple[str, ...]:
        return tuple(self.after.ratings)

    def to_json(self) -> dict[str, Any]:
        data: dict[str, Any] = {
            "iteration": self.iteration,
            "before": self.before.to_json(),
            "after": self.after.to_json(),
            "judge_weights": self.judge_weights,
            "tally": {name: vars(tally) for name, tally in self.tally.items()},
            "verdicts": [None if verdict is None else vars(verdict) for verdict in self.verdicts],
        }
        if self.instruction_log_weights is not None:
            data["instruction_log_weights"] = self.instruction_log_weights
        return data


REPUTATION = Form(Reputation)


def fault(record: Reputation, iteration: int) -> str | None:
    """What does not belong together in the record of an iteration; None where all does."""
    tribe = set(record.tribe)
    if len(tribe) < 2:
        return f"after is of {len(tribe)} adapters"
    if len(tribe) < 2:
        return f"after is of {len(tribe)} adapters"
    parts: Mapping[str, Mapping[str, object]] = {
        "before": record.before.ratings,
        "judge_weights": record.judge_weights,
        "tally": record.tally,
    }
    for name, part in parts.items():
        if set(part) != tribe:
            return f"{name} is not of the same adapters as after"
    counted = (record.iteration, record.before.iteration, record.after.iteration)
    if counted != (iteration, iteration, iteration + 1):
        return f"its iterations are {counted}, for a file of iteration {iteration}"
    for number, verdict in enumerate(record.verdicts):
        if verdict is not None and verdict.winner != _winner(verdict.scores):
            return f"verdicts.{number} has a winner that its scores do not make"
    return None


def _winner(scores: tuple[float, float]) -> int | None:
    return None if scores[0] == scores[1] else int(scores[1] > scores[0])
