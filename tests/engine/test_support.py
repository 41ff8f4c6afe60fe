"""What is refused, with its reason and a base that would do, before any weight is read."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
from transformers import AutoConfig

from sparta_lite.engine.experts import taken_for_experts
from sparta_lite.engine.support import require_supported, windows
from sparta_lite.errors import SpartaError

from .families import FAMILIES, FULL, ODD, SLIDING, family
from .models import SIZES

GROWING = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}
STEADY = {"rope_type": "default", "rope_theta": 1e4}
LONG = {
    "rope_type": "longrope",
    "rope_theta": 1e4,
    "short_factor": [1.0] * 4,
    "long_factor": [2.0] * 4,
    "original_max_position_embeddings": 64,
}

REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "bart": ({}, "reads its prompt with an encoder"),
    "t5": ({}, "reads its prompt with an encoder"),
    "deepseek_v2": ({}, "has multi-head latent attention"),
    "deepseek_v3": ({}, "has multi-head latent attention"),
    "minicpm3": ({}, "has multi-head latent attention"),
    "kimi_linear": ({}, "has multi-head latent attention"),
    "mamba": ({}, "has layers with a recurrent state"),
    "mamba2": ({}, "has layers with a recurrent state"),
    "falcon_mamba": ({}, "has layers with a recurrent state"),
    "falcon_h1": ({}, "has layers with a recurrent state"),
    "jamba": ({}, "has layers with a recurrent state"),
    "bamba": ({}, "has layers with a recurrent state"),
    "zamba2": ({}, "has layers with a recurrent state"),
    "nemotron_h": ({}, "has layers with a recurrent state"),
    "granitemoehybrid": ({}, "has layers with a recurrent state"),
    "recurrent_gemma": ({}, "has layers with a recurrent state"),
    "rwkv": ({}, "has layers with a recurrent state"),
    "xlstm": ({}, "has layers with a recurrent state"),
    "minimax": ({}, "has linear attention, which is supported in qwen3_5_text and qwen3_next alone"),
    "qwen3_5_moe_text": ({}, "has linear attention, which is supported in qwen3_5_text and qwen3_next alone"),
    "olmo_hybrid": ({}, "has linear attention, which is supported in qwen3_5_text and qwen3_next alone"),
    "llama4_text": ({}, "has layers of the kind chunked_attention"),
    "lfm2": ({"layer_types": ["conv", FULL]}, "has layers of the kind conv"),
    "qwen3": ({"rope_parameters": GROWING}, "has rotary positions of type 'dynamic'"),
    "phi3": (
        {"rope_parameters": LONG, "original_max_position_embeddings": 64},
        "has rotary positions of type 'longrope'",
    ),
    "gemma3_text": (
        {"layer_types": [SLIDING, FULL], "rope_parameters": {SLIDING: STEADY, FULL: GROWING}},
        "has rotary positions of type 'dynamic'",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_refusal_says_what_stands_in_the_way_and_what_would_do(name: str) -> None:
    changes, reason = REFUSED[name]
    sizes = SIZES if changes else {}
    with pytest.raises(SpartaError) as caught:
        require_supported(AutoConfig.for_model(name, **{**sizes, **changes}))
    message = str(caught.value)
    assert message.startswith(f"base: '{name}' {reason}")
    assert "; use another base, such as Qwen/Qwen3" in message
    assert "\n" not in message
    assert len(message) <= 300


def test_the_text_part_of_a_larger_model_is_what_counts() -> None:
    config = AutoConfig.for_model("llama4")
    with pytest.raises(SpartaError, match="'llama4' has layers of the kind chunked_attention"):
        require_supported(config)


@pytest.mark.parametrize("name", [*FAMILIES, *ODD])
def test_what_was_tried_is_taken(name: str) -> None:
    kind, changes = ODD.get(name, (name, {}))
    require_supported(family(kind, **changes))


def test_windows_are_read_as_transformers_reads_them() -> None:
    assert windows(family("mistral")) == [5, 5]
    assert windows(family("qwen2")) == [None, None]
    assert windows(family("qwen2", use_sliding_window=True, sliding_window=5, max_window_layers=1)) == [
        None,
        5,
    ]
    assert windows(family("ministral")) == [5, None]
    assert windows(family("llama")) == [None, None]
    assert windows(family("mistral", sliding_window=256)) == [None, None]  # as long as the context
    assert windows(family("mistral", sliding_window=255)) == [255, 255]


def modules(*layers: Iterable[str]) -> list[str]:
    return [f"layers.{number}.{module}" for number, names in enumerate(layers) for module in names]


MLP = ["mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"]
ATTENTION = ["self_attn.q_proj", "self_attn.o_proj"]


def test_only_beside_experts_is_an_mlp_taken_for_one() -> None:
    assert taken_for_experts(modules([*ATTENTION, *MLP], [*ATTENTION, *MLP])) == set()
    assert taken_for_experts(modules(["self_attn.qkv_proj", "mlp.gate_up_proj", "mlp.down_proj"])) == set()
    assert taken_for_experts(modules([*ATTENTION, *MLP], ATTENTION)) == {f"layers.0.{each}" for each in MLP}
    shared = [f"mlp.shared_expert.{each}_proj" for each in ("gate", "up", "down")]
    alike = [*ATTENTION, *shared, "mlp.shared_expert_gate"]
    expected = {f"layers.{number}.{each}" for number in range(2) for each in shared}
    assert taken_for_experts(modules(alike, alike)) == expected
