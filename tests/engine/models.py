"""Models of a given configuration with random weights, on the disk as a hub would give them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedConfig

SIZES: dict[str, Any] = {
    "vocab_size": 320,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.2,
    "eos_token_id": 3,
    "pad_token_id": 0,
    "bos_token_id": 1,
}


def save_model(config: PreTrainedConfig, path: Path, tokenizer_from: Path) -> Path:
    """A model with random weights; its norms and biases are random too, so that none is invisible."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = AutoModelForCausalLM.from_config(config)
        for name, parameter in model.named_parameters():
            if name.endswith("A_log"):  # states that last, and others that are soon forgotten
                torch.nn.init.uniform_(parameter, -5.0, 1.0)
            elif parameter.ndim == 1 or name.endswith("bias"):
                torch.nn.init.normal_(parameter, mean=parameter.mean().item(), std=0.2)
    model.save_pretrained(path)
    for file in tokenizer_from.glob("*"):
        if "token" in file.name or file.suffix == ".jinja":
            shutil.copy(file, path)
    return path
