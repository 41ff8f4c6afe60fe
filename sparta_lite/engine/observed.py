"""What a model of transformers asks of its attention and does to its logits, seen while it runs."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from sparta_lite.engine.mixing import AttentionSpec, Mixers
from sparta_lite.engine.support import WOULD_DO
from sparta_lite.errors import SpartaError

_UNDERSTOOD = {
    "position_ids",
    "is_causal",
    "cache_position",
    "use_cache",
    "sliding_window",
    "softcap",
    "s_aux",
    "output_attentions",
}
_LONGEST = 8200  # tokens of a pass whose masks are looked at
_FEW = 8  # tokens of one that goes through all layers

Specs = dict[int, AttentionSpec]
_specs: ContextVar[Specs | None] = ContextVar("_specs", default=None)


@dataclass(frozen=True)
class Logits:
    """What follows the product with the head."""

    scale: float = 1.0
    softcap: float | None = None
    """Logits go through ``softcap * tanh(logit / softcap)``; None: as they are."""

    def __call__(self, logits: Tensor) -> Tensor:
        if self.scale != 1:
            logits = logits * self.scale
        return logits if self.softcap is None else self.softcap * (logits / self.softcap).tanh()


def logits_of(config: Any) -> Logits:
    """As Cohere, Granite, HyperCLOVA X and Gemma name it; what is named otherwise shows in a comparison."""
    scale = float(getattr(config, "logit_scale", None) or 1)
    divisor = float(getattr(config, "logits_scaling", None) or 1)
    scale *= divisor if config.model_type == "hyperclovax" else 1 / divisor
    return Logits(scale, getattr(config, "final_logit_softcapping", None))


def attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **asked: Any
) -> tuple[Tensor, Any]:
    """The model's own attention, torch's where that computes it; ``observe`` takes note of what is asked."""
    specs = _specs.get()
    if specs is not None:
        if module.layer_idx in specs:
            raise SpartaError(
                f"base: layer {module.layer_idx} of {module.config.model_type!r} attends more than once; "
                f"use another base, such as {WOULD_DO}"
            )
        specs[module.layer_idx] = _spec(module, key, value, asked)
    if asked.get("softcap") is None and asked.get("s_aux") is None:
        result: tuple[Tensor, Any] = sdpa_attention_forward(
            module, query, key, value, attention_mask, **asked
        )
        return result
    # Of torch's there is none with a cap or sinks: such a family brings its own beside its modules.
    own = sys.modules[type(module).__module__].eager_attention_forward
    if attention_mask is None:
        causal = torch.ones(query.shape[2], key.shape[2], dtype=torch.bool, device=query.device)
        attention_mask = causal.tril(key.shape[2] - query.shape[2])
    if attention_mask.dtype == torch.bool:
        lowest = torch.finfo(query.dtype).min
        attention_mask = torch.zeros_like(attention_mask, dtype=query.dtype).masked_fill(
            ~attention_mask, lowest
        )
    found: tuple[Tensor, Any] = own(module, query, key, value, attention_mask, **asked)
    return found


def _spec(module: Any, key: Tensor, value: Tensor, asked: dict[str, Any]) -> AttentionSpec:
    unknown = sorted(
        {name for name, each in asked.items() if each is not None} - _UNDERSTOOD - {"scaling", "dropout"}
    )
    if unknown:
        raise SpartaError(
            f"base: attention with {', '.join(unknown)} is not supported; use another base, such as "
            f"{WOULD_DO}"
        )
    if key.shape != value.shape:
        raise SpartaError(
            f"base: keys and values of different widths, {key.shape[-1]} and {value.shape[-1]}, are not "
            f"supported; use another base, such as {WOULD_DO}"
        )
    window, context = asked.get("sliding_window"), module.config.max_position_embeddings
    return AttentionSpec(
        kv_heads=key.shape[1],
        head_dim=key.shape[-1],
        window=window if window is not None and window < context else None,
        softcap=asked.get("softcap"),
        sinks=None if asked.get("s_aux") is None else asked["s_aux"].detach(),
    )


@contextmanager
def _observing() -> Iterator[Specs]:
    specs: Specs = {}
    token = _specs.set(specs)
    try:
        yield specs
    finally:
        _specs.reset(token)


@torch.no_grad()
def observe(model: Any) -> Mixers:
    """What each layer asks of its attention, and that the masks transformers gives it say the same.

    Args:
        model: its attention function must be ``attention``.

    Raises:
        SpartaError: a layer has no softmax attention, or one that looks at other tokens than an
            ``AttentionSpec`` can say.
    """
    family, layers = model.config.model_type, model.model.layers
    with _observing() as specs:
        model.model(input_ids=some_tokens(model, _FEW), use_cache=False)
    without = [number for number in range(len(layers)) if number not in specs]
    if without:
        raise SpartaError(
            f"base: layer {without[0]} of {family!r} has no softmax attention; use another base, such as "
            f"{WOULD_DO}"
        )
    mixers = [specs[number] for number in range(len(layers))]
    said = [getattr(model.config, "sliding_window", None), *(each.window for each in mixers)]
    length = min(
        max([_FEW, *(window for window in said if window)]) + 2, model.config.max_position_embeddings
    )
    length = min(length, _LONGEST)
    for number, mask in enumerate(_masks(model, length)):
        window = mixers[number].window
        if not torch.equal(mask, band(length, window, mask.device)):
            raise SpartaError(
                f"base: layer {number} of {family!r} looks at other tokens than the newest "
                f"{window or 'ones'}, which is not supported; use another base, such as {WOULD_DO}"
            )
    return mixers


def some_tokens(model: Any, length: int) -> Tensor:
    """int64 [1, length], different ones as far as there are."""
    embeddings = model.get_input_embeddings()
    ids: Tensor = torch.arange(2, 2 + length, device=embeddings.weight.device)[None]
    return ids % int(embeddings.num_embeddings)


def band(length: int, window: int | None, device: torch.device) -> Tensor:
    """bool [length, length], True where a token (first) sees another (second) under this window."""
    earlier = torch.ones(length, length, dtype=torch.bool, device=device).tril()
    return earlier if window is None else earlier.triu(1 - window)


def _masks(model: Any, length: int) -> list[Tensor]:
    """What each layer sees of one sequence as transformers has it, bool [length, length]; none computes."""
    found: list[Tensor] = []

    def note(hidden: Tensor, *_: Any, attention_mask: Tensor | None = None, **__: Any) -> Tensor:
        found.append(
            band(length, None, hidden.device) if attention_mask is None else attention_mask[0, 0].bool()
        )
        return hidden

    layers = list(model.model.layers)
    for layer in layers:
        layer.forward = note
    try:
        model.model(input_ids=some_tokens(model, length), use_cache=False)
    finally:
        for layer in layers:
            del layer.forward
    return found
