"""What stays in memory for a whole run: the base, the tribe on it, and how it is spoken to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, get_args

import torch

from sparta_lite.campaign.planning import planned
from sparta_lite.campaign.run_record import RunRecord
from sparta_lite.campaign.settings import POCKET, Config
from sparta_lite.campaign.sources import base_source, config_file
from sparta_lite.campaign.trainers import begun_with, faster
from sparta_lite.campaign.tribe import Places
from sparta_lite.engine.attention import choose_attention
from sparta_lite.engine.bank import Bank
from sparta_lite.engine.base import Base, load_base
from sparta_lite.engine.chat import Chat
from sparta_lite.engine.device import DeviceSetting, Dtype, choose_device, choose_dtype, keep_compiled
from sparta_lite.engine.hub import read_object
from sparta_lite.engine.model import Decoder
from sparta_lite.engine.peft_io import AdapterFile, load_bank, new_adapter, read_adapter
from sparta_lite.engine.support import HYBRIDS
from sparta_lite.engine.template import now
from sparta_lite.kernels.choice import choose_delta, choose_kernels
from sparta_lite.training.choice import Trainer, TrainerSetting, choose_trainer
from sparta_lite.training.unsloth import load_model as load_through_unsloth


@dataclass(frozen=True)
class Choices:
    """What the settings leave to the machine."""

    device: torch.device
    dtype: torch.dtype
    trainer: Trainer
    reasons: Mapping[str, str]
    """``dtype``, ``attention``, ``kernels``, ``trainer`` and, for a hybrid base, ``delta rule``: what was
    chosen, and why, for people."""


@dataclass(frozen=True)
class Resident:
    base: Base
    bank: Bank
    adapter_configs: Mapping[str, Mapping[str, Any]]
    """Per adapter the ``adapter_config.json`` that its new versions are written with."""
    chat: Chat


def choose(
    config: Config,
    training: bool = True,
    planning: bool = False,
    record: RunRecord | None = None,
    held: int = 0,
) -> Choices:
    """Settle what the settings leave open, from the device and the base's ``config.json`` alone.

    Args:
        config: the run's settings.
        training: whether their trainer will be used; it may be missing where nothing trains.
        planning: whether shipped numbers will do, see ``config_file``.
        record: of the run that this belongs to: ``auto`` keeps the trainer that it began with and, on its
            device, the dtype.
        held: see ``planned``.

    Raises:
        SpartaError: a device or a trainer is asked for that is not there.
    """

    def compare(device: torch.device, dtype: torch.dtype) -> tuple[Trainer, str]:
        return begun_with(record) or faster(
            lambda trainer: planned(config, Choices(device, dtype, trainer, {}), held, planning)[0]
        )

    # Only our own trainer takes SPPO's win rates.
    setting = config.training.trainer if training and config.algorithm != "sppo" else "tribe"
    dtype = _dtype(config, choose_device(config.device), record, planning)
    return choices_for(config.base, config.device, setting, planning, compare, dtype)


def _dtype(
    config: Config, device: torch.device, record: RunRecord | None, planning: bool
) -> tuple[torch.dtype, str]:
    if config.dtype == "auto" and record is not None and record.device == str(device):
        named, _, why = record.choices.get("dtype", "").partition(" (")
        if named in get_args(Dtype)[1:]:  # all but auto
            return getattr(torch, named), why.removesuffix(")")
    if config.base == POCKET:  # its results must not depend on the machine
        return choose_dtype(config.dtype, device)
    described = _described(config.base, planning)
    hidden, inner = described.get("hidden_size"), described.get("intermediate_size")
    if isinstance(hidden, int) and isinstance(inner, int) and min(hidden, inner) > 0:
        return choose_dtype(config.dtype, device, (hidden, inner))
    return choose_dtype(config.dtype, device)


def _described(base: str, planning: bool) -> dict[str, Any]:
    """What ``config.json`` says of the language model."""
    described = read_object(config_file(base, planning), f"base: {base}")
    text = described.get("text_config")
    return text if isinstance(text, dict) else described


def choices_for(
    base: str,
    device_setting: DeviceSetting = "auto",
    trainer_setting: TrainerSetting = "auto",
    planning: bool = False,
    compare: Callable[[torch.device, torch.dtype], tuple[Trainer, str]] | None = None,
    chosen: tuple[torch.dtype, str] | None = None,
) -> Choices:
    """The same for a base without a run.

    Args:
        base: see ``Config``, as the settings that follow.
        device_setting: ``device``.
        trainer_setting: ``training.trainer``.
        planning: see ``choose``.
        compare: which trainer ``auto`` takes, see ``choose_trainer``.
        chosen: what it computes in, and why; None: what the device computes in by default.

    Raises:
        SpartaError: see ``choose``.
    """
    device = choose_device(device_setting)
    keep_compiled(device)
    dtype, why_dtype = chosen or choose_dtype("auto", device)
    attention, why_attention = choose_attention(device, dtype)
    kernels, why_kernels = choose_kernels(device, dtype)
    architecture = _described(base, planning).get("model_type")
    trainer, why_trainer = choose_trainer(
        trainer_setting, device, architecture, dtype, compare and (lambda: compare(device, dtype))
    )
    reasons = {
        "dtype": f"{str(dtype).removeprefix('torch.')} ({why_dtype})",
        "attention": f"{attention} ({why_attention})",
        "kernels": f"{kernels} ({why_kernels})",
        "trainer": f"{trainer} ({why_trainer})",
    }
    if architecture in HYBRIDS:
        delta, why_delta = choose_delta(device, dtype)
        reasons["delta rule"] = f"{delta} ({why_delta})"
    return Choices(device, dtype, trainer, reasons)


def unpacked(choices: Choices) -> str:
    """How a base of 4 bits is held that was unpacked, and on which card, as ``run.json`` says it."""
    on = f" on {torch.cuda.get_device_name(choices.device)}" if choices.device.type == "cuda" else ""
    return f"4 bits, unpacked to {str(choices.dtype).removeprefix('torch.')}{on}"


def held_here(config: Config, choices: Choices, record: RunRecord) -> Config:
    """``config`` with the base packed, unless the run of ``record`` unpacked it on such a device.

    Whether it fits unpacked was planned for that one alone.
    """
    there = record.device, record.choices.get("weights")
    if not config.engine.unpack or there == (str(choices.device), unpacked(choices)):
        return config
    return config.model_copy(update={"engine": config.engine.model_copy(update={"unpack": False})})


def load_resident(
    config: Config, choices: Choices, places: Places, training: bool, date: datetime | None = None
) -> Resident:
    """Load base and adapters.

    Args:
        config: the run's settings.
        choices: from ``choose``.
        places: from ``find_tribe``: which adapters, in which order.
        training: whether the run's trainer will work on them.
        date: what a chat template that prints the date prints, the run's; None: now.

    Raises:
        SpartaError: something is missing, malformed, or does not fit the rest.
    """
    base = load_base_of(config, choices, training)
    return on_base(config, base, read_tribe(config, places, base.decoder), date)


def read_tribe(config: Config, places: Places, decoder: Decoder) -> list[AdapterFile]:
    """Read, or make, every adapter of ``places`` for the base ``decoder``.

    Raises:
        SpartaError: one is missing, malformed, or uses more than plain LoRA.
    """
    tribe = config.tribe
    return [
        new_adapter(name, decoder, tribe.rank, tribe.alpha, config.seed, config.base)
        if path is None
        else read_adapter(name, path)
        for name, path in places.items()
    ]


def load_base_of(config: Config, choices: Choices, training: bool) -> Base:
    """Load the base alone; see ``load_resident``."""
    return load_base(
        base_source(config.base),
        choices.device,
        choices.dtype,
        config.quantization,
        config.trust_remote_code,
        load_through_unsloth if training and choices.trainer == "unsloth" else None,
        bool(config.engine.unpack),
    )


def on_base(config: Config, base: Base, files: list[AdapterFile], date: datetime | None = None) -> Resident:
    """Put adapters into a bank on a loaded base; ``date`` as in ``load_resident``.

    Raises:
        SpartaError: an adapter was made for another base.
    """
    before = base.warm.bank  # of an earlier run of this process
    bank = load_bank(base.decoder, files, resident=config.tribe.resident, into=before)
    if bank is not before:
        base.warm.release()
    return Resident(
        base=base,
        bank=bank,
        adapter_configs={file.adapter.name: file.config for file in files},
        chat=Chat(
            base.tokenizer,
            config.generation.system,
            config.judge.layout,
            config.judge.wording,
            config.generation.thinking,
            date or now(),
            base.ending,
        ),
    )
