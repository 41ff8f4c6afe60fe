"""The commonest bases in numbers, from ``config.json`` by hand: transformers takes seconds to import."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sparta_lite.engine.shape import Linear, Shape

_NUMBERS = (
    "hidden_size",
    "intermediate_size",
    "num_attention_heads",
    "num_hidden_layers",
    "num_key_value_heads",
    "vocab_size",
    "max_position_embeddings",
)
_OTHERWISE = ("quantization_config", "auto_map", "attention_bias", "mlp_bias", "text_config")
"""Whoever sets one of these has another model, or a checkpoint in other numbers."""


def described(config: Mapping[str, Any]) -> Shape | None:
    """The shape of a Qwen2, Qwen3, Llama or Mistral that says all that it depends on.

    Args:
        config: the content of ``config.json``.

    Returns:
        None where it is another family, leaves a number to a default, or has windows: ask transformers.
    """
    family = config.get("model_type")
    numbers = [config.get(name) for name in _NUMBERS]
    if family not in ("qwen2", "qwen3", "llama", "mistral") or any(map(config.get, _OTHERWISE)):
        return None
    if not all(type(number) is int and number > 0 for number in numbers) or _may_have_windows(config):
        return None
    hidden, inner, heads, layers, kv_heads, vocabulary, context = map(int, (each or 0 for each in numbers))
    width, tied = config.get("head_dim"), config.get("tie_word_embeddings")
    if (
        width is None and family != "qwen3" and hidden % heads == 0
    ):  # that of Qwen3 does not follow from these
        width = hidden // heads
    if type(width) is not int or width < 1 or heads % kv_heads or not isinstance(tied, bool):
        return None
    sizes = {
        "self_attn.q_proj": (hidden, heads * width),
        "self_attn.k_proj": (hidden, kv_heads * width),
        "self_attn.v_proj": (hidden, kv_heads * width),
        "self_attn.o_proj": (heads * width, hidden),
        "mlp.gate_proj": (hidden, inner),
        "mlp.up_proj": (hidden, inner),
        "mlp.down_proj": (inner, hidden),
    }
    biases = (heads + 2 * kv_heads) * width if family == "qwen2" else 0
    norms = 2 * hidden + (2 * width if family == "qwen3" else 0)
    return Shape(
        family=family,
        layers=layers,
        hidden=hidden,
        inner=inner,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=width,
        vocabulary=vocabulary,
        context=context,
        linears=tuple(
            Linear(f"layers.{layer}.{name}", *size, packs=True)
            for layer in range(layers)
            for name, size in sizes.items()
        ),
        others=vocabulary * hidden * (1 if tied else 2) + layers * (norms + biases) + hidden,
    )


def _may_have_windows(config: Mapping[str, Any]) -> bool:
    kinds = config.get("layer_types")
    if kinds is not None and kinds != ["full_attention"] * config["num_hidden_layers"]:
        return True
    if config["model_type"] == "mistral":
        return config.get("sliding_window", 4096) is not None
    return bool(config.get("use_sliding_window"))
