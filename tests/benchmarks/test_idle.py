"""Counts of a run on the schedule of a card."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest

SMALL = {"iterations": 2, "duels": 300, "places": 32, "mean": 40, "limit": 160}


@pytest.fixture
def idle(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    module = importlib.import_module("idle")
    monkeypatch.setattr(module, "QUESTIONS", 40)
    return module


def test_answers_are_as_long_as_is_asked_for(idle: Any) -> None:
    lengths = [idle._length(number * 2**52 // 4000, 40) for number in range(4000)]
    assert min(lengths) == 1
    assert sum(lengths) / len(lengths) == pytest.approx(40, rel=0.02)


def test_large_parts_refill_and_each_size_is_recorded_once(idle: Any) -> None:
    before = idle.count(**SMALL, part=30, keep=False)
    after = idle.count(**SMALL, part=300, keep=True)
    assert before.useful == after.useful
    assert (before.calls, after.calls) == (2 * 11, 2 * 2)
    assert after.captures <= 2 * 6  # of 32 to 1 places, by two samplings
    assert before.captures > 5 * after.captures
    assert after.wasted < 0.1 < before.wasted
    assert after.idle < 0.5 * before.idle
