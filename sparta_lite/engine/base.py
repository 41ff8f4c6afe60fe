"""The resident base: one model and its tokenizer, loaded once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from sparta_lite.engine.model import Decoder
from sparta_lite.errors import SpartaError


@dataclass(frozen=True)
class Base:
    """A loaded base. ``decoder`` and ``model`` are two views of the same weights."""

    name: str
    model: Any
    """The transformers model, frozen."""
    tokenizer: Any
    decoder: Decoder
    stops: frozenset[int]
    """End-of-turn tokens, as the model's own configuration and tokenizer name them."""
    context: int
    """The longest sequence that the model was made for, in tokens."""


def load_base(path: Path, device: torch.device, dtype: torch.dtype = torch.float32) -> Base:
    """Load a model in transformers' form from a local directory: safetensors only, no remote code.

    Raises:
        SpartaError: the directory is missing or incomplete, the weights are not safetensors, hold
            NaN, or do not fit the configuration, the architecture is not one that ``Decoder`` computes,
            or the tokenizer is missing or has no chat template.
    """
    if not (path / "config.json").is_file():
        raise SpartaError(
            f"base: {path} is not a model directory (no config.json); give one in transformers' form"
        )
    try:
        model, report = AutoModelForCausalLM.from_pretrained(
            path,
            dtype=dtype,
            attn_implementation="sdpa",
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False, local_files_only=True)
    except Exception as error:  # a broken configuration makes transformers raise nearly anything
        raise SpartaError(f"base: {path} cannot be loaded: {_first_line(error)}") from error
    missing = sorted(report["missing_keys"]) + sorted(key for key, *_ in report["mismatched_keys"])
    if missing:
        raise SpartaError(
            f"base: {path} lacks weights or has them in another shape: {', '.join(missing[:3])}"
        )
    for name, weight in model.named_parameters():
        if not torch.isfinite(weight).all():
            raise SpartaError(f"base: {path}: the weight {name} holds NaN or infinity; get a sound copy")
    # Without its files transformers makes a tokenizer that knows no text at all.
    if tokenizer("1")["input_ids"] == tokenizer("2")["input_ids"]:
        raise SpartaError(f"base: {path}: the tokenizer's files are missing; get a complete copy")
    highest, known = max(tokenizer.get_vocab().values()), model.get_input_embeddings().num_embeddings
    if highest >= known:
        raise SpartaError(
            f"base: {path}: the tokenizer has ids up to {highest}, the model {known} embeddings; "
            "get the tokenizer that it was trained with"
        )
    if not tokenizer.chat_template:
        raise SpartaError(f"base: {path}: the tokenizer has no chat template; use an instruction-tuned model")
    model.requires_grad_(False).eval().to(device)
    return Base(
        name=str(path),
        model=model,
        tokenizer=tokenizer,
        decoder=Decoder(model),
        stops=_stops(model, tokenizer),
        context=int(model.config.max_position_embeddings),
    )


def _stops(model: Any, tokenizer: Any) -> frozenset[int]:
    stops: set[int] = set()
    for named in (model.generation_config.eos_token_id, model.config.eos_token_id, tokenizer.eos_token_id):
        stops.update([named] if isinstance(named, int) else named or [])
    if not stops:
        raise SpartaError(
            "base: neither model nor tokenizer names an end-of-turn token (eos_token_id); set one"
        )
    return frozenset(stops)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
