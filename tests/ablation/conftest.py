"""Ablations small enough to run in seconds: two arms, three adapters on the tiny base."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml


@pytest.fixture(scope="session")
def tiny_config(tiny_settings: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("config") / "tiny.yaml"
    settings = tiny_settings | {
        "reputation": {"kind": "paper"},
        "iterations": 1,
        "duels": 6,
        "batch_tokens": 2048,
        "training": {"batch": 2, "micro_batch": 1, "learning_rate": 1e-2, "adapters_at_once": 3},
        "evaluation": {"items": 12, "max_new_tokens": 6},
    }
    path.write_text(yaml.safe_dump(settings))
    return path
