from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparta_lite.combat import aggregate
from sparta_lite.errors import SpartaError

score = st.floats(1.0, 10.0)
weight = st.floats(10.0, 500.0)
judges = st.text("abcdefgh", min_size=1, max_size=3)
valid_votes = st.dictionaries(judges, st.tuples(score, score), min_size=1)


def test_reputations_weigh_the_scores():
    verdict = aggregate({"a": (8.0, 2.0), "b": (4.0, 6.0)}, {"a": 150.0, "b": 50.0})
    assert verdict is not None
    assert verdict.scores == (7.0, 3.0)
    assert verdict.winner == 0
    assert verdict.weights == {"a": 0.75, "b": 0.25}


def test_a_judge_that_failed_on_one_response_has_no_vote_on_the_other():
    verdict = aggregate(
        {"a": (8.0, None), "b": (4.0, 6.0), "c": (None, 1.0)}, {"a": 500.0, "b": 50.0, "c": 9.0}
    )
    assert verdict is not None
    assert verdict.scores == (4.0, 6.0)
    assert verdict.winner == 1
    assert verdict.weights == {"b": 1.0}


@pytest.mark.parametrize("votes", [{}, {"a": (None, None)}, {"a": (3.0, None), "b": (None, 3.0)}])
def test_without_a_valid_vote_there_is_no_verdict(votes):
    assert aggregate(votes, {"a": 100.0, "b": 100.0}) is None


@given(st.data(), valid_votes)
def test_weights_sum_to_one_and_scores_stay_within_the_votes(data, votes):
    verdict = aggregate(votes, data.draw(st.fixed_dictionaries(dict.fromkeys(votes, weight))))
    assert verdict is not None
    assert verdict.weights.keys() == votes.keys()
    assert math.fsum(verdict.weights.values()) == pytest.approx(1.0, abs=1e-12)
    for side in (0, 1):
        cast = [pair[side] for pair in votes.values()]
        assert min(cast) - 1e-9 <= verdict.scores[side] <= max(cast) + 1e-9


@given(st.data(), st.lists(score, min_size=2, max_size=8))
def test_judges_of_equal_weight_who_mirror_each_other_tie_exactly(data, first):
    second = data.draw(st.permutations(first))
    votes = {f"j{place}": pair for place, pair in enumerate(zip(first, second, strict=True))}
    verdict = aggregate(votes)
    assert verdict is not None
    assert verdict.winner is None


@pytest.mark.parametrize("score", [math.nan, math.inf])
def test_a_score_that_is_no_number_is_refused(score):
    with pytest.raises(SpartaError, match="'a' cast"):
        aggregate({"a": (score, 3.0)}, {"a": 100.0})
