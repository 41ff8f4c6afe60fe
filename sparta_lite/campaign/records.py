"""What an iteration's duels leave behind, as JSON lines that read back as the same objects."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field

from sparta_lite.combat import Bout, Duel, Votes
from sparta_lite.combat.traces import ROUNDING
from sparta_lite.engine.response import Failure, Response
from sparta_lite.engine.verdict_text import Unparsed
from sparta_lite.typed import Count, Form, Number

Score = Annotated[float, Field(ge=1 - ROUNDING, le=10 + ROUNDING)]
Share = Annotated[float, Field(ge=0, le=1 + ROUNDING)]


@dataclass(frozen=True)
class DuelRow:
    """A line of ``duels.jsonl``."""

    duel: Count
    """Its place in the iteration, from 0."""
    instruction: Count
    text: str
    """The instruction itself."""
    fighters: tuple[str, str]
    responses: tuple[Response, Response]


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
            "fighters": self.duel.fighters,
            "responses": [vars(response) for response in self.responses],
        }

    @classmethod
    def from_row(cls, row: DuelRow) -> FoughtDuel:
        return cls(Duel(row.duel, row.instruction, row.fighters), row.text, row.responses)


@dataclass(frozen=True)
class Judgment:
    """One judge's scores of both answers of one duel: a line of ``judgments.jsonl``."""

    duel: Count
    judge: str
    scores: tuple[Score | None, Score | None]
    """1 to 10; None when that judgment failed."""
    failures: tuple[Failure | None, Failure | None]
    mass: tuple[Share | None, Share | None]
    """How sure it was to give a score at all: see ``engine.score.Score``."""
    cut: tuple[Count, Count]
    """Tokens of each answer that the judge did not get to see."""
    logprobs: tuple[Number | None, Number | None]
    """log p(answer | question) under the judge, where it reads both as a fighter does; None: not taken."""
    prefix: tuple[Number | None, Number | None] = (None, None)
    """log p(forced prefix), how likely it was to begin a verdict by itself: see ``engine.score.Score``."""
    unparsed: tuple[Mapping[Unparsed, Count], Mapping[Unparsed, Count]] = ({}, {})
    """Why sampled rounds gave no score -> how many of them."""

    def to_row(self) -> dict[str, Any]:
        row = dict(vars(self))
        if not any(self.unparsed):
            del row["unparsed"]
        return row


DUELS = Form(DuelRow)
JUDGMENTS = Form(Judgment)


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
