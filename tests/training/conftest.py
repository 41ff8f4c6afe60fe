from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sparta_lite.engine.bank import Bank
from sparta_lite.engine.base import Base, load_base
from sparta_lite.engine.peft_io import load_bank, read_adapter
from sparta_lite.training.packing import TokenizedPair

QUESTIONS = ["2+2?", "Capital of France, please", "hi", "Sort: 3 1 2", "Opposite of cold?"]
ANSWERS = ["4", "Paris.", "Hi!", "1 2 3", "hot", "No idea", "no"]


@pytest.fixture(scope="session")
def base(base_path: Path) -> Base:
    return load_base(base_path, torch.device("cpu"))


@pytest.fixture
def bank(base: Base, adapter_paths: dict[str, Path]) -> Bank:
    return load_bank(base.decoder, [read_adapter(name, path) for name, path in adapter_paths.items()])


@pytest.fixture(scope="session")
def texts() -> list[dict[str, str]]:
    """Twelve preferences as text, prompts and answers of different lengths."""
    return [
        {
            "prompt": f"<|im_start|>user\n{QUESTIONS[i % 5]}<|im_end|>\n<|im_start|>assistant\n",
            "chosen": f"{ANSWERS[i % 7]}<|im_end|>",
            "rejected": f"{ANSWERS[(i + 3) % 7]}<|im_end|>",
        }
        for i in range(12)
    ]


@pytest.fixture(scope="session")
def pairs(base: Base, texts: list[dict[str, str]]) -> list[TokenizedPair]:
    return [
        TokenizedPair(
            *(tuple(base.tokenizer(text[key])["input_ids"]) for key in ("prompt", "chosen", "rejected"))
        )
        for text in texts
    ]
