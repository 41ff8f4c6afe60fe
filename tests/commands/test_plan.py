"""``sparta-lite plan``: a table and JSON, and one line where it cannot fit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import Qwen2Config
from typer.testing import CliRunner, Result

from sparta_lite.commands.app import app

runner = CliRunner()


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("base")
    Qwen2Config(
        vocab_size=151936,
        hidden_size=896,
        intermediate_size=4864,
        num_hidden_layers=24,
        num_attention_heads=14,
        num_key_value_heads=2,
        max_position_embeddings=32768,
        tie_word_embeddings=True,
    ).save_pretrained(path)
    return path


def call(base: Path, *arguments: str) -> Result:
    own = [f"base={base}", "tribe.adapters=fresh-10", "data.path=x.jsonl", "data.column=question"]
    sets = [part for each in own for part in ("--set", each)]
    return runner.invoke(app, ["plan", *sets, *arguments])


def test_the_table_fits_80_columns_when_piped(base: Path) -> None:
    result = call(base, "--vram", "8GB", "--set", "generation.places=7")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert "\x1b" not in result.stdout
    for expected in ("generate", "judge", "train", "generation.places: 7 (as given)", "rough"):
        assert expected in result.stdout
    assert "0.49 billion parameters in 4 bits" in result.stdout


def test_json_adds_up(base: Path) -> None:
    result = call(base, "--vram", "8GB", "--json")
    plan = json.loads(result.stdout)
    assert plan["machine"]["memory"] == 8 * 10**9
    assert plan["parameters"] == 494_032_768  # Qwen2.5-0.5B, as its model card says: 0.49 billion
    for phase in plan["phases"].values():
        assert phase["memory"] == plan["weights"] + sum(phase["parts"].values())
        assert phase["seconds"] > 0
    assert plan["peak"] == max(phase["memory"] for phase in plan["phases"].values())
    assert plan["needed"] == plan["peak"] + plan["machine"]["reserve"] <= 8 * 10**9
    assert set(plan["sizes"]) == {
        "places",
        "batch_tokens",
        "micro_batch",
        "adapters_at_once",
        "checkpointing",
        "resident",
    }


def test_what_cannot_fit_is_one_line(base: Path) -> None:
    result = call(base, "--vram", "700MB")
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith("error: plan: needs ")
    assert call(base, "--vram", "much").stderr == (
        "error: vram is 'much'; give a size such as 24GB (10^9 bytes each) or 24GiB (2^30)\n"
    )


def test_without_a_configuration_the_pocket_tribe_is_planned() -> None:
    result = runner.invoke(app, ["plan"])
    assert result.exit_code == 0, result.output
    assert "8 x 300 duels take roughly" in result.stdout
    assert "training.micro_batch: 4 (preset)" in result.stdout
    assert "(as given)" not in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 80
    given = runner.invoke(app, ["plan", "--set", "training.micro_batch=2"])
    assert "training.micro_batch: 2 (as given)" in given.stdout
    assert "batch_tokens: 1024 (preset)" in given.stdout
    assert "tribe.resident: 10" in result.stdout
