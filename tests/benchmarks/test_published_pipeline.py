"""The published way's own rules, and both ways through one small iteration."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sparta_lite.combat import Duel

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def benchmarks(monkeypatch):
    import trl.trainer.utils

    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    # The benchmark replaces it for the whole process; other tests need TRL as it is.
    monkeypatch.setattr(trl.trainer.utils, "_ChunkedLogProbFunction", None)


def test_rules_of_the_published_way_are_those_of_the_published_code():
    from published_way import settle

    trace = json.loads((ROOT / "tests/golden/reputation_normal.json").read_text())
    recorded = trace["iterations"][0]
    cast = [
        (Duel(index, index, tuple(duel["fighters"])), duel["scores"])
        for index, duel in enumerate(recorded["duels"])
    ]
    reputations, chosen = settle(list(trace["start"]), cast)
    after = recorded["ratings_after_each_duel"][-1]
    assert reputations == pytest.approx({name: rating[0] for name, rating in after.items()}, rel=0, abs=1e-9)
    winners = {index: cast[index][0].fighters[side] for index, side in chosen.items()}
    expected = [None if pair is None else pair["winner"] for pair in recorded["preferences"]]
    assert [winners.get(index) for index in range(len(cast))] == expected


def test_both_ways_agree_where_they_must(tmp_path, capsys):
    from published_pipeline import PHASES, compare

    small = ["tribe.size=3", "duels=9", "training.batch=2"]
    result = compare(small, rounds=1, repeats=1, directory=tmp_path)
    assert all(len(side[phase]) == 1 for side in (result.ours, result.published) for phase in PHASES)
    assert result.facts["weights_apart"] < 1e-3
    assert result.facts["updates"] > 1
