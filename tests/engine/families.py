"""A tiny configuration of each family of models; what is left out is as in ``models.SIZES``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from transformers import (
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    Glm4Config,
    GptOssConfig,
    GraniteConfig,
    LlamaConfig,
    Ministral3Config,
    MinistralConfig,
    MistralConfig,
    Olmo2Config,
    Olmo3Config,
    Phi3Config,
    PreTrainedConfig,
    Qwen2Config,
    Qwen3_5TextConfig,
    Qwen3Config,
    Qwen3MoeConfig,
    Qwen3NextConfig,
    SmolLM3Config,
)

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

FULL, SLIDING = "full_attention", "sliding_attention"
MIXED: dict[str, Any] = {"layer_types": [SLIDING, FULL], "sliding_window": 5}
QWENS: dict[str, Any] = {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1}
"""How Qwen2 and Qwen3 write that there are windows from the second layer on."""
NEAR, FAR = ({"rope_type": "default", "rope_theta": theta} for theta in (1e2, 1e4))
YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 64}
EXPERTS: dict[str, Any] = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}

FAMILIES: Mapping[str, tuple[Callable[..., PreTrainedConfig], Mapping[str, Any]]] = {
    "qwen2": (Qwen2Config, {}),
    "qwen3": (Qwen3Config, {"head_dim": 16}),
    "qwen3_moe": (Qwen3MoeConfig, {"head_dim": 16, **EXPERTS, "mlp_only_layers": [0]}),
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
    "llama": (LlamaConfig, {}),
    "mistral": (MistralConfig, {"sliding_window": 5}),
    "ministral": (MinistralConfig, {"head_dim": 16, **MIXED}),
    "ministral3": (
        Ministral3Config,
        {
            "head_dim": 16,
            "rope_parameters": {**YARN, "llama_4_scaling_beta": 0.3, "original_max_position_embeddings": 16},
        },
    ),
    "gemma": (GemmaConfig, {"head_dim": 16}),
    "gemma2": (
        Gemma2Config,
        {
            "head_dim": 16,
            **MIXED,
            "query_pre_attn_scalar": 9,
            "attn_logit_softcapping": 2.0,
            "final_logit_softcapping": 3.0,
        },
    ),
    "gemma3_text": (
        Gemma3TextConfig,
        {
            "head_dim": 16,
            "num_hidden_layers": 3,
            "layer_types": [SLIDING, SLIDING, FULL],
            "sliding_window": 5,
            "query_pre_attn_scalar": 9,
            "rope_parameters": {SLIDING: NEAR, FULL: FAR},
        },
    ),
    "olmo2": (Olmo2Config, {}),
    "olmo3": (Olmo3Config, MIXED),
    "phi3": (Phi3Config, {"sliding_window": 5}),
    "granite": (
        GraniteConfig,
        {
            "embedding_multiplier": 1.5,
            "attention_multiplier": 0.5,
            "residual_multiplier": 0.7,
            "logits_scaling": 3.0,
        },
    ),
    "smollm3": (SmolLM3Config, {"no_rope_layers": [1, 0]}),
    "glm4": (Glm4Config, {"head_dim": 16}),
    "gpt_oss": (
        GptOssConfig,
        {
            "head_dim": 16,
            **MIXED,
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "rope_parameters": YARN,
        },
    ),
}

ODD: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "qwen2, windows": ("qwen2", {**QWENS, "num_key_value_heads": 1, "tie_word_embeddings": True}),
    "qwen3, windows of 3": ("qwen3", {**QWENS, "sliding_window": 3}),
    "qwen3_moe, windows": (
        "qwen3_moe",
        {"use_sliding_window": True, "sliding_window": 5, "mlp_only_layers": []},
    ),
    "qwen3_5_text, kernels of 3, every second layer full, one key head, tied": (
        "qwen3_5_text",
        {
            "linear_conv_kernel_dim": 3,
            "full_attention_interval": 2,
            "layer_types": None,
            "num_key_value_heads": 1,
            "linear_num_key_heads": 1,
            "tie_word_embeddings": True,
        },
    ),
    "llama, one key head, tied": ("llama", {"num_key_value_heads": 1, "tie_word_embeddings": True}),
    "mistral, a window longer than any prompt": ("mistral", {"sliding_window": 200, "head_dim": 12}),
    "gemma3_text, windows of 3, one key head, untied": (
        "gemma3_text",
        {
            "num_hidden_layers": 2,
            "layer_types": [FULL, SLIDING],
            "sliding_window": 3,
            "num_key_value_heads": 1,
            "tie_word_embeddings": False,
        },
    ),
    "phi3, no window": ("phi3", {"sliding_window": None}),
    "smollm3, windows": ("smollm3", {"use_sliding_window": True, "sliding_window": 5, "layer_types": None}),
}
"""Other shapes of some families: name -> family, and what is changed of its settings."""


def family(name: str, **changes: Any) -> PreTrainedConfig:
    """The configuration of a family, some of its settings changed."""
    make, settings = FAMILIES[name]
    return make(**{**SIZES, **settings, **changes})
