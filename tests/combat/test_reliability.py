from __future__ import annotations

import json
import math
import random
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq, minimize_scalar

from sparta_lite.combat import (
    Bout,
    Duel,
    ReputationSettings,
    Standing,
    begin,
    judges,
    preferences,
    settle,
)
from sparta_lite.combat.reliability import PRIOR, accuracies, ballots, toned, trust

from .arenas import TRIBE, bouts

RULES = ReputationSettings(kind="reliability")
TEN = tuple(f"m{number}" for number in range(10))
marks = st.text("+-.", min_size=5, max_size=5).filter(lambda ballot: ballot.count(".") < 4)


def pool(seed: int, hostile: int, duels: int) -> tuple[list[Bout], list[int | None]]:
    """Duels of ten, and the truth about each (None: answers alike).

    Every judge scores by what is right, by an error that all share, and by one of its own; by itself it
    orders three of four unequal pairs rightly. The first ``hostile`` judge upside down, three times as wide,
    and answer worse.
    """
    rng = random.Random(seed)
    step = 0.6744897501960817 * 2**0.5  # three quarters of the normal lie below 0.674 deviations
    cast: list[Bout] = []
    truth: list[int | None] = []
    for index in range(duels):
        first, second = rng.sample(TEN, 2)
        right = [rng.random() < (0.25 if int(name[1]) < hostile else 0.55) for name in (first, second)]
        shared = [rng.gauss(0.0, 0.5**0.5) for _ in right]
        votes = {}
        for judge in judges(Duel(index, index, (first, second)), TEN):
            felt = [
                step * good + error + rng.gauss(0.0, 0.5**0.5)
                for good, error in zip(right, shared, strict=True)
            ]
            factor = -3.0 if int(judge[1]) < hostile else 1.0
            scores = [min(max(5.5 + factor * (feeling - step / 2), 1.0), 10.0) for feeling in felt]
            votes[judge] = (scores[0], scores[1])
        cast.append((Duel(index, index, (first, second)), votes))
        truth.append(None if right[0] == right[1] else int(right[1]))
    return cast, truth


def share_right(cast: Sequence[Bout], truth: Sequence[int | None], rules: ReputationSettings) -> float:
    """Of the duels of unequal answers, how many the verdicts decide rightly."""
    verdicts = settle(begin(TEN, rules), cast, rules).verdicts
    told = [verdict.winner == side for verdict, side in zip(verdicts, truth, strict=True) if side is not None]
    return sum(told) / len(told)


def log_posterior(accuracy: float, cast: Sequence[str], judge: int, others: Sequence[float]) -> float:
    """Of one judge's accuracy, when the others' alone tell which answer is better."""
    found = PRIOR[0] * math.log(accuracy) + PRIOR[1] * math.log(1 - accuracy)
    for ballot in cast:
        if ballot[judge] == ".":
            continue
        first = second = 1.0
        for other, mark in enumerate(ballot):
            if other != judge and mark != ".":
                first *= others[other] if mark == "+" else 1 - others[other]
                second *= others[other] if mark == "-" else 1 - others[other]
        right = (first if ballot[judge] == "+" else second) / (first + second)
        found += math.log(accuracy * right + (1 - accuracy) * (1 - right))
    return found


def test_em_by_hand() -> None:
    # Three judges, each outvoted in 4 of 20 duels, 8 unanimous. All have one p: with it the unanimous are
    # right with u = p^3 / (p^3 + (1-p)^3) and a majority of two with p, so that
    # p (8 + 20) = 6 + 8 u + 4 (p + p + (1 - p)).
    cast = ["+++", "---"] * 4 + ["++-", "--+", "+-+", "-+-", "-++", "+--"] * 2
    p = brentq(lambda p: 6 + 8 * p**3 / (p**3 + (1 - p) ** 3) + 4 * (p + 1) - 28 * p, 0.55, 0.98)
    assert accuracies(cast, "abc") == pytest.approx(dict.fromkeys("abc", p), abs=1e-7)


