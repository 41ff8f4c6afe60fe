"""`engine.py --model`, on a model that is anything but large."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("engine")


def start(engine: Any, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["engine.py", *arguments])
    engine.main()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--only", "dpo"], "give --model too"),
        (["--model", "m.gguf", "--device", "cuda"], "runs on the CPU"),
        (["--model", "m.gguf", "--family", "qwen3_5"], "the family that the model is of"),
        (["--model", "m.gguf", "--only", "everything"], "invalid choice"),
    ],
)
def test_what_does_not_go_together_is_refused(engine, monkeypatch, capsys, arguments, said):
    with pytest.raises(SystemExit) as ended:
        start(engine, monkeypatch, *arguments)
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


def test_a_model_that_is_not_there_is_named(engine, monkeypatch, tmp_path):
    missing = tmp_path / "missing.gguf"
    with pytest.raises(SystemExit) as ended:
        start(engine, monkeypatch, "--model", str(missing), "--quick")
    assert str(ended.value.code).startswith("error: ")
    assert str(missing) in str(ended.value.code)


def test_equal_sides_are_timed_and_written_with_their_ratios(
    engine, monkeypatch, capsys, tmp_path, base_path
):
    out = tmp_path / "figures.json"
    parts = ["--only", "generation", "judging"]
    start(engine, monkeypatch, "--model", str(base_path), "--quick", *parts, "--json", str(out))
    figures = json.loads(out.read_text())
    assert set(figures["cpu_seconds"]) == {"generation", "judging"}
    assert set(figures["ratios"]) == set(figures["goals"]) - {"dpo_vs_trl"}
    sides = figures["cpu_seconds"]["generation"]
    assert figures["ratios"]["generation_vs_peft_loop"] == [sides["PEFT loop"][0] / sides["ours"][0]]
    assert "same greedy tokens" in capsys.readouterr().out


def test_sides_that_differ_are_not_timed(engine, monkeypatch, tmp_path, base_path):
    real_size = sys.modules["real_size"]
    monkeypatch.setattr(
        real_size, "peft_loop", lambda tribe, prompts, new_tokens: [[0] * new_tokens for _ in prompts]
    )
    with pytest.raises(SystemExit, match="PEFT's loop differ"):
        start(engine, monkeypatch, "--model", str(base_path), "--quick", "--only", "generation")
