"""A whole run on a tiny Gemma 3, some of whose layers look back a few tokens: killed, resumed, exported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sparta_lite.files import read_json, read_lines

from ..engine.families import family
from ..engine.models import save_model
from .whole_runs import contents, require_exports, whole_and_killed


@pytest.fixture(scope="module")
def runs(
    base_path: Path, tiny_settings: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("windowed-run")
    base = save_model(family("gemma3_text", max_position_embeddings=512), root / "base", base_path)
    settings = {
        **tiny_settings,
        "base": str(base),
        "tribe": {"adapters": "fresh-4", "rank": 4},
        "duels": 6,
        "training": {**tiny_settings["training"], "learning_rate": 1e-2},
        "evaluation": {"items": 3, "max_new_tokens": 6},
    }
    return whole_and_killed(settings, root)


def test_a_killed_run_ends_byte_for_byte_as_one_that_never_was(runs: tuple[Path, Path]) -> None:
    whole, killed = map(contents, runs)
    assert sum(name.endswith(".safetensors") for name in whole) == 2 * 4
    assert whole == killed
    assert [row for row in read_lines(runs[0] / "metrics.jsonl") if row["kind"] == "training"]


def test_the_run_says_how_far_its_layers_look_back(runs: tuple[Path, Path]) -> None:
    choices = read_json(runs[0] / "run.json")["choices"]
    assert choices["windows"] == "5 tokens in 2 of 3 layers (flash-attn, else masks)"


def test_an_adapter_leaves_for_peft_and_merged(runs: tuple[Path, Path], tmp_path: Path) -> None:
    require_exports(runs[0], tmp_path)
