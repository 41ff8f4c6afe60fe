"""Shapes that are read by hand against those of the models that transformers builds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import LlamaConfig, MistralConfig, Phi3Config, PretrainedConfig, Qwen2Config, Qwen3Config

from sparta_lite.engine.described import described
from sparta_lite.engine.shape import _built
from sparta_lite.pocket import base_path

TINY: dict[str, Any] = {
    "vocab_size": 50,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 90,
}
READ = {
    "qwen2": Qwen2Config(**TINY, tie_word_embeddings=False),
    "qwen2, tied": Qwen2Config(**TINY, tie_word_embeddings=True),
    "qwen3": Qwen3Config(**TINY, head_dim=8, tie_word_embeddings=True),
    "llama": LlamaConfig(**TINY),
    "llama, wide heads": LlamaConfig(**TINY, head_dim=10),
    "mistral": MistralConfig(**TINY, sliding_window=None),
    "a window that is not used": Qwen2Config(**TINY, sliding_window=8, use_sliding_window=False),
}
ASKED = {
    "another family": Phi3Config(**TINY, pad_token_id=0),
    "a window": MistralConfig(**TINY, sliding_window=8),
    "windows in some layers": Qwen2Config(
        **TINY, sliding_window=8, use_sliding_window=True, max_window_layers=1
    ),
    "biases that others lack": LlamaConfig(**TINY, attention_bias=True),
    "biases in the MLP": LlamaConfig(**TINY, mlp_bias=True),
}


def saved(config: PretrainedConfig, directory: Path) -> dict[str, Any]:
    config.save_pretrained(directory)
    found: dict[str, Any] = json.loads((directory / "config.json").read_text())
    return found


@pytest.mark.parametrize("config", READ.values(), ids=READ.keys())
def test_it_is_the_shape_of_the_model(config: PretrainedConfig, tmp_path: Path) -> None:
    whole = {"tie_word_embeddings": config.tie_word_embeddings, **saved(config, tmp_path)}
    found = described(whole)
    assert found is not None
    assert found == _built(tmp_path, False, None, "")


def test_the_pocket_base_is_read_by_hand() -> None:
    found = described(json.loads((base_path() / "config.json").read_text()))
    assert found is not None
    assert found == _built(base_path(), False, None, "")


@pytest.mark.parametrize("config", ASKED.values(), ids=ASKED.keys())
def test_what_these_numbers_do_not_tell_is_left_to_transformers(
    config: PretrainedConfig, tmp_path: Path
) -> None:
    assert described({"tie_word_embeddings": True, **saved(config, tmp_path)}) is None


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("num_key_value_heads", None),
        ("num_key_value_heads", 4),
        ("hidden_size", 25),
        ("hidden_size", "24"),
        ("vocab_size", 0),
        ("num_hidden_layers", True),
        ("tie_word_embeddings", None),
        ("layer_types", ["full_attention"]),
        ("quantization_config", {"load_in_4bit": True}),
        ("auto_map", {"AutoConfig": "mine.Config"}),
    ],
)
def test_a_number_that_is_missing_or_odd_is_left_to_transformers(
    key: str, value: object, tmp_path: Path
) -> None:
    config = {**saved(READ["qwen2"], tmp_path), "tie_word_embeddings": False}
    assert described(config) is not None
    assert described({**config, key: value}) is None
