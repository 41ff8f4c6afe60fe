"""Adapters into the bank, from PEFT directories or newly made, and out of it again."""

from __future__ import annotations

import re
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from sparta_lite.engine.bank import Adapter, Bank, empty_bank
from sparta_lite.engine.experts import taken_for_experts
from sparta_lite.engine.hub import CONFIG_FILE, WEIGHTS_FILE
from sparta_lite.engine.loading import is_fault, reason
from sparta_lite.engine.model import Decoder
from sparta_lite.engine.peft_config import LoraSettings, read_settings
from sparta_lite.engine.residual import require_residual
from sparta_lite.errors import SpartaError, shortened
from sparta_lite.files import write_bytes, write_json, write_whole
from sparta_lite.kernels.sampling import uniforms
from sparta_lite.randomness import key as random_key

# A model that also sees has its decoder one level deeper; AutoModelForCausalLM loads that alone.
_KEY = re.compile(
    r"^base_model\.model\.model\.(?:language_model\.)?(layers\.\d+\.[\w.]+)\.lora_([AB])\.weight$"
)
_SEES = re.compile(
    r"^base_model\.model\.(?:model\.)?(?:visual|vision_tower|vision_model|multi_modal_projector)\."
)
_UNUSED = re.compile(r"\.lora_(velora_embed|monteclora_sampler\.\w+)$")
"""Tensors that only PEFT's training reads."""
_ADVICE = (
    (r"\.(lm_head|embed_tokens)\.weight$", "save it again with save_embedding_layers=False"),
    (r"\.(lm_head|embed_tokens)\.", "train it without lm_head and embed_tokens"),
    (r"\.lora_magnitude_vector", "that is DoRA: make plain LoRA of it with PEFT's save_as_lora"),
    (r"\.experts\.", "train it without the experts"),
)
"""What helps against a tensor that is none of plain LoRA on decoder layers."""
_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


@dataclass(frozen=True)
class AdapterFile:
    """One adapter as read from disk, or newly made."""

    adapter: Adapter
    weights: Mapping[str, tuple[Tensor, Tensor]]
    """Module name (``layers.0.self_attn.q_proj``) -> A [rank, in], B [out, rank]."""
    config: Mapping[str, Any]
    """Its ``adapter_config.json``, to be written again with every new version."""
    residual: str = ""
    """How it was initialised, where that took something out of the base's weights; see ``peft_config``."""


def read_adapter(name: str, path: Path) -> AdapterFile:
    """Read a PEFT LoRA directory.

    Raises:
        SpartaError: something is missing or malformed, a weight is NaN, or the adapter uses what the
            bank does not hold, such as DoRA, biases or ``modules_to_save`` (docs/adapters.md).
    """
    where = f"adapter {name!r} in {path}"
    settings = read_settings(path, where)
    try:
        tensors = load_file(path / WEIGHTS_FILE)
    except FileNotFoundError as error:
        raise SpartaError(f"{where}: no {WEIGHTS_FILE}; save the adapter as safetensors") from error
    except BaseException as error:
        if not is_fault(error):
            raise
        raise SpartaError(
            f"{where}: {WEIGHTS_FILE} cannot be read ({reason(error)}); get a sound copy"
        ) from error

    weights = _pair_up(_of_the_decoder(tensors, where), where)
    shapes = _shapes(settings, weights)
    # One rank and alpha serve where they can: the file's own, or those that most modules have.
    usual = (settings.rank, settings.alpha)
    if usual not in shapes.values():
        usual = Counter(shapes.values()).most_common(1)[0][0]
    adapter = Adapter(
        name=name,
        rank=usual[0],
        alpha=usual[1],
        rslora=settings.rslora,
        targets=tuple(sorted({module.split(".", 2)[2] for module in weights})),
        own={module: shape for module, shape in shapes.items() if shape != usual},
    )
    config = _named_by_the_decoder(settings, adapter, weights)
    return AdapterFile(adapter, weights, config, settings.residual)


def new_adapter(name: str, decoder: Decoder, rank: int, alpha: float, seed: int, base: str) -> AdapterFile:
    """An adapter on every linear module of ``decoder`` that it can name, which changes nothing yet.

    As PEFT starts one: A uniform in +-1/sqrt(in) (Kaiming's rule with a = sqrt(5)), B zero.
    Every number of A follows from seed, name and module alone.
    """
    weights = {}
    others = taken_for_experts(
        f"layers.{number}.{module}"
        for number, layer in enumerate(decoder.layers)
        for site in layer.sites.values()
        for module in site.names
    )
    for number, layer in enumerate(decoder.layers):
        for site in layer.sites.values():
            for module, width in zip(site.names, site.widths, strict=True):
                if f"layers.{number}.{module}" in others:
                    continue
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
    into: Bank | None = None,
) -> Bank:
    """Put adapters into one bank on ``decoder``; ``resident`` as ``empty_bank`` takes it.

    ``into``: a bank on ``decoder``, without a window, that nobody needs any more. Where it is of the same
    adapters, and ``resident`` has room for all, they take its memory, and what was recorded to read them
    there goes on to do so.

    Raises:
        SpartaError: an adapter names a module that the base lacks, or was made for other shapes, or for a
            base whose weights its initialisation had changed.
    """
    adapters = tuple(file.adapter for file in files)
    if (
        into is not None
        and into.adapters == adapters
        and (resident is None or resident >= len(adapters))
        and {each.dtype for _, each in into.tensors()} == {dtype}
    ):
        bank = into
        for _, tensor in bank.tensors():
            tensor.zero_()
    else:
        bank = empty_bank(decoder, adapters, dtype, resident)
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
        if file.residual:
            scales = {module: file.adapter.scale_of(module) for module in file.weights}
            require_residual(where, file.residual, decoder, file.weights, scales)
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


