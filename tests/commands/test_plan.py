"""``sparta-lite plan``: a table and JSON, and one line where it cannot fit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError
from transformers import Qwen2Config
from typer.testing import CliRunner, Result

from sparta_lite.commands.app import app
from sparta_lite.engine import known

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
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
        assert 0 < phase["seconds"][0] < phase["seconds"][1]
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


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is cached, and whoever asks the hub fails."""

    def asked(*args: Any, **kwargs: Any) -> str:
        raise AssertionError("the hub was asked")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", asked)
    monkeypatch.setattr(known, "cached", lambda repository, name: False)


@pytest.mark.usefixtures("offline")
def test_the_readmes_own_plan_needs_no_network() -> None:
    result = runner.invoke(app, ["plan", str(EXAMPLES / "qwen2.5-7b-gsm8k.yaml"), "--vram", "24GB"])
    assert result.exit_code == 0, result.output
    assert "base: qwen2, 7.62 billion parameters in 4 bits, 5.55 GB; KV 56 KiB a token" in result.stdout
    assert "generation.places: 141" in result.stdout  # as the README says
    assert "base: numbers shipped with sparta-lite, not read from the checkpoint" in result.stdout
    assert "tribe: rank and layers of its authors' training code, not read" in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 80


@pytest.mark.usefixtures("offline")
def test_adapters_that_are_still_to_be_forged_are_planned_as_forge_makes_them() -> None:
    result = runner.invoke(app, ["plan", str(EXAMPLES / "qwen3-8b.yaml"), "--vram", "24GB", "--json"])
    assert result.exit_code == 0, result.output
    plan = json.loads(result.stdout)
    assert plan["parameters"] == 8_190_735_360  # as the checkpoint's index says
    assert plan["assumed"] == {
        "base": "numbers shipped with sparta-lite, not read from the checkpoint",
        "tribe": "none there yet: adapters as `sparta-lite forge` makes them",
    }
    five = runner.invoke(
        app,
        ["plan", str(EXAMPLES / "qwen3-8b.yaml"), "--vram", "24GB", "--set", "tribe.size=5"],
    )
    assert "tribe: 5 adapters" in five.stdout
    # Only a plan takes them for granted.
    run = runner.invoke(app, ["run", str(EXAMPLES / "qwen3-8b.yaml")])
    assert run.exit_code == 2
    assert "adapters is no directory" in run.stderr


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("base", ["Qwen/Qwen2.5-0.5B", "Qwen/Qwen3.5-4B"])
def test_a_base_is_planned_by_its_name_for_this_machine_too(base: str) -> None:
    result = runner.invoke(
        app, ["plan", "--set", f"base={base}", "--set", "tribe.adapters=fresh-3", "--set", "data.task=gsm8k"]
    )
    assert result.exit_code in (0, 2), result.output  # 2: it does not fit here
    assert "the hub was asked" not in repr(result.exception)
    assert ("base: numbers shipped" in result.stdout) or ("plan: needs" in result.stderr)


def test_a_name_that_nobody_knows_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*args: Any, **kwargs: Any) -> str:
        raise LocalEntryNotFoundError("no network")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    sets = ["--set", "base=some/base", "--set", "tribe.adapters=fresh-3", "--set", "data.task=gsm8k"]
    result = runner.invoke(app, ["plan", *sets, "--vram", "24GB"])
    assert result.exit_code == 2
    assert result.stderr.startswith("error: some/base: no such directory, and the hub cannot be reached")
    assert "give a local directory, or download it while there is a network" in result.stderr
