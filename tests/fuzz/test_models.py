"""Adapters and bases: their configuration, tensors, tokenizer and template, spoilt one at a time."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from sparta_lite.campaign.config import load_config
from sparta_lite.campaign.resident import Choices, choose, load_base_of, on_base, read_tribe
from sparta_lite.campaign.tribe import find_tribe
from sparta_lite.engine.base import Base
from sparta_lite.pocket import adapter_paths, base_path

from .odd import damaged, odd, spoilt
from .trying import call, command, fuzz, pick, unchanged

ADAPTER_CONFIG = (
    {"target_modules": 7},
    {"target_modules": None},
    {"target_modules": True},
    {"target_modules": "(q_proj"},
    {"target_modules": "[" * 3000},
    {"target_modules": "(.*a)*(.*a)*b"},
    {"target_modules": []},
    {"target_modules": {}},
    {"target_modules": "all-linear"},
    {"rank_pattern": {"(": 3}},
    {"rank_pattern": {"q_proj": 0}},
    {"rank_pattern": [1]},
    {"alpha_pattern": {"q_proj": float("nan")}},
    {"alpha_pattern": {"q_proj": 10**400}},
    {"r": 10**400},
    {"r": 1e308},
    {"lora_alpha": 10**400},
    {"layers_to_transform": "all"},
    {"layers_to_transform": [10**30]},
    {"layers_pattern": 7},
    {"exclude_modules": "("},
    {"peft_type": None},
    {"use_rslora": "yes"},
)
BASE_CONFIG = (
    {"hidden_size": 10**9},
    {"hidden_size": -1},
    {"hidden_size": None},
    {"num_hidden_layers": 10**6},
    {"num_hidden_layers": 0},
    {"num_attention_heads": 0},
    {"num_attention_heads": 3},
    {"vocab_size": 10**12},
    {"vocab_size": 1},
    {"max_position_embeddings": 0},
    {"max_position_embeddings": 10**400},
    {"model_type": None},
    {"model_type": ["qwen2"]},
    {"model_type": "none"},
    {"architectures": 7},
    {"quantization_config": []},
    {"quantization_config": {"load_in_4bit": "x"}},
    {"eos_token_id": "x"},
    {"eos_token_id": [None]},
    {"rope_parameters": 7},
    {"tie_word_embeddings": None},
    {"dtype": "none"},
)
TOKENIZER_CONFIG = (
    {"model_max_length": "long"},
    {"model_max_length": 10**400},
    {"model_max_length": None},
    {"eos_token": 7},
    {"eos_token": None},
    {"eos_token": {"content": 7}},
    {"tokenizer_class": "None"},
    {"tokenizer_class": ["x"]},
    {"added_tokens_decoder": {"x": {}}},
    {"chat_template": 7},
)
TEMPLATES = (
    "",
    "{{ 1/0 }}",
    "{{ messages[99].content }}",
    "{% for m in messages %}{{ m.content }}",
    "{{ raise_exception('no') }}",
    "{{ 'a' * 10000000 }}",
    "{% for i in range(1000000) %}x{% endfor %}",
    "{{ namespace }}",
    "{{ messages.__class__ }}",
    "plain text",
    "{{ none_such }}",
    "{{ messages | tojson }}",
    "\x00",
)


def test_adapters(resident: tuple[Base, Choices]) -> None:
    names = list(adapter_paths())[:3]
    base, _ = resident

    def attempt(number: int, random: Random, place: Path) -> str:
        for name in names:
            shutil.copytree(adapter_paths()[name], place / "inputs" / name)
        victim = place / "inputs" / random.choice(names)
        if number < len(ADAPTER_CONFIG):
            _changed(victim / "adapter_config.json", ADAPTER_CONFIG[number])
        elif random.random() < 0.55:
            _spoil_json(victim / "adapter_config.json", random)
        else:
            _spoil_tensors(victim / "adapter_model.safetensors", random)
        config = load_config(None, [f"tribe.adapters={place / 'inputs'}"])

        def load() -> None:
            on_base(config, base, read_tribe(config, find_tribe(config), base.decoder))

        with unchanged(place / "inputs"):
            if random.random() < 0.15:
                return command(["plan", "--set", f"tribe.adapters={place / 'inputs'}"])
            return call(load)

    fuzz("adapters", 120, attempt)


def test_bases() -> None:
    def attempt(number: int, random: Random, place: Path) -> str:
        base = place / "inputs" / "base"
        shutil.copytree(base_path(), base)
        _spoil_base(base, number, random)
        sets = [
            f"base={base}",
            "tribe.adapters=fresh-3",
            "data.path=x.jsonl",
            "data.column=q",
            "quantization=none",
        ]
        config = load_config(None, [*sets, "dtype=float32", "training.trainer=tribe"])

        def load() -> None:
            choices = choose(config)
            loaded = load_base_of(config, choices, training=True)
            chat = on_base(config, loaded, read_tribe(config, find_tribe(config), loaded.decoder)).chat
            chat.question("What is this?", 500)
            chat.judge("What?", ("this", "that"), 1000)

        with unchanged(place / "inputs"):
            if random.random() < 0.3:
                return command(["plan", *(part for each in sets for part in ("--set", each))])
            return call(load)

    fuzz("bases", 90, attempt)


@pytest.fixture(scope="module")
def resident() -> tuple[Base, Choices]:
    config = load_config(None)
    choices = choose(config)
    return load_base_of(config, choices, training=True), choices


def _spoil_base(base: Path, number: int, random: Random) -> None:
    known = [
        *((base / "config.json", change) for change in BASE_CONFIG),
        *((base / "tokenizer_config.json", change) for change in TOKENIZER_CONFIG),
    ]
    if number < len(known):
        _changed(*known[number])
    elif number < len(known) + len(TEMPLATES):
        (base / "chat_template.jinja").write_text(TEMPLATES[number - len(known)])
    else:
        names = {
            "config.json": 3,
            "tokenizer_config.json": 2,
            "generation_config.json": 1,
            "tokenizer.json": 1.5,
            "chat_template.jinja": 1.5,
            "model.safetensors": 1,
        }
        file = base / pick(random, names)
        if file.suffix == ".json":
            _spoil_json(file, random)
        elif file.suffix == ".safetensors":
            _spoil_tensors(file, random)
        else:
            file.write_bytes(damaged(file.read_bytes(), random))


def _changed(file: Path, change: dict[str, Any]) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))


def _spoil_json(file: Path, random: Random) -> None:
    if random.random() < 0.3:
        file.write_bytes(damaged(file.read_bytes(), random))
        return
    value = json.loads(file.read_text())
    if isinstance(value, dict) and random.random() < 0.5:
        value[random.choice(list(value))] = odd(random)
    else:
        value = spoilt(value, random)
    file.write_text(json.dumps(value))


def _spoil_tensors(file: Path, random: Random) -> None:
    change = random.random()
    if change < 0.35:
        file.write_bytes(damaged(file.read_bytes(), random))
    elif change < 0.4:
        file.unlink()
    else:
        tensors = load_file(file)
        key = random.choice(list(tensors))
        tensor = tensors.pop(key)
        made: dict[str, Any] = {
            "gone": None,
            "renamed": None,
            "empty": tensor[:0],
            "flat": tensor.flatten(),
            "wider": torch.cat([tensor, tensor]),
            "nan": tensor * float("nan"),
            "infinite": tensor * float("inf"),
            "whole numbers": tensor.to(torch.int32),
            "8 bits": tensor.to(torch.float8_e4m3fn),
            "double": tensor.double(),
            "scalar": torch.tensor(1.0),
            "complex": tensor.to(torch.complex64),
            "bool": tensor > 0,
        }
        how = random.choice(list(made))
        if how == "renamed":
            tensors[
                random.choice((key + "x", "x", "", key.replace("layers.0", "layers.99"), key.upper()))
            ] = tensor
        elif made[how] is not None:
            tensors[key] = made[how].contiguous()
        try:
            save_file(tensors, file)
        except (SafetensorError, ValueError, RuntimeError):
            file.write_bytes(b"")
