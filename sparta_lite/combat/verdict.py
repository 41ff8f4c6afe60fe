"""Many judges' scores become one pair of scores."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from sparta_lite.combat.duel import Votes
from sparta_lite.errors import SpartaError


@dataclass(frozen=True)
class Verdict:
    """The tribe's opinion of one duel.

    ``scores`` are the weighted means of both responses; ``winner`` is 0 or 1 (the place in
    ``Duel.fighters``) or None when the scores are equal; ``weights`` holds the judges whose votes
    counted and what share of the verdict each had (sum 1).
    """

    scores: tuple[float, float]
    winner: int | None
    weights: dict[str, float]


def aggregate(votes: Votes, weights: Mapping[str, float] | None = None) -> Verdict | None:
    """The weighted mean of the votes: s_i = sum_k R_k s_i^(k) / sum_k R_k (algorithm step "aggregation").

    ``weights`` are the judges' reputations, or whatever else they weigh by (0 or more); None weighs all
    alike. A judge that failed on either response is left out, because only its two scores together say
    anything. Returns None when no valid vote is left that has weight. The sums are rounded once (fsum),
    so neither the judges' order nor the fighters' can make or break a tie.

    Raises SpartaError when a score is not finite.
    """
    valid = {
        judge: (first, second)
        for judge, (first, second) in votes.items()
        if first is not None and second is not None
    }
    if not valid:
        return None
    for judge, pair in valid.items():
        if not all(map(math.isfinite, pair)):
            raise SpartaError(f"judge {judge!r} cast the scores {pair}: record a failed judgment as None")
    share = {judge: 1.0 if weights is None else weights[judge] for judge in valid}
    total = math.fsum(share.values())
    if total == 0.0:
        return None
    first, second = (
        math.fsum(share[judge] * valid[judge][side] for judge in valid) / total for side in (0, 1)
    )
    winner = None if first == second else int(second > first)
    return Verdict((first, second), winner, {judge: weight / total for judge, weight in share.items()})