def scaling(adapter: Adapter) -> dict[str, Any]:
    """How an adapter scales, as PEFT's ``LoraConfig`` takes it."""
    # PEFT only divides alpha by the rank: it may be any number.
    found: dict[str, Any] = {"r": adapter.rank, "lora_alpha": adapter.alpha, "use_rslora": adapter.rslora}
    if adapter.own:
        found["rank_pattern"] = {re.escape(module): rank for module, (rank, _) in adapter.own.items()}
        found["alpha_pattern"] = {re.escape(module): alpha for module, (_, alpha) in adapter.own.items()}
    return found


def copy_weights(adapter: Path, out: Path) -> None:
    """Copy the weights of a PEFT directory into another, named as ``AutoModelForCausalLM`` loads its base."""
    tensors = load_file(adapter / WEIGHTS_FILE)
    named = {
        key.replace(".model.language_model.", ".model.", 1): tensor
        for key, tensor in _of_the_decoder(tensors, str(adapter)).items()
    }
    if named.keys() == tensors.keys():
        shutil.copyfile(adapter / WEIGHTS_FILE, out / WEIGHTS_FILE)
    else:
        write_bytes(out / WEIGHTS_FILE, save(named, metadata={"format": "pt"}))


def _of_the_decoder(tensors: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    """``tensors`` without those that were put on what sees and never trained: all-linear takes them along."""
    seeing = {key for key in tensors if _SEES.match(key)}
    for key in seeing:
        if ".lora_B." in key and tensors[key].any():
            raise SpartaError(
                f"{where}: it adapts {key.removeprefix('base_model.model.')}, which sees; train the language "
                "model alone"
            )
    return {key: tensor for key, tensor in tensors.items() if key not in seeing}


def _named_by_the_decoder(
    settings: LoraSettings, adapter: Adapter, modules: Iterable[str]
) -> Mapping[str, Any]:
    """The settings so that PEFT finds ``modules`` by them, and scales them, in the language model alone."""
    names = {f"model.{module}" for module in modules}
    plain = settings.resolve(names, sees=False)
    if plain == settings.resolve(names):
        return settings.raw
    targets = sorted({name.rpartition(".")[2] for name in names})
    return {**settings.raw, "target_modules": targets, "exclude_modules": None, **scaling(adapter)}


def _pair_up(tensors: Mapping[str, Tensor], where: str) -> dict[str, tuple[Tensor, Tensor]]:
    sides: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        if _UNUSED.search(key):
            continue
        match, named = _KEY.match(key), shortened(key, 100)
        if match is None:
            advice = next((each for found, each in _ADVICE if re.search(found, key)), "give plain LoRA")
            raise SpartaError(
                f"{where}: the tensor {named} is not the A or B of a decoder layer's linear module; {advice}"
            )
        if tensor.dtype not in _DTYPES:
            kind = str(tensor.dtype).removeprefix("torch.")
            raise SpartaError(
                f"{where}: the tensor {named} is in {kind}; save the adapter in bf16 or float32"
            )
        if tensor.ndim != 2:
            raise SpartaError(
                f"{where}: the tensor {named} of shape {tuple(tensor.shape)} is not a matrix; get a sound "
                "copy"
            )
        if not torch.isfinite(tensor).all():
            raise SpartaError(f"{where}: the tensor {named} holds NaN or infinity; get a sound copy")
        sides.setdefault(match[1], {})[match[2]] = tensor
    if not sides:
        raise SpartaError(f"{where}: {WEIGHTS_FILE} holds no LoRA tensors; get a sound copy")
    for module, side in sides.items():
        if set(side) != {"A", "B"}:
            raise SpartaError(f"{where}: {module} has only one of lora_A and lora_B; get a sound copy")
    return {module: (side["A"], side["B"]) for module, side in sides.items()}


def _shapes(
    settings: LoraSettings, weights: Mapping[str, tuple[Tensor, Tensor]]
) -> dict[str, tuple[int, float]]:
    """Rank and alpha of every module, which the settings must give as the tensors have them."""
    found = settings.resolve(f"model.{module}" for module in weights)
    shapes = {}
    for module, (a, b) in weights.items():
        if f"model.{module}" not in found:
            raise SpartaError(
                f"{settings.where}: holds {module}, which {CONFIG_FILE} (target_modules and its kin) leaves "
                "out and PEFT would drop; correct one of the two files"
            )
        rank, alpha = found[f"model.{module}"]
        if a.shape[0] != rank or b.shape[1] != rank:
            raise SpartaError(
                f"{settings.where}: {module} has rank {a.shape[0]}, {CONFIG_FILE} says r = {rank} for it, by "
                "r or rank_pattern; correct one of the two files"
            )
        shapes[module] = (rank, alpha)
    return shapes
