"""Does it matter whether a judge reads question and answer as turns or quoted in one message?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from sparta_lite.campaign.wording import JUDGE_REQUESTS
from sparta_lite.engine.chat import Chat, Layout
from sparta_lite.outcome.audit.ballots import Ballot
from sparta_lite.outcome.audit.recorded import Figures
from sparta_lite.outcome.audit.statistics import (
    Estimate,
    Numbers,
    decided_rightly,
    mean,
    nothing,
    preferred,
    share,
)
from sparta_lite.outcome.audit.trials import Court, Scores
from sparta_lite.outcome.audit.truth import Truth

LAYOUTS: tuple[Layout, Layout] = ("turns", "message")

Read = Mapping[Layout, Sequence[Scores]]
"""Per layout the scores of both answers of every duel, one duel's after the other's."""


@dataclass(frozen=True)
class Comparison:
    """The same judges on the same answers in both layouts."""

    panel: Figures
    judges: Mapping[str, Figures]


def in_other_layout(chat: Chat) -> Chat:
    """The same conversations, with judges asked in the layout that the run does not use, in words of ours.

    Raises:
        SpartaError: the base's chat template refuses its turns.
    """
    other: Layout = "message" if chat.layout == "turns" else "turns"
    found = replace(chat, layout=other, request=JUDGE_REQUESTS[other])
    found.judge("", (), 0)  # makes the template write the turns
    return found


def compare(court: Court, ballots: Sequence[Ballot], read: Read, truth: Truth) -> Comparison:
    """``agreement`` of both layouts on who wins, and for each what failed and how often it is right."""
    right = np.array([ballot.right for ballot in ballots], dtype=np.float64)  # None becomes NaN
    panels = {layout: _verdicts(court, scores) for layout, scores in read.items()}
    return Comparison(
        _figures(panels, right, truth),
        {
            judge: _figures({layout: _votes(judge, scores) for layout, scores in read.items()}, right, truth)
            for judge in court.tribe
        },
    )


def _figures(read: Mapping[Layout, Numbers], right: Numbers, truth: Truth) -> Figures:
    """
    Args:
        read: per layout [duels, 2], NaN where there is no score and in every layout where it was not asked.
        right: [duels, 2]
        truth: says why ``right`` is unknown, if it is.
    """
    asked = ~np.isinf(read["turns"]).any(1)
    known = {layout: scores[asked] for layout, scores in read.items()}
    turns, message = (preferred(known[layout]) for layout in LAYOUTS)
    decided = (np.abs(turns) == 1) & (np.abs(message) == 1)
    alike = int((turns == message)[decided].sum())
    figures: dict[str, Estimate] = {
        "agreement": share(alike, int(decided.sum()), "duels that both layouts decide")
    }
    for layout in LAYOUTS:
        lost = int(np.isnan(known[layout]).any(1).sum())
        figures[f"{layout}_failed"] = share(lost, int(asked.sum()), "duels")
        figures[f"{layout}_pair_accuracy"] = (
            mean(decided_rightly(known[layout], right[asked]))
            if truth.missing is None
            else nothing(truth.missing)
        )
    return figures


def _votes(judge: str, scores: Sequence[Scores]) -> Numbers:
    """[duels, 2]: one judge's scores, NaN where it failed, infinite where it fights itself."""
    given = [np.nan if (score := each.get(judge, np.inf)) is None else score for each in scores]
    return np.array(given, dtype=np.float64).reshape(-1, 2)


def _verdicts(court: Court, scores: Sequence[Scores]) -> Numbers:
    """[duels, 2]: the tribe's scores, NaN without a valid vote."""
    found = []
    for first, second in zip(scores[::2], scores[1::2], strict=True):
        verdict = court.verdict(first, second)
        found.append((np.nan, np.nan) if verdict is None else verdict.scores)
    return np.array(found, dtype=np.float64).reshape(-1, 2)
