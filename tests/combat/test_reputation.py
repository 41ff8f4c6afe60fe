from __future__ import annotations

import itertools
import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparta_lite.combat import KINDS, Rating, ReputationSettings, update
from sparta_lite.errors import SpartaError

from .arenas import ratings, scores

PAPER = ReputationSettings()


def paper_change(own: Rating, other: Rating, own_score: float, other_score: float, number: int) -> float:
    """The paper's formula, term by term."""
    normal = statistics.NormalDist()
    z = (own.reputation - other.reputation) / (own.deviation**2 + other.deviation**2) ** 0.5
    kappa = max(5.0, 10.0 * 0.9 ** (number / 10.0))
    surprise = max(abs(normal.cdf(z) - normal.cdf(-z)), 0.01)
    return kappa * (own_score - other_score) * math.tanh(own.deviation) * surprise


@given(ratings, ratings, scores, scores, st.integers(1, 100))
def test_a_paper_update_follows_the_formula(first, second, score_1, score_2, number):
    after = update(first, second, (score_1, score_2), number, PAPER)
    expected_1 = max(10.0, first.reputation + paper_change(first, second, score_1, score_2, number))
    expected_2 = max(10.0, second.reputation + paper_change(second, first, score_2, score_1, number))
    assert after[0].reputation == pytest.approx(expected_1, rel=1e-12)
    assert after[1].reputation == pytest.approx(expected_2, rel=1e-12)


def test_one_update_by_hand():
    # z = 1, Phi(1) - Phi(-1) = 0.6827, kappa = 10 * 0.9^0.1, scores 2 apart, tanh(0.6) and tanh(0.8).
    after = update(Rating(101.0, 0.6), Rating(100.0, 0.8), (7.0, 5.0), 1, PAPER)
    step = 10 * 0.9895192582062144 * 2 * 0.6826894921370859
    assert after[0].reputation == pytest.approx(101.0 + step * 0.5370495669980353, rel=1e-14)
    assert after[1].reputation == pytest.approx(100.0 - step * 0.6640367702678490, rel=1e-14)


@given(ratings, ratings, scores, scores, st.integers(1, 100))
def test_in_the_papers_order_it_does_not_matter_who_stands_first(first, second, score_1, score_2, number):
    here = update(first, second, (score_1, score_2), number, PAPER)
    there = update(second, first, (score_2, score_1), number, PAPER)
    assert here == (there[1], there[0])


def test_in_sequence_the_second_fighter_meets_the_first_ones_new_reputation():
    settings = ReputationSettings(order="sequential")
    first, second = Rating(100.0, 0.5), Rating(100.0, 0.5)
    after = update(first, second, (9.0, 3.0), 1, settings)
    met = Rating(after[0].reputation, first.deviation)
    assert after[0].reputation == pytest.approx(100.0 + paper_change(first, second, 9.0, 3.0, 1), rel=1e-14)
    assert after[1].reputation == pytest.approx(100.0 + paper_change(second, met, 3.0, 9.0, 1), rel=1e-14)
    assert after[1] != update(first, second, (9.0, 3.0), 1, PAPER)[1]


@given(ratings, ratings, scores, scores)
def test_the_scale_divides_every_change(first, second, score_1, score_2):
    whole = update(first, second, (score_1, score_2), 1, ReputationSettings(floor=1e-9))
    tenth = update(first, second, (score_1, score_2), 1, ReputationSettings(floor=1e-9, scale=10.0))
    for before, big, small in zip((first, second), whole, tenth, strict=True):
        if big.reputation > 1e-9:
            moved = big.reputation - before.reputation
            assert small.reputation - before.reputation == pytest.approx(moved / 10, rel=1e-6, abs=1e-11)


@given(ratings, ratings, scores, scores, st.sampled_from(sorted(KINDS)))
def test_reputation_never_falls_under_the_floor(first, second, score_1, score_2, kind):
    settings = ReputationSettings(kind=kind, kappa_0=1000.0, kappa_min=1000.0)
    for after in update(first, second, (score_1, score_2), 1, settings):
        assert after.reputation >= 10.0


def test_at_the_floor_the_change_that_took_place_is_remembered():
    after = update(Rating(11.0, 5.0), Rating(90.0, 5.0), (1.0, 10.0), 1, PAPER)
    assert after[0].reputation == 10.0
    assert after[0].changes == (-1.0,)


def test_kappa_falls_from_duel_to_duel_down_to_its_minimum():
    assert PAPER.kappa(10) == pytest.approx(9.0, rel=1e-15)
    assert PAPER.kappa(20) == pytest.approx(8.1, rel=1e-15)
    assert PAPER.kappa(65) > 5.0 == PAPER.kappa(66) == PAPER.kappa(1000)


def test_the_deviation_is_that_of_the_last_ten_changes():
    settings = ReputationSettings(kappa_0=200.0, kappa_min=200.0)
    first, second = Rating(100.0, 0.5), Rating(130.0, 0.5)
    path = [first.reputation]
    for number in range(1, 15):
        before = first
        first, second = update(first, second, (5.0 + number % 3, 6.0), number, settings)
        path.append(first.reputation)
        if number == 1:
            assert first.deviation == before.deviation
    changes = [after - before for before, after in itertools.pairwise(path)]
    assert first.changes == tuple(changes[-10:])
    assert statistics.pstdev(changes[-10:]) > 0.1
    assert first.deviation == pytest.approx(statistics.pstdev(changes[-10:]), rel=1e-12)


def test_the_deviation_has_a_minimum_from_the_second_change_on():
    first, second = Rating(100.0, 0.5), Rating(100.0, 0.5)
    first, second = update(first, second, (5.0, 5.0), 1, PAPER)
    assert (first.deviation, first.changes) == (0.5, (0.0,))
    first, second = update(first, second, (5.0, 5.0), 2, PAPER)
    assert (first.deviation, first.changes) == (0.1, (0.0, 0.0))


def test_single_points_of_a_kind_can_be_overridden():
    mixed = ReputationSettings(kind="published-dynamic", order="simultaneous", pair_weights="at-duel").reading
    assert (mixed.order, mixed.pair_weights) == ("simultaneous", "at-duel")
    assert (mixed.scale, mixed.handicap) == (10.0, "dynamic")
    assert ReputationSettings(kind="published-normal", scale=1.0).reading.scale == 1.0


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"kind": "publish-normal"}, "did you mean 'published-normal'"),
        ({"kind": "Uniform"}, "did you mean 'uniform'"),
        ({"order": "sequentially"}, "did you mean 'sequential'"),
        ({"pair_weights": "after-iterations"}, "did you mean 'after-iteration'"),
        ({"start": "even"}, "did you mean 'uneven'"),
        ({"scale": 0.0}, "reputation.scale is 0.0"),
        ({"floor": -1.0}, "reputation.floor is -1.0"),
        ({"kappa_0": math.nan}, "reputation.kappa_0 is nan"),
        ({"decay": 1.1}, "reputation.decay is 1.1"),
        ({"window": 1}, "reputation.window is 1"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(values, says):
    with pytest.raises(SpartaError, match=says):
        ReputationSettings(**values)
