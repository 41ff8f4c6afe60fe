"""A campaign small enough to run in a second: three adapters on the tiny base."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from sparta_lite.campaign.config import load_config
from sparta_lite.campaign.loop import run


@pytest.fixture(scope="session")
def tiny_settings(base_path: Path, adapter_paths: dict[str, Path]) -> dict[str, object]:
    return {
        "base": str(base_path),
        "quantization": "none",
        "tribe": {"adapters": {name: str(path) for name, path in adapter_paths.items()}},
        "data": {"path": "pocket"},
        "iterations": 2,
        "duels": 10,
        "checkpoint": 3,
        "threads": 1,
        "generation": {"max_new_tokens": 6, "max_prompt_tokens": 64, "places": 8},
        "judge": {"layout": "turns", "minimum_mass": 0.0, "max_tokens": 400},
        "training": {"batch": 2, "micro_batch": 1, "learning_rate": 1e-3, "save_every": 2},
        "evaluation": {"items": 10, "max_new_tokens": 6},
    }


@pytest.fixture(scope="session")
def tiny_config(tiny_settings: dict[str, object], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("config") / "tiny.yaml"
    path.write_text(yaml.safe_dump(tiny_settings))
    return path


@pytest.fixture(scope="session")
def finished(tiny_config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a run of ``tiny_config`` that came to its end."""
    out = tmp_path_factory.mktemp("runs") / "finished"
    run(load_config(tiny_config), out, False, lambda event: None)
    return out
