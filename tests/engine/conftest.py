from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sparta_lite.engine.bank import Bank
from sparta_lite.engine.base import Base, load_base
from sparta_lite.engine.peft_io import load_bank, read_adapter

from .families import ODD, family
from .kin import Kin, Kins, make


@pytest.fixture(scope="session")
def base(base_path: Path) -> Base:
    return load_base(base_path, torch.device("cpu"))


@pytest.fixture(scope="session")
def bank(base: Base, adapter_paths: dict[str, Path]) -> Bank:
    return load_bank(base.decoder, [read_adapter(name, path) for name, path in adapter_paths.items()])


@pytest.fixture(scope="session")
def kins(base_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Kins:
    """See ``Kins``."""
    made: dict[str, Kin] = {}

    def get(name: str) -> Kin:
        if name not in made:
            kind, changes = ODD.get(name, (name, {}))
            made[name] = make(family(kind, **changes), tmp_path_factory.mktemp("family"), base_path)
        return made[name]

    return get
