"""Adapters into the bank, from PEFT directories or newly made, and out of it again."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from sparta_lite.engine.bank import Adapter, Bank, empty_bank
from sparta_lite.engine.hub import CONFIG_FILE, WEIGHTS_FILE
from sparta_lite.engine.model import Decoder
from sparta_lite.errors import SpartaError
from sparta_lite.files import write_bytes, write_json, write_whole
from sparta_lite.kernels.sampling import uniforms
from sparta_lite.randomness import key as random_key

_KEY = re.compile(r"^base_model\.model\.model\.(layers\.\d+\.[\w.]+)\.lora_([AB])\.weight$")

# Settings that say where the tensors are, how they scale, or how they were made; any other
# setting that differs from PEFT's default would change the arithmetic and is refused.
_UNDERSTOOD = frozenset(
    {
        "auto_mapping",
        "base_model_name_or_path",
        "ensure_weight_tying",
        "exclude_modules",
        "inference_mode",
        "init_lora_weights",
        "layers_pattern",
        "layers_to_transform",
        "lora_alpha",
        "lora_dropout",
        "megatron_core",
        "peft_type",
        "peft_version",
        "qalora_group_size",
        "r",
        "revision",
        "runtime_config",
        "target_modules",
        "task_type",
        "use_rslora",
    }
)
_CHANGES_THE_BASE = ("pissa", "olora", "loftq", "corda", "lora_ga")


@dataclass(frozen=True)
class AdapterFile:
    """One adapter as read from disk, or newly made."""

    adapter: Adapter
    weights: Mapping[str, tuple[Tensor, Tensor]]
    """Module name (``layers.0.self_attn.q_proj``) -> A [rank, in], B [out, rank]."""
    config: Mapping[str, Any]
    """Its ``adapter_config.json``, to be written again with every new version."""


def read_adapter(name: str, path: Path) -> AdapterFile:
    """Read a PEFT LoRA directory.

    Raises:
        SpartaError: something is missing or malformed, a weight is NaN, or the adapter uses what the
            bank does not hold: DoRA, biases, ``modules_to_save``, ranks that differ by module.
    """
    where = f"adapter {name!r} in {path}"
    config = _read_config(path, where)
    _refuse_unknown(config, where)
    try:
        tensors = load_file(path / WEIGHTS_FILE)
    except FileNotFoundError as error:
        raise SpartaError(f"{where}: no {WEIGHTS_FILE}; save the adapter as safetensors") from error
    except (SafetensorError, OSError) as error:
        raise SpartaError(f"{where}: {WEIGHTS_FILE} cannot be read ({error})") from error

    weights = _pair_up(tensors, int(config["r"]), where)
    adapter = Adapter(
        name=name,
        rank=int(config["r"]),
        alpha=float(config["lora_alpha"]),
        rslora=bool(config.get("use_rslora", False)),
        targets=tuple(sorted({module.split(".", 2)[2] for module in weights})),
    )
    return AdapterFile(adapter, weights, config)


def new_adapter(name: str, decoder: Decoder, rank: int, alpha: float, seed: int, base: str) -> AdapterFile:
    """An adapter on every linear module of ``decoder`` that changes nothing yet.

    As PEFT starts one: A uniform in +-1/sqrt(in) (Kaiming's rule with a = sqrt(5)), B zero.
    Every number of A follows from seed, name and module alone.
    """
    weights = {}
    for number, layer in enumerate(decoder.layers):
        for site in layer.sites.values():
            for module, width in zip(site.names, site.widths, strict=True):
                where = random_key(seed, "new adapter", name, number, module)
                counters = torch.arange(rank * site.inputs).view(rank, site.inputs)
                a = (2 * uniforms(torch.full_like(counters, where), counters) - 1) / site.inputs**0.5
                weights[f"layers.{number}.{module}"] = (a.float(), torch.zeros(width, rank))
    targets = tuple(sorted({module.split(".", 2)[2] for module in weights}))
    config = {
        "base_model_name_or_path": base,
        "bias": "none",
        "inference_mode": True,
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "peft_type": "LORA",
        "r": rank,
        "target_modules": sorted({target.rpartition(".")[2] for target in targets}),
        "task_type": "CAUSAL_LM",
    }
    return AdapterFile(Adapter(name, rank, alpha, False, targets), weights, config)


def load_bank(
    decoder: Decoder,
    files: list[AdapterFile],
    dtype: torch.dtype = torch.float32,
    resident: int | None = None,
) -> Bank:
    """Put adapters into one bank on ``decoder``; ``resident`` as ``empty_bank`` takes it.

    Raises:
        SpartaError: an adapter names a module that the base lacks, or was made for other shapes.
    """
    bank = empty_bank(decoder, [file.adapter for file in files], dtype, resident)
    widths = {
        f"layers.{number}.{module}": (width, site.inputs)
        for number, layer in enumerate(decoder.layers)
        for site in layer.sites.values()
        for module, width in zip(site.names, site.widths, strict=True)
    }
    for slot, file in enumerate(files):
        where = f"adapter {file.adapter.name!r}"
        for module, (a, b) in file.weights.items():
            if module not in widths:
                raise SpartaError(
                    f"{where}: the base has no adaptable {module}; use the base it was made for"
                )
            if (b.shape[0], a.shape[1]) != widths[module]:
                raise SpartaError(
                    f"{where}: {module} maps {a.shape[1]} to {b.shape[0]} features, the base's maps "
                    f"{widths[module][1]} to {widths[module][0]}; use the base it was made for"
                )
        for module, a, b in bank.modules(slot):
            if module in file.weights:
                a.copy_(file.weights[module][0])
                b.copy_(file.weights[module][1])
    return bank


def write_adapter(path: Path, bank: Bank, name: str, config: Mapping[str, Any]) -> None:
    """Write one adapter of the bank as a PEFT directory; equal weights give equal bytes.

    Args:
        path: the directory; the weights are written before the configuration that makes it valid.
        bank: where the numbers stand.
        name: which adapter.
        config: ``adapter_config.json``, as read.
    """
    tensors = {}
    for module, a, b in bank.modules(bank.slot(name)):
        # Zero on both sides is padding: a module that other adapters of the bank have, or other layers.
        if a.any() or b.any():
            tensors[f"base_model.model.model.{module}.lora_A.weight"] = a.detach().cpu().contiguous()
            tensors[f"base_model.model.model.{module}.lora_B.weight"] = b.detach().cpu().contiguous()
    data = save(tensors, metadata={"format": "pt"})
    write_whole(path / WEIGHTS_FILE, lambda temporary: write_bytes(temporary, data))
    write_json(path / CONFIG_FILE, dict(config))


def _read_config(path: Path, where: str) -> dict[str, Any]:
    try:
        config = json.loads((path / CONFIG_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise SpartaError(f"{where}: no {CONFIG_FILE}; give a directory that PEFT saved") from error
    except (OSError, ValueError) as error:
        raise SpartaError(f"{where}: {CONFIG_FILE} cannot be read ({error})") from error
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        raise SpartaError(f"{where}: {CONFIG_FILE} does not describe a LoRA adapter; only LoRA is supported")
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if not isinstance(rank, int) or rank < 1:
        raise SpartaError(f"{where}: the rank r must be a positive whole number, not {rank!r}")
    if not isinstance(alpha, int | float) or not math.isfinite(alpha) or alpha == 0:
        raise SpartaError(f"{where}: lora_alpha must be a finite number other than 0, not {alpha!r}")
    return config


def _refuse_unknown(config: Mapping[str, Any], where: str) -> None:
    defaults = {
        field.name: field.default_factory() if field.default_factory is not MISSING else field.default
        for field in fields(LoraConfig)
    }
    for setting, value in config.items():
        if setting in _UNDERSTOOD or not value or value == defaults.get(setting):
            continue
        raise SpartaError(
            f"{where}: {setting} = {value!r} is not supported; only plain LoRA is (no DoRA, biases, "
            "modules_to_save or patterns): merge it away or train the adapter without it"
        )
    start = config.get("init_lora_weights")
    if isinstance(start, str) and start.lower().startswith(_CHANGES_THE_BASE):
        raise SpartaError(
            f"{where}: init_lora_weights = {start!r} changes the base's own weights; "
            "convert it to plain LoRA with PEFT's path_initial_model_for_weight_conversion"
        )


def _pair_up(tensors: Mapping[str, Tensor], rank: int, where: str) -> dict[str, tuple[Tensor, Tensor]]:
    sides: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        match = _KEY.match(key)
        if match is None:
            raise SpartaError(
                f"{where}: the tensor {key} is not the A or B of a decoder layer's linear module"
            )
        if tensor.ndim != 2:
            raise SpartaError(f"{where}: the tensor {key} of shape {tuple(tensor.shape)} is not a matrix")
        if not torch.isfinite(tensor).all():
            raise SpartaError(f"{where}: the tensor {key} holds NaN or infinity; get a sound copy")
        sides.setdefault(match[1], {})[match[2]] = tensor
    if not sides:
        raise SpartaError(f"{where}: {WEIGHTS_FILE} holds no LoRA tensors")
    pairs = {}
    for module, side in sides.items():
        if set(side) != {"A", "B"}:
            raise SpartaError(f"{where}: {module} has only one of lora_A and lora_B")
        if side["A"].shape[0] != rank or side["B"].shape[-1] != rank:
            raise SpartaError(
                f"{where}: {module} has rank {side['A'].shape[0]}, {CONFIG_FILE} says r = {rank}; "
                "ranks that differ by module are not supported"
            )
        pairs[module] = (side["A"], side["B"])
    return pairs
