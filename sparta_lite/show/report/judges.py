"""How each judge of a run judged: failures, agreement, level, and its taste for long answers."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, pstdev

import numpy as np

from sparta_lite.campaign.records import FoughtDuel, Judgment
from sparta_lite.campaign.reluctance import median_prefix


@dataclass(frozen=True)
class JudgeFigures:
    """One judge over all duels that it judged; None where too little is there to say."""

    answers: int
    """Answers that it was asked to score, two a duel."""
    failures: Mapping[str, int]
    """Why a score is missing -> how often."""
    agreement: float | None
    """Share of duels in which it prefers the answer that the mean of the other judges prefers.

    0.5 is chance. Duels in which either sees no difference are left out.
    """
    compared: int
    """Duels behind ``agreement``."""
    mean: float | None
    spread: float | None
    """Population standard deviation of its scores."""
    prefix: float | None
    """Median probability with which it begins with what is forced on it."""
    unparsed: Mapping[str, int]
    """Why sampled rounds gave no score -> how many of them."""
    length: float | None
    """Pearson correlation of its scores with the number of the answers' tokens."""

    @property
    def failed(self) -> int:
        return sum(self.failures.values())


def judge_figures(
    tribe: Sequence[str], judged: Iterable[tuple[FoughtDuel, Sequence[Judgment]]]
) -> dict[str, JudgeFigures]:
    """Figures of every judge, in the tribe's order.

    Args:
        tribe: all adapters.
        judged: every duel with the judgments on it.
    """
    scores: defaultdict[str, list[float]] = defaultdict(list)
    lengths: defaultdict[str, list[int]] = defaultdict(list)
    failures: defaultdict[str, Counter[str]] = defaultdict(Counter)
    given: defaultdict[str, list[Judgment]] = defaultdict(list)
    answers: Counter[str] = Counter()
    agreed: Counter[str] = Counter()
    compared: Counter[str] = Counter()
    for duel, judgments in judged:
        for judgment in judgments:
            given[judgment.judge].append(judgment)
            for score, failure, response in zip(
                judgment.scores, judgment.failures, duel.responses, strict=True
            ):
                answers[judgment.judge] += 1
                if score is None:
                    failures[judgment.judge][failure or "no reason given"] += 1
                else:
                    scores[judgment.judge].append(score)
                    lengths[judgment.judge].append(len(response.ids))
        for judge, same in _agreements(judgments):
            compared[judge] += 1
            agreed[judge] += same
    return {
        name: JudgeFigures(
            answers=answers[name],
            failures=dict(failures[name].most_common()),
            agreement=agreed[name] / compared[name] if compared[name] else None,
            compared=compared[name],
            mean=fmean(scores[name]) if scores[name] else None,
            spread=pstdev(scores[name]) if scores[name] else None,
            prefix=median_prefix(given[name]),
            unparsed=_lost_rounds(given[name]),
            length=correlation(scores[name], lengths[name]),
        )
        for name in tribe
    }


def _lost_rounds(judgments: Iterable[Judgment]) -> dict[str, int]:
    lost: Counter[str] = Counter()
    for judgment in judgments:
        for rounds in judgment.unparsed:
            lost.update(rounds)
    return dict(lost.most_common())


def _agreements(judgments: Sequence[Judgment]) -> Iterable[tuple[str, bool]]:
    """Judges that prefer an answer, and whether the mean of the others prefers it too."""
    leads = {
        judgment.judge: judgment.scores[0] - judgment.scores[1]
        for judgment in judgments
        if judgment.scores[0] is not None and judgment.scores[1] is not None
    }
    for judge, lead in leads.items():
        others = math.fsum(other for name, other in leads.items() if name != judge)
        if lead != 0 and others != 0:
            yield judge, (lead > 0) == (others > 0)


def correlation(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Pearson's; None for fewer than three values, or where one side never changes."""
    if len(first) < 3:
        return None
    x, y = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    x, y = x - x.mean(), y - y.mean()
    size = math.sqrt(float(x @ x) * float(y @ y))
    return float(x @ y) / size if size > 0 else None


def effective_number(weights: Iterable[float]) -> float:
    """How many judges of equal weight would weigh as evenly: (sum w)^2 / sum w^2 (Kish 1965)."""
    given = list(weights)
    return math.fsum(given) ** 2 / math.fsum(weight * weight for weight in given)
