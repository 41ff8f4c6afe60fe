"""How far each judge is to be trusted, told from how it votes beside the others.

Winning duels and judging well are two skills; here a judge weighs by the second alone. Dawid and Skene
(1979), with one coin per judge: of a duel's two answers one is better, unseen, and judge j puts it first with
probability p_j, whatever the others do. EM finds the p that make all votes likeliest. There, each p_j is also
the one that makes j's own votes likeliest when the others' alone say which answer is better: no judge
vouches for itself.

Only the order of a judge's two scores enters the estimate, and `toned` levels loud judges before the scores
are averaged, so that neither weight nor verdict can be had by exaggerating.

Judges that err together pass for better than they are, all alike, which leaves their shares as they should
be. But judges that repeat each other and nobody else can outweigh the rest while being fewer; and where as
many judge upside down as rightly, no count of votes can tell which half is right.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from sparta_lite.combat.duel import Bout

PRIOR = (6.0, 2.0)
"""Votes, right and wrong ones, that every judge is credited with beforehand; right ones prevail, else all
votes would be as likely with every judge upside down."""

_MOST = 0.99
_CLOSE = 1e-9
_SWEEPS = 1000


def ballots(bouts: Sequence[Bout], tribe: Sequence[str]) -> tuple[str, ...]:
    """Which answer every judge put first, a character per member of ``tribe``: "+" the first, "-" the second.

    "." stands for who fought, failed, or saw no difference. Duels with fewer than two votes, which say
    nothing of whom to trust, are left out.
    """
    marked = ("".join(_mark(votes[name]) if name in votes else "." for name in tribe) for _, votes in bouts)
    return tuple(ballot for ballot in marked if len(tribe) - ballot.count(".") > 1)


def accuracies(cast: Sequence[str], tribe: Sequence[str]) -> dict[str, float]:
    """The probability of each judge to put the better answer first, as the `ballots` ``cast`` make likeliest.

    A judge without votes has the prior's. The order of ballots, judges and fighters changes no bit.
    """
    votes = [[(judge, mark == "+") for judge, mark in enumerate(ballot) if mark != "."] for ballot in cast]
    current = [PRIOR[0] / sum(PRIOR)] * len(tribe)
    for _ in range(_SWEEPS):
        log_odds = [math.log(accuracy / (1 - accuracy)) for accuracy in current]
        right: list[list[float]] = [[] for _ in tribe]  # per vote: the probability that it is right
        for ballot in votes:
            first = math.fsum(log_odds[judge] if plus else -log_odds[judge] for judge, plus in ballot)
            for judge, plus in ballot:
                right[judge].append(_logistic(first if plus else -first))
        estimate = [(PRIOR[0] + math.fsum(of_judge)) / (sum(PRIOR) + len(of_judge)) for of_judge in right]
        estimate = [min(max(accuracy, 1 - _MOST), _MOST) for accuracy in estimate]
        moved = max(abs(after - before) for after, before in zip(estimate, current, strict=True))
        current = estimate
        if moved < _CLOSE:
            break
    return dict(zip(tribe, current, strict=True))


def trust(accuracy: float) -> float:
    """A judge's weight: the log-odds of its being right, the optimum for independent votes; at least 0."""
    return max(0.0, math.log(accuracy / (1 - accuracy)))


def toned(bouts: Sequence[Bout]) -> list[Bout]:
    """The votes with every judge's scores drawn to their mean until it is no louder than the median judge.

    A judge's loudness is the root mean square of the gaps between its two scores; judges that see no
    difference anywhere set no measure. Quiet judges stay as they are.
    """
    gaps: dict[str, list[float]] = {}
    scores: dict[str, list[float]] = {}
    for _, votes in bouts:
        for judge, (first, second) in votes.items():
            if first is not None and second is not None:
                gaps.setdefault(judge, []).append(first - second)
                scores.setdefault(judge, []).extend((first, second))
    loudness = {
        judge: math.sqrt(math.fsum(gap * gap for gap in of_judge) / len(of_judge))
        for judge, of_judge in gaps.items()
    }
    audible = [value for value in loudness.values() if value > 0.0]
    common = statistics.median(audible) if audible else 0.0
    middles = {judge: math.fsum(of_judge) / len(of_judge) for judge, of_judge in scores.items()}

    def level(judge: str, score: float | None) -> float | None:
        if score is None or judge not in loudness or loudness[judge] <= common:
            return score
        return middles[judge] + (score - middles[judge]) * (common / loudness[judge])

    return [
        (duel, {judge: (level(judge, pair[0]), level(judge, pair[1])) for judge, pair in votes.items()})
        for duel, votes in bouts
    ]


def _mark(pair: tuple[float | None, float | None]) -> str:
    first, second = pair
    if first is None or second is None or first == second:
        return "."
    return "+" if first > second else "-"


def _logistic(log_odds: float) -> float:
    return 1 / (1 + math.exp(-log_odds)) if log_odds >= 0 else math.exp(log_odds) / (1 + math.exp(log_odds))
