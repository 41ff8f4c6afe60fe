"""A tiny configuration of each family of models; what is left out is as in ``models.SIZES``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from transformers import PreTrainedConfig, Qwen3_5TextConfig, Qwen3NextConfig

from .models import SIZES

DELTA: dict[str, Any] = {
    "num_hidden_layers": 4,
    "head_dim": 16,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 12,
}
"""Three layers with the delta rule before one of full attention; every width differs from every other."""

FAMILIES: Mapping[str, tuple[Callable[..., PreTrainedConfig], Mapping[str, Any]]] = {
    "qwen3_5_text": (Qwen3_5TextConfig, DELTA),
    "qwen3_next": (
        Qwen3NextConfig,
        {
            **DELTA,
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 24,
            "shared_expert_intermediate_size": 40,
        },
    ),
}


def family(name: str, **changes: Any) -> PreTrainedConfig:
    """The configuration of a family, some of its settings changed."""
    make, settings = FAMILIES[name]
    return make(**{**SIZES, **settings, **changes})
