"""What a base with the delta rule takes, by hand and beside what is really allocated."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

from sparta_lite.engine.bank import Bank
from sparta_lite.engine.cache import Cache
from sparta_lite.engine.hybrid import HybridDecoder
from sparta_lite.engine.peft_io import load_bank, new_adapter
from sparta_lite.engine.phases import cache_bytes, kv_bytes
from sparta_lite.engine.plan import plan
from sparta_lite.engine.shape import Shape, adapter_parameters, read_shape
from sparta_lite.engine.work import Machine

from .families import family
from .test_plan import WORK

QWEN_9B = {
    "architectures": ["Qwen3_5ForConditionalGeneration"],
    "model_type": "qwen3_5",
    "text_config": {
        "model_type": "qwen3_5_text",
        "vocab_size": 248320,
        "hidden_size": 4096,
        "intermediate_size": 12288,
        "num_hidden_layers": 32,
        "num_attention_heads": 16,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "max_position_embeddings": 262144,
        "full_attention_interval": 4,
        "linear_conv_kernel_dim": 4,
        "linear_num_key_heads": 16,
        "linear_num_value_heads": 32,
        "linear_key_head_dim": 128,
        "linear_value_head_dim": 128,
        "tie_word_embeddings": False,
    },
    "vision_config": {"model_type": "qwen3_5", "depth": 2, "hidden_size": 64, "num_heads": 4},
}


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Shape:
    path = tmp_path_factory.mktemp("qwen3.5")
    (path / "config.json").write_text(json.dumps(QWEN_9B))
    return read_shape(path)


def test_qwen_9b_by_hand(qwen: Shape) -> None:
    """The language model alone: what sees is not counted."""
    mlp = 3 * 4096 * 12288
    full = 4096 * (2 * 4096 + 2 * 1024) + 4096 * 4096
    delta = 4096 * (2 * 2048 + 4096 + 4096 + 2 * 32) + 4096 * 4096
    assert sum(each.inputs * each.outputs for each in qwen.linears) == 32 * mlp + 8 * full + 24 * delta
    small = 32 * 2 * 4096 + 4096 + 8 * 2 * 256 + 24 * (4 * 8192 + 2 * 32 + 128)
    assert qwen.others == 2 * 248320 * 4096 + small
    assert (qwen.family, qwen.context, qwen.attention_layers) == ("qwen3_5_text", 262144, 8)
    assert kv_bytes(qwen, 2) == 8 * 2 * 4 * 256 * 2
    state = 24 * (4 * 32 * 128 * 128 + 2 * 3 * 8192)
    assert cache_bytes(qwen, 2, 1000) == 1000 * kv_bytes(qwen, 2) + state


def test_the_longer_the_answers_the_more_of_them_fit_than_with_attention_everywhere(qwen: Shape) -> None:
    machine = Machine("cuda", "a card", 64 * 10**9, 1e14, 1e12)
    work = replace(WORK, four_bit=False, adapter=adapter_parameters(qwen, [(16, "all-linear")]))
    full = replace(qwen, delta=None)
    for length, times in ((1024, 1.5), (4096, 3.0)):
        asked = replace(work, prompt=length, answer=length, evaluation_answer=length)
        hybrid, attention = (plan(each, asked, machine, {}).sizes.places for each in (qwen, full))
        assert hybrid > times * attention


@pytest.mark.parametrize("name", ["qwen3_5_text", "qwen3_next"])
def test_cache_and_bank_take_what_is_planned(name: str, tmp_path: Path) -> None:
    config = family(name)
    config.save_pretrained(tmp_path)
    shape = read_shape(tmp_path)
    decoder = HybridDecoder(AutoModelForCausalLM.from_config(config))
    cache = Cache(decoder, 3, 50)
    tensors = [tensor for layer in cache.layers for tensor in vars(layer).values()]
    assert sum(tensor.nbytes for tensor in tensors) == 3 * cache_bytes(shape, 4, 50)
    bank: Bank = load_bank(decoder, [new_adapter("new", decoder, 3, 1.0, 0, "base")])
    numbers = sum(tensor.numel() for _, tensor in bank.tensors())
    assert numbers == adapter_parameters(shape, [(3, "all-linear")])
