"""Small models of the real architecture, made on the spot from a fixed seed."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch

# Without a card Triton's kernels run interpreted; on one they are compiled, or none would have been tried.
# Triton reads this when it is imported, which PEFT does.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

import pytest
from peft import LoraConfig, PeftModel, get_peft_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

# Started in the background by a shell, the tests would ignore Ctrl-C, and with them what they start.
signal.signal(signal.SIGINT, signal.default_int_handler)

CHAT = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
ALL_LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
ADAPTERS: dict[str, dict[str, Any]] = {
    "ada": {"r": 8, "lora_alpha": 16, "target_modules": ALL_LINEAR},
    "ben": {"r": 4, "lora_alpha": 16, "target_modules": ["q_proj", "v_proj"], "use_rslora": True},
    "cyd": {
        "r": 8,
        "lora_alpha": 8,
        "target_modules": r".*\.1\.mlp\.(up|down)_proj",
        "rank_pattern": {"up_proj": 3},
        "alpha_pattern": {"down_proj": 6},
    },
}


def save_tokenizer(path: Path) -> PreTrainedTokenizerFast:
    """Bytes as tokens, plus Qwen's special tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE(vocab={char: index for index, char in enumerate(alphabet)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=["<|im_start|>"],
    )
    tokenizer.chat_template = CHAT
    tokenizer.save_pretrained(path)
    return tokenizer


def pytest_runtest_setup(item: pytest.Item) -> None:
    """What is marked ``gpu`` must not be interpreted, and ``interpreted`` needs a CPU's tensors read."""
    triton = sys.modules.get("triton")
    interpreted = triton is not None and triton.knobs.runtime.interpret
    if item.get_closest_marker("gpu"):
        if torch.cuda.is_available() and interpreted:
            pytest.fail("TRITON_INTERPRET is set: Triton's kernels would not be compiled; unset it")
    elif item.get_closest_marker("interpreted") and triton is not None and not interpreted:
        pytest.skip("Triton's kernels on a CPU need TRITON_INTERPRET=1")


@pytest.fixture(scope="session")
def base_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("base")
    tokenizer = save_tokenizer(path)
    config = Qwen2Config(
        vocab_size=320,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        initializer_range=0.15,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Qwen2ForCausalLM(config)
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(path)
    return path


@pytest.fixture(scope="session")
def adapter_paths(base_path: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Three PEFT adapters that differ in rank, alpha, scaling and target modules, none of them zero.

    One differs in them from module to module.
    """
    paths = {}
    for number, (name, settings) in enumerate(ADAPTERS.items()):
        model = get_peft_model(
            AutoModelForCausalLM.from_pretrained(base_path), LoraConfig(task_type="CAUSAL_LM", **settings)
        )
        with torch.random.fork_rng():
            torch.manual_seed(number + 1)
            for key, parameter in model.named_parameters():
                if "lora_" in key:
                    torch.nn.init.normal_(parameter, std=0.08)
        paths[name] = tmp_path_factory.mktemp("adapters") / name
        model.save_pretrained(paths[name])
    return paths


@pytest.fixture(scope="session")
def peft_model(base_path: Path, adapter_paths: dict[str, Path]) -> PeftModel:
    """The same tribe in PEFT, the independent reference."""
    model = None
    for name, path in adapter_paths.items():
        if model is None:
            model = PeftModel.from_pretrained(
                AutoModelForCausalLM.from_pretrained(base_path), path, adapter_name=name
            )
        else:
            model.load_adapter(path, adapter_name=name)
    assert model is not None
    return model.eval()


@pytest.fixture(scope="session")
def tiny_settings(base_path: Path, adapter_paths: dict[str, Path]) -> dict[str, Any]:
    """A campaign of three adapters on the tiny base, small enough to run in a second."""
    return {
        "base": str(base_path),
        "quantization": "none",
        "tribe": {"adapters": {name: str(path) for name, path in adapter_paths.items()}},
        "data": {"path": "pocket"},
        "iterations": 2,
        "duels": 10,
        "checkpoint": 3,
        "threads": 1,
        "generation": {"max_new_tokens": 6, "max_prompt_tokens": 64, "places": 8},
        "judge": {"layout": "turns", "minimum_mass": 0.0, "max_tokens": 400},
        "training": {"batch": 2, "micro_batch": 1, "learning_rate": 1e-3, "save_every": 2},
        "evaluation": {"items": 10, "max_new_tokens": 6},
    }
