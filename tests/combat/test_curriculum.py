from __future__ import annotations

import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from sparta_lite.combat import CurriculumSettings, progress
from sparta_lite.combat.curriculum import arms, draw_arms, learned, probabilities, reward
from sparta_lite.errors import SpartaError

EXP3 = CurriculumSettings(kind="exp3")
weights = st.lists(st.floats(-600.0, 600.0), min_size=1, max_size=8)


def test_exp3_step_by_step() -> None:
    """Three iterations by the formula as it is written, one draw each."""
    plain = [1.0, 1.0, 1.0]
    ours: tuple[float, ...] = (0.0, 0.0, 0.0)
    for arm, earned in ((1, 0.9), (1, 0.2), (0, 0.7)):
        chances = [0.8 * weight / sum(plain) + 0.2 / 3 for weight in plain]
        assert probabilities(ours, 0.2) == pytest.approx(chances, rel=1e-12)
        ours = learned(ours, probabilities(ours, 0.2), [(arm, earned)])
        plain[arm] *= math.exp(earned / (3 * chances[arm]))
    assert [math.exp(weight) for weight in ours] == pytest.approx([weight / max(plain) for weight in plain])


def test_an_arm_drawn_often_learns_its_mean_reward_and_one_not_drawn_nothing() -> None:
    chances = [0.5, 0.3, 0.2]
    once = learned((0.0, 0.0, 0.0), chances, [(0, 0.5), (1, 0.4)])
    often = learned((0.0, 0.0, 0.0), chances, [(0, 0.2), (1, 0.4), (0, 0.8)])
    assert once == pytest.approx(often)
    assert once[0] - once[2] == pytest.approx(0.5 / (3 * 0.5))
    assert learned((0.0, -3.0), [0.7, 0.3], []) == (0.0, -3.0)


@given(weights, st.floats(0.01, 1.0))
def test_chances_sum_to_one_and_none_falls_under_its_share_of_chance(log_weights, gamma) -> None:
    chances = probabilities(log_weights, gamma)
    assert math.fsum(chances) == pytest.approx(1.0)
    assert min(chances) >= gamma / len(log_weights) * (1 - 1e-12)


def test_draws_follow_the_chances_and_the_counters() -> None:
    groups, chances = [(0, 1), (2,), (3, 4, 5)], [0.5, 0.2, 0.3]
    drawn = draw_arms(groups, chances, 6000, seed=5, iteration=1)
    met = Counter(instruction for _, instruction in drawn)
    expected = [1500.0, 1500.0, 1200.0, 600.0, 600.0, 600.0]
    assert chisquare([met[instruction] for instruction in range(6)], expected).pvalue > 0.01
    assert all(instruction in groups[arm] for arm, instruction in drawn)
    assert draw_arms(groups, chances, 50, 5, 1) == drawn[:50]
    assert draw_arms(groups, chances, 50, 5, 2) != drawn[:50] != draw_arms(groups, chances, 50, 6, 1)


def test_arms_are_instructions_or_those_that_begin_alike() -> None:
    texts = ["sort: 3 1", "double: 4", "sort: 2 9", "double:  7", "sort"]
    assert arms(texts, 0) == ((0,), (1,), (2,), (3,), (4,))
    assert arms(texts, 1) == ((0, 2), (1, 3), (4,))
    assert len(arms(texts, 2)) == 5


def test_a_reward_by_hand() -> None:
    # Scores .8 and .2 of the scale: difficulty 4 * .16 for both, and the very gap that is sought at first.
    assert reward((8.2, 2.8), 0.0, EXP3) == pytest.approx(0.3 * 0.64 + 0.7)
    # At last the target is .15, three deviations away.
    assert reward((8.2, 2.8), 1.0, EXP3) == pytest.approx(0.3 * 0.64 + 0.7 * math.exp(-4.5))
    assert reward((2.8, 8.2), 0.5, EXP3) == reward((8.2, 2.8), 0.5, EXP3)
    assert reward((10.0, 10.0), 0.5, EXP3) < reward((6.0, 5.0), 0.5, EXP3)


@given(st.tuples(st.floats(1.0, 10.0), st.floats(1.0, 10.0)), st.floats(0.0, 1.0))
def test_rewards_lie_between_0_and_1(scores, passed) -> None:
    assert 0.0 <= reward(scores, passed, EXP3) <= 1.0 + 1e-12


def test_progress_goes_from_0_to_1() -> None:
    assert [progress(iteration, 5) for iteration in range(5)] == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert progress(0, 1) == 0.0


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"kind": "exp4"}, "did you mean 'exp3'"),
        ({"group_words": -1}, "group_words is -1"),
        ({"gamma": 0.0}, "gamma is 0.0"),
        ({"gap_start": 1.5}, "gap_start is 1.5"),
        ({"gap_deviation": math.nan}, "gap_deviation is nan"),
    ],
)
def test_impossible_settings_are_refused(values, says) -> None:
    with pytest.raises(SpartaError, match=says):
        CurriculumSettings(**values)