@settings(max_examples=40)
@given(st.lists(marks, min_size=1, max_size=15))
def test_no_judge_vouches_for_itself(cast: list[str]) -> None:
    """Where EM ends, each judge's accuracy is the likeliest one given the others' votes and accuracies."""
    found = list(accuracies(cast, TRIBE).values())
    for judge, accuracy in enumerate(found):
        best = minimize_scalar(
            lambda p, judge=judge: -log_posterior(p, cast, judge, found),
            bounds=(0.01, 0.99),
            method="bounded",
            options={"xatol": 1e-8},
        ).x
        assert accuracy == pytest.approx(best, abs=1e-3)


def test_without_votes_the_prior_holds_and_the_weight_is_the_log_odds() -> None:
    assert accuracies([], TRIBE) == dict.fromkeys(TRIBE, 0.75)
    assert trust(0.75) == pytest.approx(math.log(3))
    assert trust(0.5) == trust(0.2) == 0.0


def test_who_fights_fails_or_sees_no_difference_casts_no_ballot() -> None:
    cast = [
        (Duel(0, 0, ("ada", "bea")), {"cai": (3.0, 2.0), "dov": (2.0, 3.0), "eli": (4.0, 4.0)}),
        (Duel(1, 1, ("ada", "cai")), {"bea": (3.0, 2.0), "dov": (2.0, 3.0), "eli": (None, 4.0)}),
        (Duel(2, 2, ("ada", "cai")), {"bea": (3.0, 2.0), "dov": (3.0, 3.0)}),
    ]
    assert ballots(cast, TRIBE) == ("..+-.", ".+.-.")


def test_loud_judges_are_drawn_to_their_mean_and_quiet_ones_left_alone() -> None:
    votes = {"cai": (4.0, 6.0), "dov": (1.0, 9.0), "eli": (5.0, 5.5)}
    [(_, level)] = toned([(Duel(0, 0, ("ada", "bea")), votes)])
    assert level == {"cai": (4.0, 6.0), "dov": (4.0, 6.0), "eli": (5.0, 5.5)}
    indifferent = {"cai": (4.0, 4.0), "dov": (1.0, 9.0), "eli": (None, 5.5)}
    assert toned([(Duel(0, 0, ("ada", "bea")), indifferent)]) == [(Duel(0, 0, ("ada", "bea")), indifferent)]


@settings(max_examples=40)
@given(bouts(), st.randoms(use_true_random=False))
def test_the_order_of_duels_changes_no_weight(cast, rng) -> None:
    mixed = list(cast)
    rng.shuffle(mixed)
    here, there = (settle(begin(TRIBE, RULES), each, RULES) for each in (cast, mixed))
    assert here.standing.reliability == there.standing.reliability
    assert here.standing.ratings == there.standing.ratings


@settings(max_examples=40)
@given(bouts(), st.permutations(TRIBE))
def test_names_and_sides_mean_nothing(cast, others) -> None:
    renamed = dict(zip(TRIBE, others, strict=True))
    moved = [
        (
            Duel(duel.index, duel.instruction, (renamed[duel.fighters[1]], renamed[duel.fighters[0]])),
            {renamed[judge]: (pair[1], pair[0]) for judge, pair in votes.items()},
        )
        for duel, votes in cast
    ]
    here, there = (settle(begin(TRIBE, RULES), each, RULES).standing.reliability for each in (cast, moved))
    assert there == {renamed[name]: value for name, value in here.items()}


@settings(max_examples=40)
@given(bouts())
def test_shares_are_not_negative_and_sum_to_one(cast) -> None:
    for verdict in settle(begin(TRIBE, RULES), cast, RULES).verdicts:
        if verdict is not None:
            assert all(share >= 0.0 for share in verdict.weights.values())
            assert math.fsum(verdict.weights.values()) == pytest.approx(1.0)


