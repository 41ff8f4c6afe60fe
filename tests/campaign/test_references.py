"""The log-probabilities that generating and judging leave for the training to refer to."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from sparta_lite.campaign.config import load_config
from sparta_lite.campaign.events import Event
from sparta_lite.campaign.inputs import load_inputs
from sparta_lite.campaign.loop import run
from sparta_lite.campaign.resident import choose
from sparta_lite.campaign.store import Store
from sparta_lite.engine.likelihood import Continuation, log_probabilities
from sparta_lite.files import read_lines


def ignore(event: Event) -> None:
    pass


@pytest.fixture(scope="module")
def finished(tiny_config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "finished"
    run(load_config(tiny_config, ["iterations=1"]), out, False, ignore)
    return out


@pytest.fixture(scope="module")
def fresh_logprobs(finished: Path) -> Callable[[str, dict[str, Any], int], float]:
    """log p(answer | question) under an adapter as it stood in the first duels, in a pass of its own."""
    config = load_config(Store(finished).config, [])
    inputs = load_inputs(config, choose(config))
    resident = inputs.resident

    def logprob(name: str, duel: dict[str, Any], side: int) -> float:
        prompt = resident.chat.question(duel["text"], 64).ids
        asked = Continuation(name, prompt, tuple(duel["responses"][side]["ids"]))
        return float(log_probabilities(resident.base, resident.bank, [asked], 1000)[0].sum())

    return logprob


def test_judging_and_generation_leave_the_terms_that_training_refers_to(
    finished: Path, fresh_logprobs: Callable[[str, dict[str, Any], int], float]
) -> None:
    store = Store(finished)
    duels = {row["duel"]: row for row in read_lines(store.duels(0))}
    for duel in duels.values():
        for side, response in enumerate(duel["responses"]):
            expected = fresh_logprobs(duel["fighters"][side], duel, side)
            assert response["logprob"] == pytest.approx(expected, abs=1e-5)
    taken = 0
    for judgment in read_lines(store.judgments(0)):
        duel = duels[judgment["duel"]]
        for side, logprob in enumerate(judgment["logprobs"]):
            if set(duel["responses"][side]["ids"][:-1]) & {256, 257, 258}:
                assert logprob is None  # a judge reads an answer without the special tokens inside it
                continue
            # A response that ran to its limit has no end of turn, yet the judge reads one behind it.
            assert logprob == pytest.approx(fresh_logprobs(judgment["judge"], duel, side), abs=1e-5)
            taken += 1
    assert taken > 1.5 * len(duels)


def test_the_terms_are_not_taken_where_the_judge_reads_something_else(
    tiny_config: Path, tmp_path: Path
) -> None:
    settings = [
        "iterations=1",
        "duels=4",
        "judge.layout=message",
        "judge.request={question} {response} Score:",
    ]
    run(load_config(tiny_config, settings), tmp_path / "run", False, ignore)
    rows = read_lines(Store(tmp_path / "run").judgments(0))
    assert all(row["logprobs"] == [None, None] for row in rows)


def test_a_run_that_reuses_terms_learns_what_one_learns_that_does_not(
    tiny_config: Path, finished: Path, tmp_path: Path
) -> None:
    settings = ["iterations=1", "training.reuse_logprobs=false"]
    run(load_config(tiny_config, settings), tmp_path / "run", False, ignore)
    for name in ("ada", "ben", "cyd"):
        path = f"{name}/adapter_model.safetensors"
        ours = load_file(Store(finished).adapters(0) / path)
        theirs = load_file(Store(tmp_path / "run").adapters(0) / path)
        for key, tensor in ours.items():
            torch.testing.assert_close(theirs[key], tensor, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("setting", ["training.reuse_logprobs=false", "dtype=bfloat16"])
def test_a_run_that_does_not_reuse_terms_leaves_none_to_a_resumed_one_that_would(
    tiny_config: Path, tmp_path: Path, setting: str
) -> None:
    run(load_config(tiny_config, ["iterations=1", "duels=3", setting]), tmp_path / "run", False, ignore)
    store = Store(tmp_path / "run")
    for duel in read_lines(store.duels(0)):
        assert [response["logprob"] for response in duel["responses"]] == [None, None]
    assert all(row["logprobs"] == [None, None] for row in read_lines(store.judgments(0)))
