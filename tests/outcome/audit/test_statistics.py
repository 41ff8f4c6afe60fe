"""Figures and intervals against scipy and against counting by hand."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from sparta_lite.campaign.intervals import wilson
from sparta_lite.outcome.audit import statistics
from sparta_lite.outcome.audit.statistics import (
    area,
    decided_rightly,
    difference_correlation,
    mean,
    rank_correlation,
    share,
)

stats = pytest.importorskip("scipy.stats", reason="scipy is not installed")


def pairs(seed: int, count: int = 40) -> NDArray[np.float64]:
    """[3, duels, 2] numbers that hang together, with many ties."""
    rng = np.random.default_rng(seed)
    common = rng.normal(size=(count, 2))
    return np.stack([np.round(common + rng.normal(size=(count, 2)), 0) for _ in range(3)])


def residues(values: NDArray[np.float64], on: NDArray[np.float64]) -> NDArray[np.float64]:
    slope, intercept, *_ = stats.linregress(on, values)
    return np.asarray(values - slope * on - intercept)


@pytest.mark.parametrize("seed", range(3))
def test_rank_correlations_are_scipys(seed: int) -> None:
    left, right, held = pairs(seed)
    left[3, 1] = np.nan  # unknown values are left out
    known = ~np.isnan(left)
    found = rank_correlation(left, right)
    assert found.value == pytest.approx(stats.spearmanr(left[known], right[known]).statistic)
    ranks = [stats.rankdata(values[known]) for values in (left, right, held)]
    partial = stats.pearsonr(residues(ranks[0], ranks[2]), residues(ranks[1], ranks[2])).statistic
    assert rank_correlation(left, right, held).value == pytest.approx(partial)


def test_differences_count_in_both_directions() -> None:
    left, right, _ = pairs(5)
    ours, theirs = left[:, 0] - left[:, 1], right[:, 0] - right[:, 1]
    expected = stats.spearmanr(np.r_[ours, -ours], np.r_[theirs, -theirs]).statistic
    assert difference_correlation(ours, theirs).value == pytest.approx(expected)
    turned = np.where(np.arange(40) % 3, 1, -1)  # who opened a duel does not matter
    assert difference_correlation(ours * turned, theirs * turned).value == pytest.approx(expected)


def test_a_resample_is_the_statistic_of_repeated_duels() -> None:
    left, right, _ = pairs(1)
    counts = np.random.default_rng(0).multinomial(40, np.full(40, 1 / 40), size=5).astype(float)
    rows = np.repeat(np.arange(40), 2)
    ranks = [statistics._centred_ranks(values.ravel(), counts[:, rows]) for values in (left, right)]
    found = statistics._partial(ranks, counts[:, rows])
    for row, value in zip(counts.astype(int), found, strict=True):
        repeated = (np.repeat(values, row, axis=0).ravel() for values in (left, right))
        assert value == pytest.approx(stats.spearmanr(*repeated).statistic)


def test_an_interval_covers_what_it_should() -> None:
    inside = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        common = rng.normal(size=(80, 2))
        interval = rank_correlation(common + rng.normal(size=(80, 2)), common).interval
        assert interval is not None
        truth = 6 / np.pi * np.arcsin(np.sqrt(0.5) / 2)  # Spearman's of two normals with correlation root 1/2
        inside += interval[0] <= truth <= interval[1]
    assert 51 <= inside <= 60  # 57 expected


def test_the_area_is_the_share_of_pairs_in_order() -> None:
    scores, right, _ = pairs(2)
    right = (right > 0).astype(float)
    right[0, 0], scores[1, 1] = np.nan, np.nan
    known = ~np.isnan(scores + right)
    good, bad = scores[known & (right == 1)], scores[known & (right == 0)]
    above = [(a > b) + 0.5 * (a == b) for a in good for b in bad]
    assert area(scores, right).value == pytest.approx(np.mean(above))
    assert area(scores, np.ones_like(right)).missing == "right and wrong answers are not both there"


def test_only_duels_with_one_right_answer_are_decided_rightly() -> None:
    nan = np.nan
    scores = np.array([[8, 2], [2, 8], [5, 5], [8, 2], [8, 2], [nan, 2.0]])
    right = np.array([[1, 0], [1, 0], [0, 1], [1, 1], [nan, 1], [1, 0]])
    found = decided_rightly(scores, right)
    np.testing.assert_array_equal(found, [1, 0, 0.5, nan, nan, nan])
    assert mean(found).value == 0.5


def test_shares_have_wilsons_interval() -> None:
    assert share(3, 9, "votes").interval == wilson(3, 9)
    assert mean(np.array([1.0, 1, 1, 0, np.nan])).interval == wilson(3, 4)
    assert share(0, 0, "votes").missing == "no votes"


def test_what_cannot_be_said_is_no_number() -> None:
    few, same = np.ones((2, 2)), np.ones((9, 2))
    varied = np.arange(18.0).reshape(9, 2)
    assert rank_correlation(few, few).missing == "fewer than 3 duels"
    assert rank_correlation(same, varied).missing == "a value never changes"
    held = rank_correlation(varied, varied + 1, varied)
    assert held.missing == "a value never changes apart from what is held fast"
    assert mean(np.full(5, np.nan)).missing == "fewer than 3 duels"
    for missing in (rank_correlation(few, few), rank_correlation(same, varied), held):
        assert (missing.value, missing.interval) == (None, None)
