"""Correlations and shares with 95 % intervals, resampled by duel: what one duel shows goes together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sparta_lite.campaign.intervals import Interval, wilson
from sparta_lite.randomness import key

Numbers = NDArray[np.float64]

RESAMPLES = 400

_FEWEST = 3  # duels that say anything together
_AT_ONCE = 2_000_000  # numbers in one array: resamples are worked through in blocks of so many


@dataclass(frozen=True)
class Estimate:
    """A figure and its 95 % interval, or why there is none."""

    value: float | None
    interval: Interval | None = None
    missing: str | None = None


def nothing(reason: str) -> Estimate:
    """No figure, and why."""
    return Estimate(None, missing=reason)


def share(part: int, whole: int, of: str) -> Estimate:
    """Of a count of ``of``, with Wilson's interval."""
    return Estimate(part / whole, wilson(part, whole)) if whole else nothing(f"no {of}")


def mean(values: Numbers) -> Estimate:
    """Of one value per duel, NaN where it has none; the share of ones among zeros has Wilson's interval."""
    known = values[~np.isnan(values)]
    if len(known) >= _FEWEST and np.isin(known, (0, 1)).all():
        return share(int(known.sum()), len(known), "duels")
    return _estimate(len(known), lambda weights: _mean(known, weights))


def median(values: Numbers) -> Estimate:
    """The middle one of [duels, values of one duel], the lower one of two; NaN: there is none.

    It is what it is of a single duel too, without an interval.
    """
    known = ~np.isnan(values)
    duels, rows = _rows(known)
    order = np.argsort(values[known], kind="stable")
    ordered, owners = values[known][order], rows[order]

    def middle(weights: Numbers) -> Numbers:
        summed = weights[:, owners].cumsum(1)  # [resamples, values]
        return np.asarray(ordered[(summed >= summed[:, -1:] / 2).argmax(1)])

    if 0 < duels < _FEWEST:
        return Estimate(float(middle(np.ones((1, duels)))[0]))
    return _estimate(duels, middle, values=len(ordered))


def rank_correlation(left: Numbers, right: Numbers, held: Numbers | None = None) -> Estimate:
    """Spearman's, or with ``held`` the partial one: what is left of it where the ranks of ``held`` are alike.

    Args:
        left, right, held: [duels, values of one duel]; NaN: unknown, and the value is left out.
    """
    columns = [left, right] if held is None else [left, right, held]
    known = np.asarray(~np.isnan(np.stack(columns)).any(0))
    duels, rows = _rows(known)
    chosen = [column[known] for column in columns]
    undefined = (
        "a value never changes" if held is None else "a value never changes apart from what is held fast"
    )

    def correlation(weights: Numbers) -> Numbers:
        return _partial([_centred_ranks(column, weights[:, rows]) for column in chosen], weights[:, rows])

    return _estimate(duels, correlation, undefined, len(rows))


def difference_correlation(left: Numbers, right: Numbers, held: Numbers | None = None) -> Estimate:
    """The same of differences within a duel, which say the same whichever answer is taken from the other.

    Args:
        left, right, held: [duels], one answer's value less the other's. Every duel counts in both directions,
            so that it does not matter who opened it.
    """
    columns = [left, right] if held is None else [left, right, held]
    return rank_correlation(*(np.stack([column, -column], axis=1) for column in columns))


def area(scores: Numbers, right: Numbers) -> Estimate:
    """Chance that a right answer is scored above a wrong one (the area under the ROC curve); ties count half.

    Args:
        scores: [duels, 2]
        right: [duels, 2], 1 for a right answer, 0 for a wrong one, NaN where nobody knows.
    """
    known = ~np.isnan(scores + right)
    duels, rows = _rows(known)
    values, good = scores[known], right[known] == 1

    def above(weights: Numbers) -> Numbers:
        weights = weights[:, rows]
        rights, wrongs = (weights * good).sum(1), (weights * ~good).sum(1)
        with np.errstate(invalid="ignore", divide="ignore"):
            # Mann and Whitney's U from the sum of the right answers' ranks.
            ranks = _ranks(values, weights)
            summed = (weights * good * ranks).sum(1)
            return np.asarray((summed - rights * (rights + 1) / 2) / (rights * wrongs))

    return _estimate(duels, above, "right and wrong answers are not both there", len(rows))


