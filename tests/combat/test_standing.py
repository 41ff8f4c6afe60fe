from __future__ import annotations

import json
import math
import statistics
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparta_lite.combat import (
    KINDS,
    Duel,
    MatchSettings,
    Rating,
    ReputationSettings,
    Standing,
    begin,
    judges,
    schedule,
    settle,
)
from sparta_lite.combat.standing import handicaps
from sparta_lite.errors import SpartaError

from .arenas import TRIBE, bouts

kinds = st.sampled_from(sorted(KINDS))
updating = st.sampled_from(sorted(kind for kind in KINDS if KINDS[kind].rating == "update"))


def at(reputations: dict[str, float]) -> dict[str, Rating]:
    return {name: Rating(reputation, 0.5) for name, reputation in reputations.items()}


@given(bouts(score=st.none()), kinds)
def test_no_vote_no_change(voteless, kind):
    settings = ReputationSettings(kind=kind)
    standing = begin(TRIBE, settings)
    settlement = settle(standing, voteless, settings)
    assert set(settlement.verdicts) == {None}
    assert all(after == standing.ratings for after in settlement.history)
    assert settlement.standing.ratings == standing.ratings


@given(bouts(), kinds, st.data())
def test_a_duel_without_votes_leaves_all_others_as_they_were(cast, kind, data):
    settings = ReputationSettings(kind=kind)
    place = data.draw(st.integers(0, len(cast) - 1))
    silenced = [(duel, {} if duel.index == place else votes) for duel, votes in cast]
    left_out = [(duel, votes) for duel, votes in cast if duel.index != place]
    with_it = settle(begin(TRIBE, settings), silenced, settings)
    without = settle(begin(TRIBE, settings), left_out, settings)
    assert with_it.standing == without.standing
    assert with_it.history[:place] + with_it.history[place + 1 :] == without.history


@given(bouts(), updating)
def test_only_the_fighters_of_a_duel_move(cast, kind):
    settings = ReputationSettings(kind=kind)
    standing = begin(TRIBE, settings)
    before = standing.ratings
    for (duel, _), after in zip(cast, settle(standing, cast, settings).history, strict=True):
        assert all(after[name] == before[name] for name in judges(duel, TRIBE))
        before = after


@given(bouts())
def test_in_the_papers_order_fighters_may_change_places(cast):
    settings = ReputationSettings()
    turned = [
        (
            Duel(duel.index, duel.instruction, (duel.fighters[1], duel.fighters[0])),
            {judge: (pair[1], pair[0]) for judge, pair in votes.items()},
        )
        for duel, votes in cast
    ]
    here = settle(begin(TRIBE, settings), cast, settings)
    there = settle(begin(TRIBE, settings), turned, settings)
    assert here.history == there.history


@given(bouts(), updating)
def test_judges_weigh_by_their_reputation_at_that_duel_or_alike(cast, kind):
    settings = ReputationSettings(kind=kind)
    standing = begin(TRIBE, settings)
    settlement = settle(standing, cast, settings)
    before = standing.ratings
    for verdict, after in zip(settlement.verdicts, settlement.history, strict=True):
        if verdict is not None:
            share = {name: 1.0 if kind == "uniform" else before[name].reputation for name in verdict.weights}
            total = sum(share.values())
            assert verdict.weights == pytest.approx({name: value / total for name, value in share.items()})
        before = after


@given(bouts(), bouts(), kinds)
def test_a_standing_survives_json_bit_for_bit(first, second, kind):
    settings = ReputationSettings(kind=kind)
    standing = settle(begin(TRIBE, settings), first, settings).standing
    restored = Standing.from_json(json.loads(json.dumps(standing.to_json())))
    assert restored == standing
    assert settle(restored, second, settings) == settle(standing, second, settings)


@pytest.mark.parametrize("data", [{}, {"iteration": 1, "ratings": {"a": {}}, "factors": {}}, [], None, "x"])
def test_a_damaged_record_is_refused(data):
    with pytest.raises(SpartaError, match="damaged"):
        Standing.from_json(data)


DAMAGED = {
    "an iteration of text": lambda data: data.update(iteration="1"),
    "half an iteration": lambda data: data.update(iteration=1.5),
    "an iteration below zero": lambda data: data.update(iteration=-1),
    "a true iteration": lambda data: data.update(iteration=True),
    "a reputation of text": lambda data: data["ratings"]["ada"].update(reputation="100"),
    "an infinite reputation": lambda data: data["ratings"]["ada"].update(reputation=math.inf),
    "no number": lambda data: data["ratings"]["ada"].update(reputation=math.nan),
    "thousands of digits": lambda data: data["ratings"]["ada"].update(reputation=10**5000),
    "no deviation": lambda data: data["ratings"]["ada"].update(deviation=0.0),
    "a rating of text": lambda data: data["ratings"].update(ada="deviation"),
    "changes of text": lambda data: data["ratings"]["ada"].update(changes="12"),
    "changes of an object": lambda data: data["ratings"]["ada"].update(changes={}),
    "a factor too few": lambda data: data["factors"].pop("bea"),
    "a result with oneself": lambda data: data["results"][0][0].__setitem__(0, data["results"][0][0][1]),
    "a result of nobody": lambda data: data["results"][0][0].__setitem__(0, "nobody"),
    "a result of a list": lambda data: data["results"][0][0].__setitem__(0, ["ada"]),
    "a result of two": lambda data: data["results"][0][0].pop(),
    "a ballot too long": lambda data: data["ballots"][0].__setitem__(0, "+" * 12),
    "a ballot of words": lambda data: data["ballots"][0].__setitem__(0, "?" * len(TRIBE)),
    "a judge that never errs": lambda data: data["reliability"].update(ada=1.0),
    "a judge that is not known": lambda data: data["reliability"].pop("ada"),
    "a list nested deeply": lambda data: data.update(results=nested(100_000)),
}