@settings(max_examples=20)
@given(st.randoms(use_true_random=False))
def test_who_agrees_with_all_weighs_most_and_who_always_disagrees_nothing(rng) -> None:
    cast = []
    for _ in range(60):  # the first votes as most do, the last against them
        middle = ["+" if rng.random() < 0.75 else "-" for _ in range(5)]
        first = "+" if middle.count("+") > 2 else "-"
        cast.append(first + "".join(middle) + ("-" if first == "+" else "+"))
    found = accuracies(cast, "abcdefg")
    assert max(found, key=lambda name: found[name]) == "a"
    assert trust(found["g"]) == 0.0


@settings(max_examples=40)
@given(bouts(), bouts())
def test_a_standing_survives_json_and_a_second_iteration_remembers(first, second) -> None:
    rules = ReputationSettings(kind="reliability", memory=2)
    standing = settle(begin(TRIBE, rules), first, rules).standing
    restored = Standing.from_json(json.loads(json.dumps(standing.to_json())))
    assert restored == standing
    after = settle(restored, second, rules).standing
    assert after == settle(standing, second, rules).standing
    both = (*ballots(first, TRIBE), *ballots(second, TRIBE))
    assert after.reliability == accuracies(both, TRIBE)
    assert settle(after, second, rules).standing.ballots == (ballots(second, TRIBE),) * 2


@settings(max_examples=40)
@given(bouts())
def test_reliable_pairs_are_the_verdicts_and_do_not_care_when_weights_are_taken(cast) -> None:
    late = ReputationSettings(kind="reliability", pair_weights="after-iteration")
    pairs = preferences(cast, settle(begin(TRIBE, late), cast, late), late)
    assert pairs == preferences(cast, settle(begin(TRIBE, RULES), cast, RULES), RULES)


def test_rating_and_weights_may_be_chosen_apart() -> None:
    cast, _ = pool(1, hostile=3, duels=60)
    mixed = ReputationSettings(kind="paper", judge_weights="reliability")
    settlement = settle(begin(TEN, mixed), cast, mixed)
    assert settlement.standing.results == ()
    reliable = settle(begin(TEN, RULES), cast, RULES)
    assert [verdict.weights for verdict in settlement.verdicts] == [
        verdict.weights for verdict in reliable.verdicts
    ]
    assert settlement.standing.ratings != reliable.standing.ratings
    by_hand = ReputationSettings(kind="paper", judge_weights="uniform")
    uniform = ReputationSettings(kind="uniform")
    assert settle(begin(TEN, by_hand), cast, by_hand) == settle(begin(TEN, uniform), cast, uniform)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("hostile", [0, 1, 3])
def test_three_loud_hostile_judges_of_ten_decide_nothing(seed: int, hostile: int) -> None:
    """As good as if the hostile judges had never voted, and a healthy tribe loses nothing."""
    cast, truth = pool(seed, hostile, duels=300)
    silenced = [
        (duel, {judge: pair for judge, pair in votes.items() if int(judge[1]) >= hostile})
        for duel, votes in cast
    ]
    uniform = ReputationSettings(kind="uniform")
    best = share_right(silenced, truth, uniform)
    assert share_right(cast, truth, RULES) > best - 0.03
    if hostile == 3:
        assert share_right(cast, truth, uniform) < best - 0.15
        found = settle(begin(TEN, RULES), cast, RULES).standing.reliability
        assert max(trust(found[name]) for name in TEN[:3]) == 0.0


def test_a_vote_without_weight_alone_is_no_verdict() -> None:
    cast, _ = pool(0, hostile=3, duels=200)
    standing = settle(begin(TEN, RULES), cast, RULES).standing
    lonely = (Duel(0, 0, ("m5", "m6")), {"m0": (9.0, 1.0)})
    assert settle(standing, [lonely], RULES).verdicts == (None,)
