from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparta_lite.combat import KINDS, Duel, ReputationSettings, begin, judges, preferences, settle

from .arenas import TRIBE, bouts, scores

kinds = st.sampled_from(sorted(KINDS))


def pairs_of(cast, settings, minimum_margin=0.0):
    return preferences(cast, settle(begin(TRIBE, settings), cast, settings), settings, minimum_margin)


@given(bouts(), kinds)
def test_the_higher_score_is_chosen(cast, kind):
    pairs = pairs_of(cast, ReputationSettings(kind=kind))
    assert len(pairs) == len(cast)
    for (duel, _), pair in zip(cast, pairs, strict=True):
        if pair is not None:
            assert pair.duel == duel
            assert pair.scores[pair.chosen] > pair.scores[pair.rejected]
            assert pair.margin == pair.scores[pair.chosen] - pair.scores[pair.rejected]


@given(bouts(score=scores), kinds, st.data())
def test_a_tie_makes_no_pair(cast, kind, data):
    place = data.draw(st.integers(0, len(cast) - 1))
    tied = [
        (duel, {judge: (pair[0], pair[0]) for judge, pair in votes.items()} if duel.index == place else votes)
        for duel, votes in cast
    ]
    assert pairs_of(tied, ReputationSettings(kind=kind))[place] is None


@given(bouts(score=st.none()), kinds)
def test_a_duel_without_a_valid_vote_makes_no_pair(voteless, kind):
    assert set(pairs_of(voteless, ReputationSettings(kind=kind))) == {None}


@given(bouts(), kinds, st.floats(0.0, 9.0))
def test_a_minimum_margin_only_drops_the_pairs_within_it(cast, kind, minimum):
    settings = ReputationSettings(kind=kind)
    kept = pairs_of(cast, settings, minimum)
    for pair, strict in zip(pairs_of(cast, settings), kept, strict=True):
        assert strict == (pair if pair is not None and pair.margin > minimum else None)


def test_a_margin_must_exceed_the_minimum_and_any_margin_makes_a_pair_by_default():
    cast = [(Duel(0, 0, ("ada", "bea")), {"cai": (7.0, 5.0)})]
    assert pairs_of(cast, ReputationSettings(), minimum_margin=2.0) == (None,)
    assert pairs_of(cast, ReputationSettings(), minimum_margin=1.999) != (None,)
    narrow = [(Duel(0, 0, ("ada", "bea")), {"cai": (5.0, math.nextafter(5.0, 6.0))})]
    assert pairs_of(narrow, ReputationSettings())[0].chosen == 1


# Duel 0 hangs on two votes. Later duels ruin cai, who chose ada, and raise dov, who chose bea.
FALL_OF_CAI = [(Duel(0, 0, ("ada", "bea")), {"cai": (7.0, 5.0), "dov": (5.0, 6.9)})]
FALL_OF_CAI += [
    (duel, dict.fromkeys(judges(duel, TRIBE), (1.0, 10.0)))
    for duel in (Duel(number, number, ("cai", "dov")) for number in range(1, 6))
]


@pytest.mark.parametrize(
    ("settings", "chosen"),
    [
        (ReputationSettings(), 0),
        (ReputationSettings(pair_weights="after-iteration"), 1),
        (ReputationSettings(kind="published-normal", scale=1.0), 1),
        (ReputationSettings(kind="published-normal", scale=1.0, pair_weights="at-duel"), 0),
    ],
)
def test_weights_after_the_iteration_can_turn_a_pair_round(settings, chosen):
    assert pairs_of(FALL_OF_CAI, settings)[0].chosen == chosen


@pytest.mark.parametrize("pair_weights", ["at-duel", "after-iteration"])
def test_equal_weights_do_not_care_when_they_are_taken(pair_weights):
    pair = pairs_of(FALL_OF_CAI, ReputationSettings(kind="uniform", pair_weights=pair_weights))[0]
    assert pair.scores == (6.0, 5.95)
