"""What 4 bits stand for, unpacked once: the same values, the same answers, ordinary layers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from bitsandbytes.functional import dequantize_4bit
from bitsandbytes.nn import Linear4bit
from torch import Tensor
from transformers import LlamaConfig, PhiConfig

from sparta_lite.engine.base import Base, load_base
from sparta_lite.engine.chat import Chat
from sparta_lite.engine.decode import Prompt, generate
from sparta_lite.engine.peft_io import load_bank, read_adapter
from sparta_lite.engine.score import expected_scores
from sparta_lite.engine.sequences import WholeSequences
from sparta_lite.kernels.sampling import Sampling
from sparta_lite.training.dpo import train
from sparta_lite.training.packing import TokenizedPair
from sparta_lite.training.phase import DpoSettings
from sparta_lite.training.sequential import train_in_turn
from sparta_lite.training.view import wrap_with_peft

from .models import SIZES, save_model

CPU = torch.device("cpu")
IDS = torch.randint(320, (2, 30), generator=torch.Generator().manual_seed(1))
SETTINGS = DpoSettings(learning_rate=1e-3, batch=4, micro_batch=2, warmup=0.0)
PAIRS = [TokenizedPair((5, 6, 7 + each), (20, 21 + each, 22), (30 + each, 31)) for each in range(4)]


def packed(path: Path, dtype: torch.dtype = torch.float32) -> Base:
    return load_base(path, CPU, dtype, "nf4")


def unpacked(path: Path, dtype: torch.dtype = torch.float32) -> Base:
    return load_base(path, CPU, dtype, "nf4", unpack=True)


def hidden(base: Base) -> Tensor:
    positions = torch.arange(IDS.shape[1]).expand_as(IDS)
    return base.decoder.hidden(IDS, positions, WholeSequences(base.decoder.mixers), None)


@pytest.fixture(scope="module")
def both(base_path: Path) -> tuple[Base, Base]:
    return packed(base_path), unpacked(base_path)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_values_are_those_that_bitsandbytes_unpacks(base_path: Path, dtype: torch.dtype) -> None:
    one, other = packed(base_path, dtype), unpacked(base_path, dtype)
    layers = {name: each for name, each in one.model.named_modules() if isinstance(each, Linear4bit)}
    assert len(layers) == 2 * 7
    for name, layer in layers.items():
        plain = other.model.get_submodule(name)
        assert type(plain) is torch.nn.Linear
        assert plain.weight.dtype == dtype
        assert torch.equal(plain.weight, dequantize_4bit(layer.weight.data, layer.weight.quant_state))
        assert (plain.bias is None) == (layer.bias is None)
    assert (one.four_bit, one.unpacked) == (True, False)
    assert (other.four_bit, other.unpacked) == (False, True)
    assert not any(parameter.requires_grad for parameter in other.model.parameters())
    for base in (one, other):
        assert hasattr(base.model.config, "quantization_config") == base.four_bit
        assert bool(getattr(base.model, "is_loaded_in_4bit", False)) == base.four_bit


@torch.no_grad()
def test_no_matrix_stays_in_memory_twice(both: tuple[Base, Base]) -> None:
    """The decoder's fused matrices are the memory of the modules, as they are of a base in 16 bits."""
    base = both[1]
    held = {each.untyped_storage().data_ptr() for each in base.model.parameters()}
    for layer in base.decoder.layers:
        for site in layer.sites.values():
            assert site.whole is not None
            assert site.whole.weight.untyped_storage().data_ptr() in held


@torch.no_grad()
@pytest.mark.parametrize(
    "make",
    [
        lambda: LlamaConfig(**SIZES),
        lambda: PhiConfig(**{**SIZES, "hidden_size": 64, "intermediate_size": 128}),
    ],
    ids=["our own pass", "a wrapped model"],
)
def test_a_pass_gives_what_the_packed_layers_give(make: Any, base_path: Path, tmp_path: Path) -> None:
    path = save_model(make(), tmp_path, base_path)
    torch.testing.assert_close(hidden(unpacked(path)), hidden(packed(path)), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_a_checkpoint_in_four_bits_is_unpacked_too(both: tuple[Base, Base], tmp_path: Path) -> None:
    both[0].model.save_pretrained(tmp_path)
    both[0].tokenizer.save_pretrained(tmp_path)
    again = load_base(tmp_path, CPU, unpack=True)
    assert again.unpacked
    assert torch.equal(hidden(again), hidden(both[1]))


def test_without_four_bits_there_is_nothing_to_unpack(base_path: Path) -> None:
    base = load_base(base_path, CPU, unpack=True)
    assert (base.four_bit, base.unpacked) == (False, False)


def test_answers_and_scores_are_those_of_the_packed_base(
    both: tuple[Base, Base], adapter_paths: dict[str, Path]
) -> None:
    found = []
    for base in both:
        bank = load_bank(base.decoder, [read_adapter(*each) for each in adapter_paths.items()])
        chat = Chat(base.tokenizer, None, "turns", "Score it.")
        rows = [
            Prompt(name, chat.question(f"What is {number} + 2?", 200).ids)
            for name in adapter_paths
            for number in range(4)
        ]
        answers = generate(base, bank, rows, Sampling(temperature=0), 12, places=5)
        papers = [
            (row.adapter, chat.judge("What is 2 + 2?", each.ids, 400))
            for row, each in zip(rows, answers, strict=True)
        ]
        prompts = [Prompt(name, paper.ids) for name, paper in papers if paper is not None]
        scores = expected_scores(base, bank, prompts, chat.score_tokens, 0.0, 512)
        found.append(([each.ids for each in answers], [each.value for each in scores]))
    assert found[0][0] == found[1][0]
    assert found[0][1] == pytest.approx(found[1][1], abs=1e-4)


@pytest.mark.parametrize("trainer", ["tribe", "trl"])
def test_training_over_it_is_that_over_the_packed_base(
    both: tuple[Base, Base], adapter_paths: dict[str, Path], trainer: str
) -> None:
    ends = []
    for base in both:
        bank = load_bank(base.decoder, [read_adapter("ada", adapter_paths["ada"])])
        start = bank.snapshot()
        common: dict[str, Any] = {"seed": 1, "iteration": 0, "pad": 0, "on_step": lambda step: None}
        if trainer == "tribe":
            train(base.decoder, bank, PAIRS, SETTINGS, **common)
        else:
            train_in_turn(base.model, base.tokenizer, bank, PAIRS, SETTINGS, wrap=wrap_with_peft, **common)
        ends.append({name: tensor.detach() - start[name] for name, tensor in bank.tensors()})
    moved, apart = (
        torch.stack([each.norm() for each in tensors]).norm()
        for tensors in (ends[0].values(), [ends[0][name] - ends[1][name] for name in ends[0]])
    )
    assert moved > 0
    assert apart < 1e-3 * moved