def preferred(scores: Numbers) -> Numbers:
    """Of [..., 2]: 1 where the first is higher, -1 where the second is, 0 for a tie; NaN where one is."""
    return np.asarray(np.sign(scores[..., 0] - scores[..., 1]))


def decided_rightly(scores: Numbers, right: Numbers) -> Numbers:
    """[duels]: 1 where the one right answer is scored higher, 0 where lower, a half for a tie.

    Args:
        scores, right: [duels, 2]; it is NaN where not exactly one answer is right, or one has no score.
    """
    sought = preferred(right)
    return np.where(np.abs(sought) == 1, (1 + sought * preferred(scores)) / 2, np.nan)


def _rows(known: NDArray[np.bool_]) -> tuple[int, NDArray[np.intp]]:
    """How many duels have a known value, and for every such value which of them it belongs to."""
    counts = known.sum(1)
    some = counts[counts > 0]
    return len(some), np.repeat(np.arange(len(some)), some)


def _estimate(
    duels: int,
    statistic: Callable[[Numbers], Numbers],
    undefined: str = "undefined",
    values: int = 1,
) -> Estimate:
    """The statistic of all duels, and the middle 95 % of what it is over resampled duels.

    Args:
        duels: how many there are.
        statistic: of weights [resamples, duels], how often each duel counts; NaN where it is undefined.
        undefined: why it may be, for people.
        values: how many the statistic works on.
    """
    if duels < _FEWEST:
        return nothing(f"fewer than {_FEWEST} duels")
    value = float(statistic(np.ones((1, duels)))[0])
    if np.isnan(value):
        return nothing(undefined)
    rng = np.random.Generator(np.random.Philox(key("audit", duels) % (1 << 64)))
    counts = rng.multinomial(duels, np.full(duels, 1 / duels), size=RESAMPLES).astype(np.float64)
    block = max(1, _AT_ONCE // max(values, duels))
    found = np.concatenate([statistic(counts[start : start + block]) for start in range(0, RESAMPLES, block)])
    defined = found[~np.isnan(found)]
    if 2 * len(defined) < RESAMPLES:
        return Estimate(value)
    low, high = np.quantile(defined, (0.025, 0.975))
    return Estimate(value, (float(low), float(high)))


def _mean(values: Numbers, weights: Numbers) -> Numbers:
    return np.asarray((weights @ values) / weights.sum(1))


def _ranks(values: Numbers, weights: Numbers) -> Numbers:
    """Mid-ranks [resamples, values] from 1 on, where value i stands there ``weights[:, i]`` times."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    fresh = np.concatenate([[True], ordered[1:] != ordered[:-1]])
    groups = np.empty(len(values), dtype=np.intp)
    groups[order] = np.cumsum(fresh) - 1
    alike = np.add.reduceat(weights[:, order], np.flatnonzero(fresh), axis=1)  # [resamples, groups]
    middle = np.cumsum(alike, axis=1) - (alike - 1) / 2
    return np.asarray(middle[:, groups])


def _centred_ranks(values: Numbers, weights: Numbers) -> Numbers:
    # Mid-ranks of n values have the mean (n + 1) / 2 whatever is tied.
    return np.asarray(_ranks(values, weights) - (weights.sum(1, keepdims=True) + 1) / 2)


def _partial(ranks: Sequence[Numbers], weights: Numbers) -> Numbers:
    """Pearson's correlation of two, less what both owe to a third where there is one."""
    with np.errstate(invalid="ignore", divide="ignore"):
        left, right = ranks[0], ranks[1]
        plain = _pearson(left, right, weights)
        if len(ranks) == 2:
            return plain
        one, other = (_pearson(side, ranks[2], weights) for side in (left, right))
        spread = np.maximum(1 - one**2, 0) * np.maximum(1 - other**2, 0)
        return np.where(spread > 1e-12, (plain - one * other) / np.sqrt(spread), np.nan)


def _pearson(left: Numbers, right: Numbers, weights: Numbers) -> Numbers:
    products = [
        np.einsum("rn,rn,rn->r", weights, one, other)
        for one, other in ((left, right), (left, left), (right, right))
    ]
    spread = products[1] * products[2]
    return np.where(spread > 0, products[0] / np.sqrt(spread), np.nan)
