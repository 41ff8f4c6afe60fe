from __future__ import annotations

import itertools
import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq, minimize

from sparta_lite.combat import Duel, Rating, ReputationSettings, begin, interval, settle
from sparta_lite.combat.bradley_terry import fit, maximum, results

from .arenas import TRIBE, bouts

RULES = ReputationSettings(kind="bradley-terry")
counts = st.integers(0, 6).map(lambda halves: halves / 2)
tables = st.integers(2, 5).flatmap(
    lambda size: st.lists(st.lists(counts, min_size=size, max_size=size), min_size=size, max_size=size)
)


def cleared(table: list[list[float]]) -> list[list[float]]:
    """Nobody fights against itself."""
    return [[0.0 if i == j else won for j, won in enumerate(row)] for i, row in enumerate(table)]


def log_likelihood(logs: np.ndarray, won: np.ndarray, virtual: float) -> float:
    """Of the tribe's ``logs`` with the virtual opponent at 0."""
    found = 0.0
    for i, j in itertools.permutations(range(len(logs)), 2):
        found += won[i][j] * -np.logaddexp(0.0, logs[j] - logs[i])
    return found - virtual / 2 * sum(np.logaddexp(0.0, log) + np.logaddexp(0.0, -log) for log in logs)


def test_two_players_differ_by_the_log_odds_of_their_duels() -> None:
    # With next to no virtual duels: 6 won, 2 lost; the error of a log-odds is sqrt(1/6 + 1/2).
    (first, second), errors = maximum([[0.0, 6.0], [2.0, 0.0]], 1e-7)
    assert first - second == pytest.approx(math.log(3), abs=1e-5)
    assert first == pytest.approx(-second, abs=1e-12)
    assert errors == pytest.approx([math.sqrt(1 / 6 + 1 / 2) / 2] * 2, rel=1e-5)


def test_a_balanced_three() -> None:
    # Four duels a pair, each worth 1/4: the information is 3 I - J, which is 3 on vectors of sum 0, so the
    # covariance is a third of the centring matrix, and its diagonal 1/3 * 2/3.
    logs, errors = maximum([[0.0, 2.0, 2.0], [2.0, 0.0, 2.0], [2.0, 2.0, 0.0]], 1e-7)
    assert logs == pytest.approx([0.0] * 3, abs=1e-12)
    assert errors == pytest.approx([math.sqrt(2 / 9)] * 3, rel=1e-5)


def test_a_ladder_of_three_has_equal_steps() -> None:
    # Each beats the next 3 : 1 and the one after 9 : 1: exactly the expectations of strengths 9, 3, 1.
    logs, _ = maximum([[0.0, 3.0, 9.0], [1.0, 0.0, 3.0], [1.0, 1.0, 0.0]], 1e-7)
    assert logs == pytest.approx([math.log(3), 0.0, -math.log(3)], abs=1e-5)


@settings(max_examples=40)
@given(tables, st.floats(0.2, 4.0))
def test_nothing_is_likelier_than_the_maximum(table: list[list[float]], virtual: float) -> None:
    won = np.array(cleared(table))
    logs, errors = maximum(won.tolist(), virtual)
    found = minimize(lambda at: -log_likelihood(at, won, virtual), np.zeros(len(won)), tol=1e-10)
    assert logs == pytest.approx(found.x - found.x.mean(), abs=2e-4)
    # The errors against the curvature, taken in central differences at that point.
    size, step = len(won), 1e-3
    axes = step * np.eye(size)
    curvature = [
        [
            sum(
                a * b * -log_likelihood(found.x + a * axes[i] + b * axes[j], won, virtual)
                for a in (-1, 1)
                for b in (-1, 1)
            )
            / (4 * step**2)
            for j in range(size)
        ]
        for i in range(size)
    ]
    centring = np.eye(size) - 1 / size
    covariance = centring @ np.linalg.inv(np.array(curvature)) @ centring
    assert errors == pytest.approx(np.sqrt(np.diag(covariance)), rel=1e-3)


def test_one_who_won_everything_and_groups_that_never_met_stay_finite() -> None:
    won = [[0.0, 40.0, 0.0, 0.0], [0.0] * 4, [0.0, 0.0, 0.0, 5.0], [0.0, 0.0, 5.0, 0.0]]
    logs, errors = maximum(won, 2.0)
    assert logs[0] > 1.0 > 0.1 > abs(logs[2] - logs[3])
    assert all(math.isfinite(value) for value in (*logs, *errors))
    assert errors[0] > errors[2]


