"""Ablations small enough to run in seconds: two arms, three adapters on the tiny base."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml


@pytest.fixture(scope="session")
def tiny_config(
    base_path: Path, adapter_paths: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    path = tmp_path_factory.mktemp("config") / "tiny.yaml"
    settings = {
        "base": str(base_path),
        "quantization": "none",
        "tribe": {"adapters": {name: str(place) for name, place in adapter_paths.items()}},
        "reputation": {"kind": "paper"},
        "iterations": 1,
        "duels": 6,
        "checkpoint": 3,
        "threads": 1,
        "batch_tokens": 2048,
        "generation": {"max_new_tokens": 6, "max_prompt_tokens": 64, "places": 8},
        "judge": {"layout": "turns", "minimum_mass": 0.0, "max_tokens": 400},
        "training": {"batch": 2, "micro_batch": 1, "learning_rate": 1e-2, "adapters_at_once": 3},
        "evaluation": {"items": 12, "max_new_tokens": 6},
    }
    path.write_text(yaml.safe_dump(settings))
    return path
