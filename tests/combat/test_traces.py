from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import sparta_lite.combat
from sparta_lite.combat import (
    KINDS,
    Duel,
    Rating,
    ReputationSettings,
    Standing,
    as_trace,
    begin,
    preferences,
    replay,
    replay_preferences,
    settle,
)
from sparta_lite.errors import SpartaError

from .arenas import TRIBE, bouts

GOLDEN = Path(__file__).parents[1] / "golden"
VARIANTS = ["normal", "dynamic", "static"]


def golden(variant: str) -> dict[str, Any]:
    return json.loads((GOLDEN / f"reputation_{variant}.json").read_text())


@pytest.mark.parametrize("variant", VARIANTS)
def test_reputations_and_deviations_of_the_published_code(variant):
    trace = golden(variant)
    recorded = [after for iteration in trace["iterations"] for after in iteration["ratings_after_each_duel"]]
    replayed = replay(trace, kind=f"published-{variant}")
    assert len(replayed) == len(recorded) == 25 * len(trace["iterations"])
    for ours, theirs in zip(replayed, recorded, strict=True):
        assert ours.keys() == theirs.keys()
        for name, (reputation, deviation) in theirs.items():
            assert ours[name] == pytest.approx((reputation, deviation), rel=0, abs=1e-9)


@pytest.mark.parametrize("variant", VARIANTS)
def test_preference_pairs_of_the_published_code(variant):
    trace = golden(variant)
    for iteration, pairs in zip(
        trace["iterations"], replay_preferences(trace, kind=f"published-{variant}"), strict=True
    ):
        assert len(pairs) == len(iteration["preferences"])
        for theirs, ours in zip(iteration["preferences"], pairs, strict=True):
            assert (ours is None) == (theirs is None)
            if ours is not None:
                assert ours.duel.fighters[ours.chosen] == theirs["winner"]
                assert ours.duel.fighters[ours.rejected] == theirs["loser"]
                assert ours.margin == pytest.approx(theirs["margin"], rel=0, abs=1e-9)
                decided = (ours.scores[ours.chosen], ours.scores[ours.rejected])
                assert decided == pytest.approx(theirs["scores"], rel=0, abs=1e-9)


@pytest.mark.parametrize("variant", ["dynamic", "static"])
def test_score_factors_of_the_published_code(variant):
    trace = golden(variant)
    settings = ReputationSettings(kind=f"published-{variant}")
    standing = begin(list(trace["start"]), settings)
    for iteration in trace["iterations"]:
        assert standing.factors == pytest.approx(iteration["weights"], rel=0, abs=1e-9)
        cast = [
            (Duel(index, index, tuple(duel["fighters"])), duel["scores"])
            for index, duel in enumerate(iteration["duels"])
        ]
        standing = settle(standing, cast, settings).standing


def test_replay_is_the_function():
    assert sparta_lite.combat.replay is replay
    assert callable(replay)


def test_the_paper_is_the_default_and_a_kind_replaces_that_of_the_settings():
    trace = golden("normal")
    dynamic = ReputationSettings(kind="published-dynamic")
    assert replay(trace) == replay(trace, kind="paper") == replay(trace, "paper", dynamic)
    assert replay(trace, settings=dynamic) == replay(trace, "published-dynamic")
    assert replay(trace, "paper") != replay(trace, "published-normal")


@given(st.lists(bouts(), max_size=4), st.sampled_from(sorted(KINDS)))
def test_a_recorded_run_replays_to_its_own_reputations_and_pairs(iterations, kind):
    settings = ReputationSettings(kind=kind)
    start = standing = begin(TRIBE, settings)
    history, pairs = [], []
    for cast in iterations:
        settlement = settle(standing, cast, settings)
        history += settlement.history
        pairs.append(preferences(cast, settlement, settings))
        standing = settlement.standing
    trace = json.loads(json.dumps(as_trace(start, iterations)))
    assert replay(trace, kind) == [
        {name: (rating.reputation, rating.deviation) for name, rating in after.items()} for after in history
    ]
    assert replay_preferences(trace, kind) == pairs