def test_reputations_keep_their_geometric_mean_and_are_odds() -> None:
    start = dict.fromkeys("ab", Rating(100.0, 0.5))
    rated = fit([{("a", "b"): 6.0}, {("b", "a"): 2.0}], start, 100.0, 1e-7)
    assert rated["a"].reputation * rated["b"].reputation == pytest.approx(100.0**2)
    assert rated["a"].reputation / rated["b"].reputation == pytest.approx(3.0, rel=1e-5)
    low, high = interval(rated["a"])
    half = 1.96 * math.sqrt(1 / 6 + 1 / 2) / 2
    assert (low, high) == pytest.approx(
        (100 * math.sqrt(3) / math.exp(half), 100 * math.sqrt(3) * math.exp(half)), rel=1e-5
    )


def test_a_draw_is_half_a_win_for_each_and_results_add_up() -> None:
    cast = [
        (Duel(0, 0, ("ada", "bea")), {"cai": (6.0, 6.0)}),
        (Duel(1, 1, ("bea", "ada")), {"cai": (2.0, 3.0)}),
        (Duel(2, 2, ("ada", "bea")), {"cai": (None, 3.0)}),
    ]
    verdicts = settle(begin(TRIBE, RULES), cast, RULES).verdicts
    assert results(cast, verdicts) == {("ada", "bea"): 1.5, ("bea", "ada"): 0.5}


def test_nine_in_ten_intervals_hold_the_truth() -> None:
    """Coverage by simulation: 200 tribes of six with known strengths, 150 duels each."""
    held = total = 0
    for trial in range(200):
        rng = random.Random(trial)
        truth = [rng.gauss(0.0, 0.5) for _ in range(6)]
        won = [[0.0] * 6 for _ in range(6)]
        for _ in range(150):
            i, j = rng.sample(range(6), 2)
            first = rng.random() < 1 / (1 + math.exp(truth[j] - truth[i]))
            won[i][j] += first
            won[j][i] += not first
        logs, errors = maximum(won, 0.5)
        middle = sum(truth) / 6
        for log, error, true in zip(logs, errors, truth, strict=True):
            held += abs(log - (true - middle)) < 1.645 * error
            total += 1
    assert held / total == pytest.approx(0.9, abs=0.025)  # 1,200 intervals; five in six are independent


@settings(max_examples=50)
@given(bouts(), st.randoms(use_true_random=False))
def test_the_order_of_duels_changes_nothing(cast, rng) -> None:
    mixed = list(cast)
    rng.shuffle(mixed)
    here, there = (settle(begin(TRIBE, RULES), each, RULES) for each in (cast, mixed))
    assert here.standing == there.standing
    assert here.standing.to_json() == there.standing.to_json()


@settings(max_examples=50)
@given(bouts(), st.permutations(TRIBE))
def test_names_mean_nothing(cast, others) -> None:
    renamed = dict(zip(TRIBE, others, strict=True))
    moved = [
        (
            Duel(duel.index, duel.instruction, (renamed[duel.fighters[0]], renamed[duel.fighters[1]])),
            {renamed[judge]: pair for judge, pair in votes.items()},
        )
        for duel, votes in cast
    ]
    here, there = (settle(begin(TRIBE, RULES), each, RULES).standing.reputations for each in (cast, moved))
    assert there == pytest.approx({renamed[name]: value for name, value in here.items()}, rel=1e-10)


def test_the_window_forgets() -> None:
    rules = ReputationSettings(kind="bradley-terry", memory=2)
    lost, won = ((Duel(0, 0, ("ada", "bea")), {"cai": pair}) for pair in ((2.0, 8.0), (8.0, 2.0)))
    standing = begin(TRIBE, rules)
    for bout in (lost, won, won):
        standing = settle(standing, [bout], rules).standing
    assert standing.results == ({("ada", "bea"): 1.0},) * 2
    # Two wins, one virtual duel won and one lost by each; by symmetry the strengths are x and 1 / x beside
    # the virtual opponent's 1, and wins equal their expectation: 3 = 2 x^2 / (x^2 + 1) + 2 x / (x + 1).
    x = brentq(lambda x: 2 * x**2 / (x**2 + 1) + 2 * x / (x + 1) - 3, 1, 9)
    ratio = standing.ratings["ada"].reputation / standing.ratings["bea"].reputation
    assert ratio == pytest.approx(x**2, rel=1e-9)
    assert standing.ratings["cai"].reputation == pytest.approx(100.0)


def test_frozen_reputations_weigh_but_never_move() -> None:
    rules = ReputationSettings(
        kind="frozen", start="uneven", prior={"ada": 0.1, "bea": 0.2, "cai": 0.9, "dov": 0.1, "eli": 0.2}
    )
    standing = begin(TRIBE, rules)
    cast = [(Duel(0, 0, ("ada", "bea")), {"cai": (8.0, 2.0), "dov": (2.0, 7.0)})]
    settlement = settle(standing, cast, rules)
    assert settlement.standing.ratings == standing.ratings
    cai, dov = standing.reputations["cai"], standing.reputations["dov"]
    assert settlement.verdicts[0].weights == pytest.approx(
        {"cai": cai / (cai + dov), "dov": dov / (cai + dov)}
    )
