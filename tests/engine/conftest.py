from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sparta_lite.engine.bank import Bank
from sparta_lite.engine.base import Base, load_base
from sparta_lite.engine.peft_io import load_bank, read_adapter


@pytest.fixture(scope="session")
def base(base_path: Path) -> Base:
    return load_base(base_path, torch.device("cpu"))


@pytest.fixture(scope="session")
def bank(base: Base, adapter_paths: dict[str, Path]) -> Bank:
    return load_bank(base.decoder, [read_adapter(name, path) for name, path in adapter_paths.items()])
