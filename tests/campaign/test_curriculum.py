"""A run under the rules that remember: what it records, and that a resumed one goes on alike."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from sparta_lite.campaign.config import load_config
from sparta_lite.campaign.loop import run
from sparta_lite.campaign.reading import read_trace
from sparta_lite.combat import replay
from sparta_lite.combat.curriculum import arms, draw_arms, learned, probabilities, reward
from sparta_lite.errors import SpartaError
from sparta_lite.pocket import items

from ..run_files import forget_digests

RULES = [
    "reputation.kind=reliability",
    "matchmaking.kind=annealed",
    "instructions.kind=exp3",
    "instructions.group_words=1",
    "iterations=3",
    "evaluation.items=0",
]


@pytest.fixture(scope="module")
def finished(tiny_config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("remembering") / "run"
    run(load_config(tiny_config, RULES), out, False, lambda event: None)
    return out


def recorded(run: Path, iteration: int) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / f"iteration-0{iteration}" / "reputation.json").read_text())
    return found


def test_the_bandit_learned_from_the_verdicts(finished: Path) -> None:
    """Its state and its draws, computed again from what the run recorded."""
    config = load_config(finished / "config.yaml")
    texts = [item.question for item in items("duel", 2400)]
    groups = arms(texts, 1)
    settings = config.instructions.settings()
    weights: tuple[float, ...] = (0.0,) * len(groups)
    for iteration, passed in enumerate((0.0, 0.5, 1.0)):
        chances = probabilities(weights, settings.gamma)
        drawn = draw_arms(groups, chances, config.duels, config.seed, iteration)
        rows = (finished / f"iteration-0{iteration}" / "duels.jsonl").read_text().splitlines()
        assert [json.loads(row)["text"] for row in rows] == [texts[index] for _, index in drawn]
        verdicts = recorded(finished, iteration)["verdicts"]
        rewards = [
            (arm, reward(tuple(verdict["scores"]), passed, settings))
            for (arm, _), verdict in zip(drawn, verdicts, strict=True)
            if verdict is not None
        ]
        weights = learned(weights, chances, rewards)
        assert recorded(finished, iteration)["instruction_log_weights"] == list(weights)


def test_the_weights_of_the_judges_are_recorded(finished: Path) -> None:
    last = recorded(finished, 2)
    assert set(last["after"]["reliability"]) == set(last["judge_weights"]) == {"ada", "ben", "cyd"}
    assert sum(last["judge_weights"].values()) == pytest.approx(1.0)
    assert len(last["after"]["results"]) == 3  # one per iteration that is remembered


def test_recorded_votes_replay_to_the_run_s_reputations(finished: Path) -> None:
    rules = load_config(finished / "config.yaml").reputation.settings()
    last = replay(read_trace(finished), settings=rules)[-1]
    assert {name: list(rating) for name, rating in last.items()} == {
        name: [entry["reputation"], entry["deviation"]]
        for name, entry in recorded(finished, 2)["after"]["ratings"].items()
    }


@pytest.mark.parametrize("lost", ["reputation.json", "duels.jsonl"])
def test_a_resumed_run_draws_and_settles_alike(finished: Path, tmp_path: Path, lost: str) -> None:
    out = tmp_path / "run"
    shutil.copytree(finished, out)
    forget_digests(out)
    for name in ("adapters", "duels.jsonl", "judgments.jsonl", "preferences.jsonl", "reputation.json"):
        path = out / "iteration-02" / name
        if name == "adapters":
            shutil.rmtree(path)
        elif lost == "duels.jsonl" or name == lost:
            path.unlink()
    run(load_config(out / "config.yaml"), out, True, lambda event: None)
    for name in ("duels.jsonl", "reputation.json", "preferences.jsonl"):
        again, first = (root / "iteration-02" / name for root in (out, finished))
        assert again.read_bytes() == first.read_bytes()


def test_lost_weights_are_named(finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(finished, out)
    forget_digests(out)
    shutil.rmtree(out / "iteration-02")
    path = out / "iteration-01" / "reputation.json"
    record = json.loads(path.read_text())
    record["instruction_log_weights"].pop()
    path.write_text(json.dumps(record))
    with pytest.raises(SpartaError, match="instruction_log_weights holds 9 numbers for 10 arms"):
        run(load_config(out / "config.yaml"), out, True, lambda event: None)


def test_other_runs_record_nothing_of_it(tiny_config: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    sets = ["iterations=1", "evaluation.items=0", "reputation.kind=paper"]
    run(load_config(tiny_config, sets), out, False, lambda event: None)
    record = recorded(out, 0)
    assert "instruction_log_weights" not in record
    assert set(record["after"]) == {"iteration", "ratings", "factors"}
    rows = (out / "iteration-00" / "duels.jsonl").read_text().splitlines()
    assert max(Counter(json.loads(row)["text"] for row in rows).values()) == 1
