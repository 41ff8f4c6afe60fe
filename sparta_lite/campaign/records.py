"""What an iteration leaves behind, as JSON lines that read back as the same objects."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sparta_lite.combat import Bout, Duel, Votes
from sparta_lite.engine.response import Failure, Response

DUEL_KEYS = ("duel", "instruction", "text", "fighters", "responses")
JUDGMENT_KEYS = ("duel", "judge", "scores", "failures", "mass", "cut", "logprobs")


def who_learns(metrics: Iterable[Mapping[str, Any]]) -> tuple[str, ...] | None:
    """The adapters that learn, by the rows of ``metrics.jsonl``; None before a run's first training."""
    return next((tuple(row["learners"]) for row in metrics if row["kind"] == "budget"), None)


@dataclass(frozen=True)
class FoughtDuel:
    """A duel with both answers."""

    duel: Duel
    instruction: str
    responses: tuple[Response, Response]

    def to_row(self) -> dict[str, Any]:
        return {
            "duel": self.duel.index,
            "instruction": self.duel.instruction,
            "text": self.instruction,
            "fighters": list(self.duel.fighters),
            "responses": [
                {
                    "ids": list(response.ids),
                    "text": response.text,
                    "stop": response.stop,
                    "logprob": response.logprob,
                }
                for response in self.responses
            ],
        }

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> FoughtDuel:
        first, second = (
            Response(tuple(each["ids"]), each["text"], each["stop"], each["logprob"])
            for each in row["responses"]
        )
        opener, opponent = row["fighters"]
        duel = Duel(row["duel"], row["instruction"], (opener, opponent))
        return cls(duel, row["text"], (first, second))


@dataclass(frozen=True)
class Judgment:
    """One judge's scores of both answers of one duel."""

    duel: int
    judge: str
    scores: tuple[float | None, float | None]
    """1 to 10; None when that judgment failed."""
    failures: tuple[Failure | None, Failure | None]
    mass: tuple[float | None, float | None]
    """How sure it was to give a score at all: see ``engine.score.Score``."""
    cut: tuple[int, int]
    """Tokens of each answer that the judge did not get to see."""
    logprobs: tuple[float | None, float | None]
    """log p(answer | question) under the judge, where it reads both as a fighter does; None: not taken."""

    def to_row(self) -> dict[str, Any]:
        return {
            "duel": self.duel,
            "judge": self.judge,
            "scores": list(self.scores),
            "failures": list(self.failures),
            "mass": list(self.mass),
            "cut": list(self.cut),
            "logprobs": list(self.logprobs),
        }

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> Judgment:
        return cls(row["duel"], row["judge"], *(tuple(row[key]) for key in JUDGMENT_KEYS[2:]))


def bouts(fought: Iterable[FoughtDuel], judgments: Iterable[Judgment]) -> list[Bout]:
    """Every duel with its votes, as the rules want it."""
    votes: dict[int, dict[str, tuple[float | None, float | None]]] = {}
    for judgment in judgments:
        votes.setdefault(judgment.duel, {})[judgment.judge] = judgment.scores
    result: list[Bout] = []
    for each in fought:
        cast: Votes = votes.get(each.duel.index, {})
        result.append((each.duel, cast))
    return result
