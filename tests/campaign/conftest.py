"""A campaign small enough to run in a second: three adapters on the tiny base."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from sparta_lite.campaign.config import load_config
from sparta_lite.campaign.loop import run


@pytest.fixture(scope="session")
def tiny_config(tiny_settings: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("config") / "tiny.yaml"
    path.write_text(yaml.safe_dump(tiny_settings))
    return path


@pytest.fixture(scope="session")
def finished(tiny_config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a run of ``tiny_config`` that came to its end."""
    out = tmp_path_factory.mktemp("runs") / "finished"
    run(load_config(tiny_config), out, False, lambda event: None)
    return out