def test_a_trace_starts_where_it_says():
    start = Standing(0, {"a": Rating(40.0, 2.0), "b": Rating(90.0, 3.0), "c": Rating(50.0, 0.5)}, {})
    trace = as_trace(start, [[(Duel(0, 0, ("a", "b")), {"c": (None, 4.0)})]])
    assert replay(trace) == [{"a": (40.0, 2.0), "b": (90.0, 3.0), "c": (50.0, 0.5)}]


def test_a_score_may_leave_its_range_by_a_rounding_error():
    trace = golden("normal")
    trace["iterations"][0]["duels"][0]["scores"]["m0"] = [10.000001, 0.999999]
    assert replay(trace)[0] != replay(golden("normal"))[0]


@pytest.mark.parametrize(
    ("kind", "nearest"), [("published", "published-normal"), ("papr", "paper"), ("unifrom", "uniform")]
)
def test_an_unknown_kind_is_refused_with_the_nearest_valid_one(kind, nearest):
    with pytest.raises(SpartaError, match="did you mean") as refused:
        replay(golden("normal"), kind=kind)
    assert nearest in str(refused.value)


SECOND = "trace, iteration 1, duel 2"


def scored(pair: list[Any]) -> Callable[[dict[str, Any]], None]:
    return lambda duel: duel.update(scores=dict.fromkeys(duel["scores"], pair))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda duel: duel.pop("fighters"), f"{SECOND}: 'fighters' is missing"),
        (lambda duel: duel.pop("scores"), f"{SECOND}: 'scores' is missing"),
        (lambda duel: duel.update(fighters=["m0"]), f"{SECOND}: the fighters are"),
        (lambda duel: duel.update(fighters=["m0", "m0"]), f"{SECOND}: the fighters are"),
        (lambda duel: duel.update(fighters=["m0", "m9"]), f"{SECOND}: 'm9' is not in the tribe"),
        (lambda duel: duel.update(fighters=["m0", ["m1"]]), f"{SECOND}: .* is not in the tribe"),
        (lambda duel: duel["scores"].update(m9=[1, 2]), f"{SECOND}: 'm9' is not in the tribe"),
        (
            lambda duel: duel["scores"].update({duel["fighters"][0]: [1, 2]}),
            f"{SECOND}: .* fights and judges",
        ),
        (scored([5]), f"{SECOND}: .* cast \\[5\\]"),
        (scored([5, 11]), f"{SECOND}: .* scored 11"),
        (scored([0.5, 2]), f"{SECOND}: .* scored 0.5"),
        (scored(["7", 2]), f"{SECOND}: .* scored '7'"),
        (scored([True, 2]), f"{SECOND}: .* scored True"),
        (scored([float("nan"), 2]), "scored nan"),
    ],
)
def test_a_malformed_duel_is_refused_by_its_place(change, says):
    trace = copy.deepcopy(golden("static"))
    change(trace["iterations"][1]["duels"][2])
    with pytest.raises(SpartaError, match=says):
        replay(trace)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda trace: trace.pop("start"), "trace: 'start' is missing"),
        (lambda trace: trace.pop("iterations"), "trace: 'iterations' is missing"),
        (lambda trace: trace["iterations"][3].pop("duels"), "trace, iteration 3: 'duels' is missing"),
        (lambda trace: trace["start"]["m1"].pop("score"), "start of 'm1': score is None"),
        (lambda trace: trace["start"]["m1"].update(deviation=0), "start of 'm1': deviation is 0"),
        (lambda trace: trace["start"].update(m1=100.0), "start of 'm1': score is None"),
        (lambda trace: trace["start"].pop("m1"), "iteration 0, duel 0: 'm1' is not in the tribe"),
    ],
)
def test_a_malformed_trace_is_refused(change, says):
    trace = golden("static")
    change(trace)
    with pytest.raises(SpartaError, match=says):
        replay(trace)
