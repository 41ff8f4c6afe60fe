"""What saves memory must not change what is learned: 4-bit bases, checkpointing, 8-bit moments."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from bitsandbytes.functional import dequantize_4bit
from bitsandbytes.nn import Linear4bit
from bitsandbytes.optim import AdamW8bit
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from sparta_lite.engine.bank import Bank
from sparta_lite.engine.base import Base, load_base
from sparta_lite.engine.decode import Prompt, generate
from sparta_lite.engine.likelihood import Continuation, log_probabilities
from sparta_lite.engine.peft_io import load_bank, read_adapter
from sparta_lite.errors import SpartaError
from sparta_lite.kernels.sampling import Sampling
from sparta_lite.training.dpo import backward, train
from sparta_lite.training.optim import trainable
from sparta_lite.training.packing import TokenizedPair
from sparta_lite.training.phase import DpoSettings, DpoState, DpoStep, read_state

SETTINGS = DpoSettings(learning_rate=1e-3, batch=4, micro_batch=2)
EIGHT_BITS = replace(SETTINGS, optimizer="adamw-8bit")
CPU = torch.device("cpu")


def gradients(base: Base, bank: Bank, pairs: list[TokenizedPair], settings: DpoSettings) -> dict[str, Tensor]:
    leaves = trainable(bank)
    reference = torch.linspace(-60, -20, len(bank.adapters) * len(pairs) * 2).view(-1, len(pairs), 2)
    backward(base.decoder, leaves, pairs, reference, settings, pad=0)
    return {name: tensor.grad for name, tensor in leaves.tensors() if tensor.grad is not None}


def run(base: Base, bank: Bank, pairs: list[TokenizedPair], settings: DpoSettings, **more: Any) -> Any:
    more.setdefault("on_step", lambda _: None)
    return train(base.decoder, bank, pairs, settings, seed=1, iteration=0, pad=0, **more)


@pytest.fixture
def nothing_is_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests' tensors are all smaller than those that keep their moments in fp32."""
    monkeypatch.setattr("sparta_lite.training.optim._SMALL", 257)


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_checkpointing_changes_no_gradient(
    base: Base, bank: Bank, pairs: list[TokenizedPair], dtype: Any
) -> None:
    settings = replace(SETTINGS, dtype=dtype)
    kept = gradients(base, bank, pairs[:4], settings)
    recomputed = gradients(base, bank, pairs[:4], replace(settings, checkpointing=True))
    assert kept.keys() == recomputed.keys() == dict(bank.tensors()).keys()
    assert all(torch.equal(kept[name], recomputed[name]) for name in kept)


def test_through_four_bits_gradients_are_those_of_the_dequantised_matrices(
    base_path: Path, adapter_paths: dict[str, Path], pairs: list[TokenizedPair], tmp_path: Path
) -> None:
    four = load_base(base_path, CPU, quantization="nf4")
    files = [read_adapter(name, path) for name, path in adapter_paths.items()]
    bank = load_bank(four.decoder, files)
    # Decoding and judging come first, as in a campaign: on a CPU they must leave the weights trainable.
    prompts = [Prompt("ada", pair.prompt, key) for key, pair in enumerate(pairs[:3])]
    generate(four, bank, prompts, Sampling(temperature=0), 4, 2)
    log_probabilities(four, bank, [Continuation("ben", pairs[0].prompt, pairs[0].chosen)], 200)

    plain = AutoModelForCausalLM.from_pretrained(base_path)
    layers = 0
    for name, module in four.model.named_modules():
        if isinstance(module, Linear4bit):
            weight = dequantize_4bit(module.weight.data, module.weight.quant_state)
            plain.get_submodule(name).weight.data.copy_(weight)
            layers += 1
    assert layers == 2 * 7
    plain.save_pretrained(tmp_path)
    four.tokenizer.save_pretrained(tmp_path)
    other = load_base(tmp_path, CPU)

    found = gradients(four, bank, pairs[:4], SETTINGS)
    expected = gradients(other, load_bank(other.decoder, files), pairs[:4], SETTINGS)
    assert found.keys() == expected.keys() == dict(bank.tensors()).keys()
    for name, gradient in found.items():
        assert (gradient - expected[name]).norm() <= 1e-5 * expected[name].norm()


@pytest.mark.usefixtures("nothing_is_small")
def test_eight_bit_moments_are_bitsandbytes_own(
    base: Base, bank: Bank, pairs: list[TokenizedPair], monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[AdamW8bit] = []
    honest = AdamW8bit.__init__

    def spy(self: AdamW8bit, *arguments: Any, **settings: Any) -> None:
        made.append(self)
        honest(self, *arguments, **settings)

    monkeypatch.setattr(AdamW8bit, "__init__", spy)
    start = bank.snapshot()
    exact: list[DpoStep] = []
    run(base, bank, pairs, SETTINGS, on_step=exact.append)
    end = bank.snapshot()
    bank.restore(start)
    coarse: list[DpoStep] = []
    run(base, bank, pairs, EIGHT_BITS, on_step=coarse.append)
    (optimizer,) = made
    kinds = {state["state1"].dtype for state in optimizer.state.values()}
    assert kinds == {torch.uint8, torch.float32}  # small tensors keep fp32
    for one, other in zip(exact, coarse, strict=True):
        assert other.loss == pytest.approx(one.loss, rel=0.02)
    # Eight bits round the moments by up to a few per cent each.
    apart = sum(float((tensor - end[name]).square().sum()) for name, tensor in bank.tensors())
    moved = sum(float((end[name] - start[name]).square().sum()) for name in end)
    assert 0 < apart < 0.1**2 * moved


@pytest.mark.usefixtures("nothing_is_small")
def test_with_eight_bits_too_a_resumed_phase_ends_byte_for_byte_the_same(
    base: Base, bank: Bank, pairs: list[TokenizedPair], tmp_path: Path
) -> None:
    start = bank.snapshot()
    saved: list[Path] = []

    def save(state: DpoState) -> None:
        saved.append(tmp_path / f"{state.done}.safetensors")
        save_file(state.tensors(), saved[-1])

    result = run(base, bank, pairs, EIGHT_BITS, save=save, save_every=1)
    end = bank.snapshot()
    assert len(saved) == 4
    for path in saved:
        bank.restore(start)
        assert run(base, bank, pairs, EIGHT_BITS, resume=read_state(load_file(path))) == result
        assert all(torch.equal(tensor, end[name]) for name, tensor in bank.tensors())


@pytest.mark.usefixtures("nothing_is_small")
@pytest.mark.parametrize("at_once", [1, 2])
def test_with_eight_bits_too_an_adapter_learns_the_same_whoever_trains_beside_it(
    base: Base, bank: Bank, pairs: list[TokenizedPair], at_once: int
) -> None:
    start = bank.snapshot()
    run(base, bank, pairs, EIGHT_BITS)
    together = bank.snapshot()
    bank.restore(start)
    run(base, bank, pairs, replace(EIGHT_BITS, adapters_at_once=at_once))
    for name, tensor in bank.tensors():
        moved = (together[name] - start[name]).norm()
        assert (tensor - together[name]).norm() <= 0.02 * moved


def test_eight_bits_without_bitsandbytes_are_refused(
    base: Base, bank: Bank, pairs: list[TokenizedPair], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", None)
    with pytest.raises(SpartaError, match="needs bitsandbytes"):
        run(base, bank, pairs, EIGHT_BITS)
