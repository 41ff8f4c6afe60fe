"""A real model with ten adapters of random weights: the same in our engine and in PEFT."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from tiny_tribe import NAMES, Tribe
from transformers import AutoModelForCausalLM

from sparta_lite.engine.base import load_base
from sparta_lite.engine.decode import Prompt
from sparta_lite.engine.ending import Ending
from sparta_lite.engine.hub import base_directory
from sparta_lite.engine.peft_io import load_bank, read_adapter

RANK = 16
_PEOPLE = ("Anna", "Tom", "Mia", "Ben", "Lucy", "Omar", "Ines", "Paul")
_THINGS = ("pencils", "apples", "books", "tickets", "stamps", "chairs", "lamps", "eggs")
_PLACES = ("at the market", "for the school", "in one week", "on Monday", "from a friend", "for a party")


def real_tribe(source: str, path: Path, names: list[str] = NAMES) -> Tribe:
    """The model of a directory or a GGUF file in fp32, on the CPU, which no answer's end stops.

    Args:
        source: the directory or the file.
        path: a folder for the adapters: rank 16, on all linear layers, large enough to change answers.
        names: of the adapters.

    Raises:
        SpartaError: it is no model that a run would take.
    """
    directory = base_directory(source)
    base = load_base(directory, torch.device("cpu"))
    base = replace(base, stops=frozenset(), ending=Ending())
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    model.generation_config.eos_token_id = None
    settings = LoraConfig(task_type="CAUSAL_LM", r=RANK, lora_alpha=2 * RANK, target_modules="all-linear")
    made = get_peft_model(model, settings)
    torch.manual_seed(0)
    for name in names:
        for key, parameter in made.named_parameters():
            if "lora_" in key:
                torch.nn.init.normal_(parameter, std=0.02 if "lora_A" in key else 0.01)
        made.save_pretrained(path / name)
    bank = load_bank(base.decoder, [read_adapter(name, path / name) for name in names])
    peft = PeftModel.from_pretrained(made.unload(), path / names[0], adapter_name=names[0])
    for name in names[1:]:
        peft.load_adapter(path / name, adapter_name=name)
    return Tribe(directory, base, bank, peft.eval(), hybrid=False)


def pieces(tribe: Tribe, count: int, shortest: int, longest: int, seed: int) -> list[tuple[int, ...]]:
    """Beginnings of English texts, of a random number of tokens each."""
    rng = random.Random(seed)
    found = []
    for _ in range(count):
        length, text = rng.randint(shortest, longest), " ".join(_sentences(rng, longest // 8 + 1))
        ids = tribe.base.tokenizer(text, add_special_tokens=False)["input_ids"]
        found.append(tuple(ids[:length]))
    return found


def prompts(tribe: Tribe, names: list[str], each: int, seed: int) -> list[Prompt]:
    """Of 16 to 64 tokens, adapter after adapter."""
    texts = iter(pieces(tribe, len(names) * each, 16, 64, seed))
    return [Prompt(name, next(texts)) for name in names for _ in range(each)]


def _sentences(rng: random.Random, count: int) -> Iterator[str]:
    for _ in range(count):
        who, what, where = rng.choice(_PEOPLE), rng.choice(_THINGS), rng.choice(_PLACES)
        yield f"{who} buys {rng.randint(2, 90)} {what} {where} and gives {rng.randint(2, 9)} of them away."
