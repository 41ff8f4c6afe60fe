"""A base in 4 bits on the CPU: against the same model over the dequantised matrices."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from bitsandbytes.functional import dequantize_4bit
from bitsandbytes.nn import Linear4bit
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModelForCausalLM, PhiConfig

from sparta_lite.engine.bank import Bank
from sparta_lite.engine.base import Base, load_base
from sparta_lite.engine.chat import Chat
from sparta_lite.engine.decode import Prompt, generate
from sparta_lite.engine.peft_io import load_bank, read_adapter
from sparta_lite.engine.score import expected_scores
from sparta_lite.engine.sequences import WholeSequences
from sparta_lite.errors import SpartaError
from sparta_lite.kernels.sampling import Sampling
from sparta_lite.training.optim import trainable

from .models import SIZES, save_model

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def four_bit(base_path: Path) -> Base:
    return load_base(base_path, CPU, quantization="nf4")


@pytest.fixture(scope="module")
def tribe(four_bit: Base, adapter_paths: dict[str, Path]) -> Bank:
    return load_bank(four_bit.decoder, [read_adapter(*each) for each in adapter_paths.items()])


def dequantized(base: Base, path: Path) -> Any:
    """Transformers' own model whose matrices are what the 4 bits stand for."""
    plain = AutoModelForCausalLM.from_pretrained(path, attn_implementation="eager").eval()
    for name, module in base.model.named_modules():
        if isinstance(module, Linear4bit):
            weight = module.weight
            assert weight.quant_state.nested  # doubly quantised
            assert weight.quant_state.quant_type == "nf4"
            plain.get_submodule(name).weight = nn.Parameter(dequantize_4bit(weight.data, weight.quant_state))
    return plain


def logits(base: Base, ids: torch.Tensor, bank: Bank | None = None, name: str | None = None) -> torch.Tensor:
    positions = torch.arange(ids.shape[1]).expand_as(ids)
    lora = bank.lora([name] * len(ids)) if bank else None
    return base.decoder.logits(base.decoder.hidden(ids, positions, WholeSequences(base.decoder.mixers), lora))


def test_every_linear_layer_is_in_four_bits_and_the_rest_is_not(four_bit: Base, base_path: Path) -> None:
    sizes = {True: 0, False: 0}
    for name, parameter in four_bit.model.named_parameters():
        sizes[parameter.dtype == torch.uint8] += parameter.nbytes
        assert (parameter.dtype == torch.uint8) == name.endswith("proj.weight")
    linear = 2 * (64 * (64 + 32 + 32 + 64) + 3 * 64 * 128)
    assert sizes[True] == linear // 2
    assert four_bit.four_bit


def test_logits_are_those_of_the_dequantised_matrices(four_bit: Base, base_path: Path) -> None:
    ids = torch.randint(320, (2, 30), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = dequantized(four_bit, base_path)(ids).logits
        unquantized = AutoModelForCausalLM.from_pretrained(base_path)(ids).logits
        found = logits(four_bit, ids)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert (found - unquantized).norm() > 0.01 * unquantized.norm()  # it is another model, after all


def test_decode_judge_then_train_on_the_same_base(
    four_bit: Base, tribe: Bank, base_path: Path, adapter_paths: dict[str, Path]
) -> None:
    chat = Chat(four_bit.tokenizer, None, "turns", "Score it.")
    question = chat.question("What is 2 + 2?", 200).ids
    rows = [Prompt(name, question) for name in adapter_paths]
    answers = generate(four_bit, tribe, rows, Sampling(temperature=0), 5, places=4)
    papers = [chat.judge("What is 2 + 2?", answer.ids, 400) for answer in answers]
    prompts = [
        Prompt(name, paper.ids)
        for name, paper in zip(adapter_paths, papers, strict=True)
        if paper is not None
    ]
    scores = expected_scores(four_bit, tribe, prompts, chat.score_tokens, 0.0, 512)
    assert all(score.failure is None for score in scores)

    reference = PeftModel.from_pretrained(dequantized(four_bit, base_path), adapter_paths["ada"])
    for key, parameter in reference.named_parameters():
        parameter.requires_grad_("lora_" in key)
    bank = trainable(tribe)
    ids = torch.tensor([[*question, *answers[0].ids]])
    targets = ids[0, 1:]
    mixing = WholeSequences(four_bit.decoder.mixers)
    hidden = four_bit.decoder.hidden(ids, torch.arange(ids.shape[1])[None], mixing, bank.lora(["ada"]))
    found = four_bit.decoder.logprobs(hidden[0, :-1], targets)
    expected = reference(ids).logits[0, :-1].log_softmax(-1)[range(len(targets)), targets]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert ids[0, -5:].tolist() == reference(ids).logits[0, -6:-1].argmax(-1).tolist()

    found.sum().backward()
    expected.sum().backward()
    theirs = {key: each.grad for key, each in reference.named_parameters() if each.grad is not None}
    for number, layer in enumerate(bank.layers):
        for site, lora in layer.items():
            gradient = lora.a.grad
            assert gradient is not None
            parts = gradient[bank.slot("ada")].chunk(len(lora.b))
            for name, part in zip(bank.names[number][site], parts, strict=True):
                other = theirs[f"base_model.model.model.layers.{number}.{name}.lora_A.default.weight"]
                torch.testing.assert_close(part, other, rtol=1e-3, atol=1e-4 * float(other.abs().max()))


def test_another_architecture_works_in_four_bits_too(base_path: Path, tmp_path: Path) -> None:
    sizes = {**SIZES, "hidden_size": 64, "intermediate_size": 128}
    path = save_model(PhiConfig(**sizes), tmp_path, base_path)
    base = load_base(path, CPU, quantization="nf4")
    ids = torch.randint(320, (2, 20), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(
            logits(base, ids), dequantized(base, path)(ids).logits, rtol=1e-4, atol=1e-4
        )


def test_a_checkpoint_in_four_bits_loads_as_it_is(four_bit: Base, base_path: Path, tmp_path: Path) -> None:
    four_bit.model.save_pretrained(tmp_path)
    four_bit.tokenizer.save_pretrained(tmp_path)
    again = load_base(tmp_path, CPU)
    assert again.four_bit
    ids = torch.arange(5, 40)[None]
    with torch.no_grad():
        assert torch.equal(logits(again, ids), logits(four_bit, ids))
    for name, weight in again.model.named_parameters():
        assert torch.equal(weight, four_bit.model.get_parameter(name))


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_what_is_no_number_is_refused_in_four_bits_too(base_path: Path, tmp_path: Path, value: float) -> None:
    path = shutil.copytree(base_path, tmp_path / "base")
    weights = load_file(path / "model.safetensors")
    name = "model.layers.1.mlp.up_proj.weight"
    weights[name][3, 5] = value
    save_file(weights, path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(SpartaError, match=f"the weight {name} holds NaN or infinity"):
        load_base(path, CPU, quantization="nf4")