def nested(levels):
    inner = []
    for _ in range(levels):
        inner = [inner]
    return inner


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_record_that_does_not_fit_is_refused(damage):
    settings = ReputationSettings(kind="reliability")
    duels = schedule(12, TRIBE, begin(TRIBE, settings).reputations, MatchSettings(), seed=3, iteration=0)
    cast = [(duel, dict.fromkeys(judges(duel, TRIBE), (4.0 + duel.index % 5, 6.0))) for duel in duels]
    data = json.loads(json.dumps(settle(begin(TRIBE, settings), cast, settings).standing.to_json()))
    assert Standing.from_json(data).to_json() == data
    DAMAGED[damage](data)
    with pytest.raises(SpartaError) as refused:
        Standing.from_json(data)
    assert str(refused.value).startswith("the recorded reputations are damaged (")
    assert len(str(refused.value)) < 200


def test_a_fair_start_gives_everyone_the_same():
    standing = begin(TRIBE, ReputationSettings())
    assert standing == Standing(0, dict.fromkeys(TRIBE, Rating(100.0, 0.5)), dict.fromkeys(TRIBE, 1.0))


@given(
    st.fixed_dictionaries({name: st.integers(0, 100).map(lambda percent: percent / 100) for name in TRIBE})
)
def test_an_uneven_start_has_mean_100_and_deviation_20_in_the_priors_order(prior):
    reputations = begin(TRIBE, ReputationSettings(start="uneven", prior=prior)).reputations
    if len(set(prior.values())) == 1:
        assert set(reputations.values()) == {100.0}
        return
    assert statistics.fmean(reputations.values()) == pytest.approx(100.0)
    assert statistics.pstdev(reputations.values()) == pytest.approx(20.0)
    for a in TRIBE:
        assert all(reputations[a] < reputations[b] for b in TRIBE if prior[a] < prior[b])


def test_an_uneven_start_never_begins_under_the_floor():
    tribe = [f"m{number}" for number in range(40)]
    prior = dict.fromkeys(tribe, 0.5) | {"m7": 0.0}  # 6.2 standard deviations under the mean
    assert begin(tribe, ReputationSettings(start="uneven", prior=prior)).reputations["m7"] == 10.0


@pytest.mark.parametrize(
    "prior", [None, {"ada": 0.4}, dict.fromkeys(TRIBE[:-1], 0.5) | {"eli": float("nan")}]
)
def test_an_uneven_start_needs_everyones_prior(prior):
    with pytest.raises(SpartaError, match=r"no score for .*eli"):
        begin(TRIBE, ReputationSettings(start="uneven", prior=prior))


def test_dynamic_handicaps_follow_the_last_ranking_until_iteration_seven():
    reading = KINDS["published-dynamic"]
    ones = dict.fromkeys("abcdefgh", 1.0)
    up = at({name: 90.0 + place for place, name in enumerate("abcdefgh")})
    down = at({name: 90.0 - place for place, name in enumerate("abcdefgh")})
    assert handicaps(reading, 1, up, ones) == ones
    assert handicaps(reading, 2, up, ones) == {**ones, "a": 0.0}
    assert handicaps(reading, 4, up, ones) == pytest.approx({**ones, "a": 0.0, "b": 0.1, "c": 0.2})
    seventh = handicaps(reading, 7, down, {**ones, "a": 0.0})
    assert seventh == pytest.approx({**ones, "h": 0.0, "g": 0.1, "f": 0.2, "e": 0.3, "d": 0.4, "c": 0.5})
    assert handicaps(reading, 8, up, seventh) == seventh


def test_static_handicaps_stay_and_grow_by_the_lowest_newcomer():
    reading = KINDS["published-static"]
    ones = dict.fromkeys("abcd", 1.0)
    up = at({"a": 90.0, "b": 91.0, "c": 92.0, "d": 93.0})
    down = at({"a": 99.0, "b": 91.0, "c": 92.0, "d": 90.0})
    second = handicaps(reading, 2, up, ones)
    third = handicaps(reading, 3, down, second)
    fourth = handicaps(reading, 4, down, third)
    assert second == {**ones, "a": 0.0}
    assert third == pytest.approx({**ones, "a": 0.0, "d": 0.1})
    assert fourth == pytest.approx({**ones, "a": 0.0, "d": 0.1, "b": 0.2})
    fifth = handicaps(reading, 5, up, fourth)
    assert handicaps(reading, 6, up, fifth) == fifth  # nobody is left
    assert handicaps(reading, 8, up, fourth) == fourth


def test_a_thousand_duels_of_ten_are_settled_in_well_under_a_second():
    tribe = [f"m{number}" for number in range(10)]
    settings = ReputationSettings()
    started = time.process_time()
    standing = begin(tribe, settings)
    duels = schedule(1000, tribe, standing.reputations, MatchSettings(), seed=1, iteration=0)
    cast = [(duel, dict.fromkeys(judges(duel, tribe), (4.0 + duel.index % 5, 6.0))) for duel in duels]
    settle(standing, cast, settings)
    assert time.process_time() - started < 0.8
