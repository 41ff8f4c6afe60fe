"""Intervals against SciPy, closed forms, and what they cover in simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from sparta_lite.ablation.statistics import deviation, paired, t_quantile, unpaired
from sparta_lite.campaign import intervals

A = [0.61, 0.64, 0.58, 0.66, 0.63]
B = [0.60, 0.60, 0.57, 0.61, 0.62]


@pytest.mark.parametrize("freedom", [1, 1.3, 2, 3.7, 4, 9, 31.5, 200])
@pytest.mark.parametrize("share", [0.9, 0.975, 0.995])
def test_quantiles_are_those_of_students_t(freedom: float, share: float) -> None:
    assert t_quantile(freedom, share) == pytest.approx(stats.t.ppf(share, freedom), rel=1e-6)


def test_one_and_two_degrees_of_freedom_have_closed_forms() -> None:
    assert t_quantile(1) == pytest.approx(math.tan(math.pi * 0.475), rel=1e-9)
    assert t_quantile(2) == pytest.approx(0.95 * math.sqrt(2 / (1 - 0.95**2)), rel=1e-9)


def test_a_paired_interval_is_that_of_the_paired_t_test() -> None:
    found = paired(A, B)
    expected = stats.ttest_rel(A, B).confidence_interval(0.95)
    assert found.value == pytest.approx(np.mean(A) - np.mean(B))
    assert found.interval == pytest.approx((expected.low, expected.high), rel=1e-6)
    assert found.separable == (stats.ttest_rel(A, B).pvalue < 0.05)


@pytest.mark.parametrize("others", [B, B[:3], [0.5, 0.5, 0.51]])
def test_an_unpaired_interval_is_that_of_welchs_t_test(others: list[float]) -> None:
    found, test = unpaired(A, others), stats.ttest_ind(A, others, equal_var=False)
    expected = test.confidence_interval(0.95)
    assert found.interval == pytest.approx((expected.low, expected.high), rel=1e-6)
    assert found.separable == (test.pvalue < 0.05)


def test_bootstraps_agree_with_scipys() -> None:
    difference = np.subtract(A, B)
    theirs = stats.bootstrap((difference,), np.mean, n_resamples=9999, method="percentile", rng=1)
    ours = paired(A, B).bootstrap
    assert ours == pytest.approx(tuple(theirs.confidence_interval), abs=2e-3)

    def apart(x: np.ndarray, y: np.ndarray, axis: int) -> np.ndarray:
        return x.mean(axis=axis) - y.mean(axis=axis)

    theirs = stats.bootstrap((A, B), apart, n_resamples=9999, method="percentile", rng=1)
    assert unpaired(A, B).bootstrap == pytest.approx(tuple(theirs.confidence_interval), abs=2e-3)


@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_t_intervals_cover_what_they_claim_and_the_bootstrap_less(
    seeds: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intervals, "_RESAMPLES", 80)
    rng = np.random.default_rng(seeds)
    trials, truth = 400, 0.03
    hits, bootstrapped, welch = 0, 0, 0
    for _ in range(trials):
        shared, noise = rng.normal(0.6, 0.02, seeds), rng.normal(0, 0.01, (2, seeds))
        found = paired(list(shared + truth + noise[0]), list(shared + noise[1]))
        assert found.interval is not None
        assert found.bootstrap is not None
        hits += found.interval[0] <= truth <= found.interval[1]
        bootstrapped += found.bootstrap[0] <= truth <= found.bootstrap[1]
        alone = _welch(rng.normal(0.6 + truth, 0.01, seeds), rng.normal(0.6, 0.03, seeds), monkeypatch)
        welch += alone[0] <= truth <= alone[1]
    error = 3 * math.sqrt(0.95 * 0.05 / trials)  # three standard errors of a share of 400
    assert hits / trials == pytest.approx(0.95, abs=error)
    # Welch's is an approximation: with so unequal spreads and three seeds it is known to cover less.
    assert welch / trials > {3: 0.88, 5: 0.95 - error, 10: 0.95 - error}[seeds]
    assert bootstrapped / trials < {3: 0.85, 5: 0.9, 10: 0.95}[seeds]


def _welch(a: np.ndarray, b: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> tuple[float, float]:
    monkeypatch.setattr("sparta_lite.ablation.statistics._bootstrap_two", lambda *_: (0.0, 0.0))
    found = unpaired(list(a), list(b)).interval
    assert found is not None
    return found


def test_pairing_takes_out_what_the_seeds_share() -> None:
    shared = np.array([0.5, 0.6, 0.7, 0.55, 0.65])
    ours, others = list(shared + np.array([0.02, 0.03, 0.02, 0.03, 0.02])), list(shared)
    assert paired(ours, others).separable
    assert not unpaired(ours, others).separable


def test_what_shows_no_spread_has_no_interval() -> None:
    assert paired([0.6], [0.5]).interval is None
    assert unpaired([0.6, 0.7], [0.5]).interval is None
    assert paired([0.5, 0.75], [0.25, 0.5]).interval is None  # twice the same by chance
    assert unpaired([0.75, 0.75], [0.5, 0.5]).interval is None
    assert (paired(A, A).interval, paired(A, A).bootstrap) == (None, None)
    assert unpaired([0.5, 0.5], [0.5, 0.5]).interval is None
    assert not paired(A, A).separable
    assert not paired([0.6], [0.5]).separable


def test_deviations_are_over_n_minus_1() -> None:
    assert deviation([1.0, 2.0, 4.0]) == pytest.approx(np.std([1.0, 2.0, 4.0], ddof=1))
    assert deviation([1.0]) is None
