from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from sparta_lite.campaign.records import FoughtDuel, Judgment
from sparta_lite.combat import Duel
from sparta_lite.engine.response import Failure, Response
from sparta_lite.show.report.judges import correlation, effective_number, judge_figures

TRIBE = ("ada", "ben", "cyd", "dan", "eve")
Scores = tuple[float | None, float | None]


def fought(duel: int, lengths: tuple[int, int]) -> FoughtDuel:
    first, second = (Response(tuple(range(length)), "text", "length", -1.0) for length in lengths)
    return FoughtDuel(Duel(duel, duel, ("ada", "ben")), "question", (first, second))


def vote(duel: int, judge: str, scores: Scores, why: Failure = "no score") -> Judgment:
    failures = tuple(why if score is None else None for score in scores)
    return Judgment(duel, judge, scores, failures, (None, None), (0, 0), (None, None))  # type: ignore[arg-type]


DUELS = [
    # cyd and dan prefer the first answer, eve the second: the others' mean is against eve,
    # and for cyd as for dan it is 3 - 2 on the first one's side.
    (fought(0, (1, 4)), [vote(0, "cyd", (6, 3)), vote(0, "dan", (9, 6)), vote(0, "eve", (2, 4))]),
    # dan sees no difference: it takes no side, and is none of the others' either.
    (fought(1, (2, 2)), [vote(1, "cyd", (1, 5)), vote(1, "dan", (7, 7)), vote(1, "eve", (3, 4))]),
    # Half a vote is none, but the half that came is a score.
    (fought(2, (3, 9)), [vote(2, "cyd", (8, None)), vote(2, "dan", (None, None), "too long")]),
]


def test_beginnings_and_lost_rounds_are_counted_per_judge() -> None:
    duel = fought(0, (1, 4))
    first = replace(vote(0, "cyd", (6, 3)), prefix=(-1.0, -9.0))
    second = replace(vote(0, "cyd", (6, 3)), prefix=(-8.0, None), unparsed=({"no score": 2}, {"cut off": 3}))
    found = judge_figures(TRIBE, [(duel, [first, vote(0, "dan", (1, 2))]), (duel, [second])])
    assert found["cyd"].prefix == pytest.approx(math.exp(-8))
    assert found["cyd"].unparsed == {"cut off": 3, "no score": 2}
    assert (found["dan"].prefix, found["dan"].unparsed) == (None, {})


def test_figures_of_every_judge() -> None:
    found = judge_figures(TRIBE, DUELS)

    assert list(found) == list(TRIBE)
    assert [found[name].answers for name in TRIBE] == [0, 0, 6, 6, 4]
    assert [found[name].failed for name in TRIBE] == [0, 0, 1, 2, 0]
    assert found["cyd"].failures == {"no score": 1}
    assert found["dan"].failures == {"too long": 2}
    assert [found[name].agreement for name in TRIBE] == [None, None, 1.0, 1.0, 0.5]
    assert [found[name].compared for name in TRIBE] == [0, 0, 2, 1, 2]
    assert found["cyd"].mean == pytest.approx(np.mean([6, 3, 1, 5, 8]))
    assert found["cyd"].spread == pytest.approx(np.std([6, 3, 1, 5, 8]))
    assert found["cyd"].length == pytest.approx(np.corrcoef([6, 3, 1, 5, 8], [1, 4, 2, 2, 3])[0, 1])
    assert found["ada"].mean is None
    assert found["ada"].length is None


def test_a_correlation_that_nothing_is_known_of() -> None:
    assert correlation([1.0, 2.0], [1.0, 2.0]) is None
    assert correlation([5.0, 5.0, 5.0], [1.0, 2.0, 3.0]) is None
    assert correlation([1.0, 2.0, 4.0], [3.0, 3.0, 3.0]) is None


def test_the_effective_number_of_judges() -> None:
    assert effective_number([0.1] * 10) == pytest.approx(10)
    assert effective_number([1.0, 0.0, 0.0]) == pytest.approx(1)
    assert effective_number([0.5, 0.25, 0.25]) == pytest.approx(1 / (0.25 + 2 * 0.0625))
