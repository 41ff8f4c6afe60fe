"""A whole run on a tiny Qwen3.5: killed and resumed, and its best adapter exported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sparta_lite.campaign.config import load_config
from sparta_lite.files import read_json, read_lines

from ..engine.families import family
from ..engine.models import save_model
from .whole_runs import contents, require_exports, whole_and_killed


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
    require_exports(runs[0], tmp_path)
