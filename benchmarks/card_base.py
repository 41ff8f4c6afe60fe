"""A base of random weights made in the memory of the device that computes: nothing of it is on the disk."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tiny_tribe import LINEAR
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, BitsAndBytesConfig, Qwen2Config

from sparta_lite.engine.bank import Adapter, Bank, empty_bank
from sparta_lite.engine.base import Base, Request, load_base
from sparta_lite.files import read_json
from sparta_lite.pocket import base_path

MODULES = tuple(f"{'mlp' if name[:2] in ('ga', 'up', 'do') else 'self_attn'}.{name}" for name in LINEAR)
"""Of a decoder layer."""
SHAPES: dict[str, dict[str, Any]] = {
    "7b": {  # Qwen/Qwen2.5-7B-Instruct
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "vocab_size": 152064,
        "max_position_embeddings": 32768,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
    },
    "1.5b": {  # Qwen/Qwen2.5-1.5B-Instruct, but for the head of its own
        "hidden_size": 1536,
        "intermediate_size": 8960,
        "num_hidden_layers": 28,
        "num_attention_heads": 12,
        "num_key_value_heads": 2,
        "vocab_size": 151936,
        "max_position_embeddings": 32768,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
    },
    "small": {
        "hidden_size": 256,
        "intermediate_size": 704,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 8192,
        "max_position_embeddings": 4096,
    },
    "tiny": {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 1024,
        "max_position_embeddings": 4096,
    },
}
_STD = 0.02


def describe_base(path: Path, shape: str) -> None:
    """A model directory without weights: a configuration, and the pocket tribe's tokenizer."""
    path.mkdir(parents=True, exist_ok=True)
    for file in base_path().iterdir():
        if "token" in file.name or file.suffix == ".jinja":
            shutil.copy(file, path)
    ids = read_json(base_path() / "config.json")
    ends = {key: ids[key] for key in ("eos_token_id", "pad_token_id", "bos_token_id")}
    Qwen2Config(
        **SHAPES[shape], **ends, tie_word_embeddings=False, architectures=["Qwen2ForCausalLM"]
    ).save_pretrained(path)


def make_base(path: Path, device: torch.device, dtype: torch.dtype, unpack: bool) -> Base:
    """The base that ``describe_base`` described, with weights from a fixed seed.

    Linear layers are in NF4, doubly quantised, one after the other: the whole is never in 16 bits.

    Args:
        path: the directory.
        device: where it stays.
        dtype: what it computes in.
        unpack: hold what the 4 bits stand for, as ``engine.unpack`` does.
    """
    return load_base(path, device, dtype, "nf4", loader=_in_memory, unpack=unpack)


def make_bank(base: Base, count: int, rank: int) -> Bank:
    """Adapters of one rank on all linear layers, random in A and B."""
    adapters = [Adapter(f"adapter-{number}", rank, 2.0 * rank, False, MODULES) for number in range(count)]
    bank = empty_bank(base.decoder, adapters, torch.float32)
    generator = torch.Generator(base.decoder.device).manual_seed(1)
    for _, tensor in bank.tensors():
        tensor.normal_(std=0.01, generator=generator)
    return bank


def save_base(base: Base, path: Path) -> None:
    """The same as a checkpoint, in 4 bits where the base is."""
    base.model.save_pretrained(path, max_shard_size="4GB")


def four_bit_layer(weight: Tensor, bias: Tensor | None = None) -> Any:
    """bitsandbytes' Linear4bit of a matrix [out, in], doubly quantised as those of a base are."""
    from bitsandbytes.nn import Linear4bit, Params4bit

    outputs, inputs = weight.shape
    with torch.device("meta"):
        layer = Linear4bit(
            inputs, outputs, bias=bias is not None, compute_dtype=weight.dtype, quant_type="nf4"
        )
    packed = Params4bit(weight, requires_grad=False)
    packed.quant_type, packed.compress_statistics, packed.blocksize = "nf4", True, 64
    layer.weight = packed._quantize(weight.device)
    layer.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)
    layer.support_avx512bf16_for_cpu = False
    return layer.eval()


def _in_memory(request: Request) -> Any:
    config = AutoConfig.from_pretrained(request.path)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=request.dtype)
    generator = torch.Generator(request.device).manual_seed(0)
    fill = partial(_random, generator=generator, request=request)
    for name, module in list(model.named_modules()):
        if request.four_bit and isinstance(module, nn.Linear) and name != "lm_head":
            bias = None if module.bias is None else fill(module.bias)
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, four_bit_layer(fill(module.weight), bias))
            continue
        for kind, parameter in module.named_parameters(recurse=False):
            made = fill(parameter) if parameter.ndim > 1 or kind == "bias" else _ones(parameter, request)
            setattr(module, kind, nn.Parameter(made, requires_grad=False))
    # Its frequencies are a buffer, which was on the meta device as well.
    model.model.rotary_emb = type(model.model.rotary_emb)(config).to(request.device)
    if request.four_bit:
        model.config.quantization_config = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=request.dtype,
        )
        model.is_loaded_in_4bit = True
    return model


def _random(like: Tensor, generator: torch.Generator, request: Request) -> Tensor:
    made = torch.empty(like.shape, dtype=request.dtype, device=request.device)
    return made.normal_(std=_STD, generator=generator)


def _ones(like: Tensor, request: Request) -> Tensor:
    return torch.ones(like.shape, dtype=request.dtype, device=request.device)
