"""A whole run on a tiny Qwen3.5: killed and resumed, and its best adapter exported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from sparta_lite.campaign.config import load_config
from sparta_lite.commands.app import app
from sparta_lite.files import read_json, read_lines

from ..engine.families import family
from ..engine.models import save_model
from .whole_runs import contents, whole_and_killed


@pytest.fixture(scope="module")
def runs(
    base_path: Path, tiny_settings: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("hybrid-run")
    kinds = ["linear_attention", "full_attention"]
    config = family("qwen3_5_text", num_hidden_layers=2, layer_types=kinds, max_position_embeddings=512)
    base = save_model(config, root / "base", base_path)
    open_settings = {key: value for key, value in tiny_settings.items() if key != "quantization"}
    settings = {
        **open_settings,
        "base": str(base),
        "tribe": {"adapters": "fresh-4"},
        "duels": 6,
        "evaluation": {"items": 3, "max_new_tokens": 6},
    }
    return whole_and_killed(settings, root)


def test_a_killed_run_ends_byte_for_byte_as_one_that_never_was(runs: tuple[Path, Path]) -> None:
    whole, killed = map(contents, runs)
    assert sum(name.endswith(".safetensors") for name in whole) == 2 * 4
    assert whole == killed
    steps = [row for row in read_lines(runs[0] / "metrics.jsonl") if row["kind"] == "training"]
    assert steps, "nothing was learnt"


def test_the_run_says_who_computes_and_how_the_base_is_held(runs: tuple[Path, Path]) -> None:
    choices = read_json(runs[0] / "run.json")["choices"]
    assert choices["delta rule"].startswith("torch (flash-linear-attention needs a CUDA device")
    assert load_config(runs[0] / "config.yaml").quantization == "none"  # left open, and it fits


def test_an_adapter_leaves_for_peft_and_merged(runs: tuple[Path, Path], tmp_path: Path) -> None:
    base = load_config(runs[0] / "config.yaml").base
    for form in ("peft", "merged"):
        asked = ["export", str(runs[0]), "--adapter", "best", "--to", form, "--out", str(tmp_path / form)]
        result = CliRunner().invoke(app, asked)
        assert result.exit_code == 0, result.output
    ids = torch.arange(10, 90)[None]
    bare = AutoModelForCausalLM.from_pretrained(base).eval()
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()
    with torch.no_grad():
        before = bare(ids).logits
        expected = PeftModel.from_pretrained(bare, tmp_path / "peft").eval()(ids).logits
        torch.testing.assert_close(merged(ids).logits, expected, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(before, expected, atol=1e-3)
