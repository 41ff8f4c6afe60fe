"""Base and adapters that stay loaded while one run of a process follows the other."""

from __future__ import annotations

from collections.abc import Hashable
from datetime import datetime
from pathlib import Path

import torch

from sparta_lite.campaign.provenance import digest
from sparta_lite.campaign.resident import Choices, Resident, load_base_of, on_base, read_tribe
from sparta_lite.campaign.settings import Config
from sparta_lite.campaign.sources import base_source
from sparta_lite.campaign.tribe import Places
from sparta_lite.engine.base import Base
from sparta_lite.engine.peft_io import AdapterFile

Key = Hashable


def base_key(config: Config, choices: Choices) -> Key:
    """Equal for two runs that can share one loaded base."""
    through_unsloth = choices.trainer == "unsloth"
    held = config.quantization, bool(config.engine.unpack)
    loaded = (base_source(config.base), *held, config.trust_remote_code)
    return (*loaded, str(choices.device), choices.dtype, through_unsloth)


class Kept:
    """One base at a time, and the adapters of the last run as they were read.

    A run trains a bank of its own, made anew from the adapters that are kept here, so none begins from
    what another has learned.
    """

    def __init__(self, date: datetime) -> None:
        """``date``: what chat templates take for now in all runs that begin; one that goes on has its own."""
        self.date = date
        self._base: Base | None = None
        self._key: Key = None
        self._files: dict[tuple[str, Path], AdapterFile] = {}
        self._digests: dict[Path, str] = {}

    @property
    def held(self) -> int:
        """Bytes of the device that the base takes, and on a GPU what torch keeps for later beside it."""
        if self._base is None:
            return 0
        device = self._base.decoder.device
        if device.type == "cuda":
            return torch.cuda.memory_reserved(device)
        weights = [parameter.untyped_storage() for parameter in self._base.model.parameters()]
        return sum({each.data_ptr(): each.nbytes() for each in weights}.values())

    def resident(self, config: Config, choices: Choices, places: Places, date: datetime | None) -> Resident:
        """What a run with these settings and of this date works on; only what is not here yet is read.

        Raises:
            SpartaError: see ``load_resident``.
        """
        if self._base is None or self._key != base_key(config, choices):
            self._base = None  # two bases would not fit
            self._base = load_base_of(config, choices, training=True)
            self._key = base_key(config, choices)
        missing = {
            name: path for name, path in places.items() if path is None or (name, path) not in self._files
        }
        read = read_tribe(config, missing, self._base.decoder)
        new = {file.adapter.name: file for file in read}
        files = {
            name: self._files[name, path] if path is not None and name not in new else new[name]
            for name, path in places.items()
        }
        # New adapters of 'fresh-N' depend on the run's seed: they are made again.
        self._files = {(name, path): files[name] for name, path in places.items() if path is not None}
        return on_base(config, self._base, list(files.values()), date)

    def digest(self, model: Path) -> str:
        """SHA-256 of a model's files as they were when a run first asked: what is kept was read then."""
        if model not in self._digests:
            self._digests[model] = digest(model)
        return self._digests[model]
