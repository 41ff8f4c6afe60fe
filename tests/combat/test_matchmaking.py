from __future__ import annotations

import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from sparta_lite.combat import MatchSettings, judges, schedule
from sparta_lite.errors import SpartaError

tribes = st.integers(3, 12).map(lambda size: tuple(f"m{number}" for number in range(size)))
settings = st.builds(MatchSettings, alpha=st.floats(0.0, 1.0), k=st.integers(1, 12))
seeds = st.integers(0, 2**63)


def reputations_of(tribe: tuple[str, ...]) -> st.SearchStrategy[dict[str, float]]:
    return st.fixed_dictionaries({name: st.floats(10.0, 200.0) for name in tribe})


@given(st.data(), tribes, settings, seeds, st.integers(0, 60), st.integers(0, 8))
def test_judges_are_everyone_but_the_two_fighters(data, tribe, settings, seed, count, iteration):
    for duel in schedule(count, tribe, data.draw(reputations_of(tribe)), settings, seed, iteration):
        assert len(set(duel.fighters)) == 2
        assert set(duel.fighters) <= set(tribe)
        assert set(judges(duel, tribe)) == set(tribe) - set(duel.fighters)
        assert len(judges(duel, tribe)) == len(tribe) - 2


@given(st.data(), tribes, settings, seeds, st.integers(0, 60))
def test_every_adapter_opens_its_share_of_duels(data, tribe, settings, seed, count):
    duels = schedule(count, tribe, data.draw(reputations_of(tribe)), settings, seed, 0)
    opened = Counter(duel.fighters[0] for duel in duels)
    assert all(count // len(tribe) <= opened[name] <= -(-count // len(tribe)) for name in tribe)
    for block in range(count // len(tribe)):
        openers = [duel.fighters[0] for duel in duels[block * len(tribe) : (block + 1) * len(tribe)]]
        assert sorted(openers) == sorted(tribe)


@given(st.data(), tribes, settings, seeds, st.integers(0, 60), st.integers(0, 60))
def test_a_longer_schedule_begins_with_the_shorter_one(data, tribe, settings, seed, some, more):
    reputations = data.draw(reputations_of(tribe))
    short = schedule(some, tribe, reputations, settings, seed, 1)
    assert schedule(some + more, tribe, reputations, settings, seed, 1)[:some] == short
    assert [duel.index for duel in short] == [duel.instruction for duel in short] == list(range(some))


@given(st.data(), tribes, st.integers(1, 12), seeds)
def test_without_chance_opponents_are_among_the_k_nearest(data, tribe, k, seed):
    reputations = data.draw(reputations_of(tribe))
    for duel in schedule(30, tribe, reputations, MatchSettings(alpha=0.0, k=k), seed, 0):
        opener, opponent = duel.fighters
        gap = abs(reputations[opponent] - reputations[opener])
        nearer = [n for n in tribe if n != opener and abs(reputations[n] - reputations[opener]) < gap]
        assert len(nearer) < k


def test_at_an_even_start_everyone_meets_everyone():
    tribe = tuple("abcdefghij")
    even = dict.fromkeys(tribe, 100.0)
    duels = schedule(9000, tribe, even, MatchSettings(alpha=0.0, k=3), seed=4, iteration=0)
    met = Counter(duel.fighters for duel in duels)
    assert len(met) == 90
    # 100 meetings are expected of each ordered pair, with a standard deviation of 9.4.
    assert all(50 < count < 150 for count in met.values())


def test_the_share_of_chance_opponents_is_alpha():
    tribe = tuple("abcdefghij")
    ladder = {name: 100.0 + 10 * place for place, name in enumerate(tribe)}
    duels = schedule(10000, tribe, ladder, MatchSettings(alpha=0.2, k=3), seed=4, iteration=0)
    from_a = [duel.fighters[1] for duel in duels if duel.fighters[0] == "a"]
    far = sum(name not in "bcd" for name in from_a)  # only chance gets there: 0.2 * 6/9
    assert len(from_a) == 1000
    assert far / 1000 == pytest.approx(0.2 * 6 / 9, abs=4 * 0.011)


def test_seeds_and_iterations_give_different_schedules():
    tribe = tuple("abcdef")
    even = dict.fromkeys(tribe, 100.0)
    drawn = {schedule(24, tribe, even, MatchSettings(), seed, it) for seed in range(3) for it in range(3)}
    assert len(drawn) == 9


def test_every_block_is_shuffled_anew():
    tribe = tuple("abcdef")
    duels = schedule(60, tribe, dict.fromkeys(tribe, 100.0), MatchSettings(), seed=0, iteration=0)
    blocks = {tuple(duel.fighters[0] for duel in duels[start : start + 6]) for start in range(0, 60, 6)}
    assert len(blocks) > 7


@pytest.mark.parametrize("progress", [0.0, 0.4, 1.0])
def test_annealed_opponents_meet_as_often_as_the_formula_says(progress):
    ladder = {"a": 90.0, "b": 92.0, "c": 97.0, "d": 110.0}  # gaps from a: .1, .35, 1
    rules = MatchSettings(kind="annealed", alpha=0.2, gap_deviation=0.3)
    duels = schedule(8000, tuple(ladder), ladder, rules, 11, 2, progress)
    met = Counter(duel.fighters[1] for duel in duels if duel.fighters[0] == "a")
    formula = {
        name: math.exp(-((gap - (1 - progress)) ** 2) / (2 * 0.3**2))
        for name, gap in (("b", 0.1), ("c", 0.35), ("d", 1.0))
    }
    whole = sum(formula.values())
    expected = [2000 * (0.2 / 3 + 0.8 * value / whole) for value in formula.values()]
    assert chisquare([met[name] for name in formula], expected).pvalue > 0.01


def test_annealed_opponents_of_an_even_tribe_are_anyone():
    tribe = tuple("abcde")
    rules = MatchSettings(kind="annealed", alpha=0.0)
    duels = schedule(4000, tribe, dict.fromkeys(tribe, 100.0), rules, 3, 0, 0.0)
    met = Counter(duel.fighters for duel in duels)
    assert chisquare(list(met.values())).pvalue > 0.01
    assert len(met) == 20


def test_annealed_chances_never_vanish_altogether():
    ladder = {"a": 100.0, "b": 101.0, "c": 102.0, "d": 300.0}
    rules = MatchSettings(kind="annealed", alpha=0.0, gap_deviation=1e-3)
    for duel in schedule(40, tuple(ladder), ladder, rules, 0, 0, 0.5):
        if duel.fighters[0] == "a":  # the target gap of 100 is 98 and more away
            assert duel.fighters[1] == "c"


@given(st.data(), tribes, settings, seeds)
def test_progress_means_nothing_to_the_nearest(data, tribe, rules, seed):
    reputations = data.draw(reputations_of(tribe))
    assert schedule(20, tribe, reputations, rules, seed, 1, 0.7) == schedule(
        20, tribe, reputations, rules, seed, 1
    )


@pytest.mark.parametrize("tribe", [(), ("a",), ("a", "b")])
def test_a_tribe_without_a_judge_is_refused(tribe):
    with pytest.raises(SpartaError, match="at least one judges"):
        schedule(1, tribe, dict.fromkeys(tribe, 100.0), MatchSettings(), 0, 0)


def test_a_name_that_stands_twice_is_refused():
    with pytest.raises(SpartaError, match="twice"):
        schedule(1, ("a", "b", "a"), {"a": 100.0, "b": 100.0}, MatchSettings(), 0, 0)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"alpha": 1.5}, "alpha is 1.5"),
        ({"k": 0}, "k is 0"),
        ({"kind": "annealled"}, "did you mean 'annealed'"),
        ({"gap_deviation": 0.0}, "gap_deviation is 0.0"),
    ],
)
def test_impossible_match_settings_are_refused(values, says):
    with pytest.raises(SpartaError, match=says):
        MatchSettings(**values)
