from __future__ import annotations

from pathlib import Path

import pytest

from sparta_lite.campaign.config import load_config
from sparta_lite.campaign.loop import run


@pytest.fixture(scope="session")
def small_run(
    base_path: Path, adapter_paths: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A finished run of one iteration on the tiny base, with everything that a run leaves."""
    adapters = ", ".join(f"{name}: {path}" for name, path in adapter_paths.items())
    sets = [
        f"base={base_path}",
        "quantization=none",
        "dtype=float32",
        f"tribe.adapters={{{adapters}}}",
        "iterations=1",
        "duels=6",
        "threads=1",
        "seed=4",
        "generation.max_new_tokens=6",
        "generation.max_prompt_tokens=64",
        "judge.layout=turns",
        "judge.minimum_mass=0",
        "judge.max_tokens=400",
        "training.learning_rate=1e-2",
        "training.batch=2",
        "evaluation.items=4",
        "evaluation.max_new_tokens=6",
    ]
    out = tmp_path_factory.mktemp("runs") / "small"
    run(load_config(None, sets), out, False, lambda event: None)
    return out
