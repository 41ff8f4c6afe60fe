"""DPO through Triton's kernels, interpreted: the gradients of the torch path, and PEFT's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import Tensor

from sparta_lite.engine.bank import Bank
from sparta_lite.engine.base import Base
from sparta_lite.engine.sequences import WholeSequences
from sparta_lite.kernels import choice
from sparta_lite.training.dpo import DpoSettings, _measure, backward
from sparta_lite.training.optim import trainable
from sparta_lite.training.packing import TokenizedPair

triton = pytest.importorskip("triton")
pytestmark = pytest.mark.skipif(
    not triton.knobs.runtime.interpret, reason="kernels on a CPU need TRITON_INTERPRET=1"
)

from sparta_lite.kernels import triton_lora  # noqa: E402

from ..kernels.rounding import round_as_a_card  # noqa: E402

PAIRS = [  # as short as can be: interpreted kernels take seconds for what a card does in no time
    TokenizedPair((5, 60, 7), (8, 90, 3), (100, 3)),
    TokenizedPair((110, 12), (13, 3), (140, 15, 3)),
]


@pytest.fixture
def triton_here(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(choice, "_failed", None)
    monkeypatch.setattr(choice, "_told", False)
    monkeypatch.setattr(choice, "use_triton", lambda x: choice._failed is None)
    yield
    assert choice.failure() is None


def gradients(base: Base, bank: Bank, settings: DpoSettings) -> tuple[Tensor, dict[str, Tensor]]:
    leaves = trainable(bank)
    reference = torch.linspace(-60, -20, 3 * len(PAIRS) * 2).view(3, len(PAIRS), 2)
    measured = backward(base.decoder, leaves, PAIRS, reference, settings, pad=0)
    return measured, {name: tensor.grad for name, tensor in leaves.tensors() if tensor.grad is not None}


def require_near(
    found: tuple[Tensor, dict[str, Tensor]], expected: tuple[Tensor, dict[str, Tensor]], tolerance: float
) -> None:
    torch.testing.assert_close(found[0], expected[0], rtol=tolerance, atol=tolerance)
    assert found[1].keys() == expected[1].keys()
    for name, gradient in expected[1].items():
        for ours, theirs in zip(found[1][name], gradient, strict=True):  # adapter by adapter
            assert (ours - theirs).norm() <= tolerance * theirs.norm()


def test_gradients_equal_those_of_torch(base: Base, bank: Bank, request: pytest.FixtureRequest) -> None:
    settings = DpoSettings(micro_batch=2, checkpointing=True)
    expected = gradients(base, bank, settings)
    assert expected[1].keys() == dict(bank.tensors()).keys()
    request.getfixturevalue("triton_here")
    require_near(gradients(base, bank, settings), expected, 1e-4)


def test_gradients_in_bf16_are_as_near_to_those_in_fp32_as_torchs(
    base: Base, bank: Bank, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The two round at different places, about ten roundings of 2**-8 deep; cut off, as the interpreter does
    by itself, they would be twice as far."""
    settings = DpoSettings(micro_batch=2, dtype="bf16")
    exact = gradients(base, bank, DpoSettings(micro_batch=2))
    require_near(gradients(base, bank, settings), exact, 4e-2)
    request.getfixturevalue("triton_here")
    round_as_a_card(monkeypatch)
    require_near(gradients(base, bank, settings), exact, 4e-2)


@pytest.mark.parametrize("half", ["_gradients", "_expand"])
def test_a_kernel_that_fails_in_the_middle_of_a_pass_that_computes_twice(
    base: Base, bank: Bank, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, half: str
) -> None:
    """What torch would compute again is not what Triton has kept of the forward pass."""
    settings = DpoSettings(micro_batch=2, checkpointing=True)

    def measure() -> tuple[Tensor, dict[str, Tensor]]:
        leaves, reference = trainable(bank), torch.zeros(3, 2, 2)
        measured = _measure(base.decoder, leaves, PAIRS, reference, settings, 0, 2)
        return measured, {name: tensor.grad for name, tensor in leaves.tensors() if tensor.grad is not None}

    expected = measure()
    request.getfixturevalue("triton_here")
    right, calls = getattr(triton_lora, half), []

    def breaks(*given: Any, **named: Any) -> Any:
        calls.append(half)
        if len(calls) == 3:
            raise RuntimeError("out of resource: shared memory")
        return right(*given, **named)

    monkeypatch.setattr(triton_lora, half, breaks)
    found = measure()
    assert choice.failure() == "a Triton kernel failed, RuntimeError: out of resource: shared memory"
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


def test_gradients_of_a_mixed_batch_equal_peft(
    base: Base, bank: Bank, peft_model: PeftModel, triton_here: None
) -> None:
    """Rows of three adapters and one without, in one batch; PEFT takes them one after another."""
    names = ["cyd", None, "ada", "ben"]
    ids = torch.arange(5, 5 + 4 * 6).view(4, 6)
    leaves = trainable(bank)
    mixing = WholeSequences(base.decoder.mixers)
    states = base.decoder.hidden(ids, torch.arange(6).expand(4, -1), mixing, leaves.lora(names))
    base.decoder.logprobs(states[:, :-1].flatten(0, 1), ids[:, 1:].flatten()).sum().backward()
    try:
        for row, name in enumerate(names):
            if name is None:
                continue
            peft_model.set_adapter(name)
            logits = peft_model(ids[row : row + 1]).logits[0, :-1]
            logits.log_softmax(-1).gather(1, ids[row, 1:, None]).sum().backward()
            theirs = dict(peft_model.named_parameters())
            slot = leaves.slot(name)
            for layer, sites in enumerate(leaves.layers):
                for site, lora in sites.items():
                    assert lora.a.grad is not None
                    shrinks = lora.a.grad[slot].chunk(len(lora.b))
                    for module, a, b in zip(leaves.names[layer][site], shrinks, lora.b, strict=True):
                        key = f"base_model.model.model.layers.{layer}.{module}.lora_"
                        if f"{key}A.{name}.weight" not in theirs:
                            continue
                        for ours, half in ((a, "A"), (b.grad[slot], "B")):
                            expected = theirs[f"{key}{half}.{name}.weight"].grad
                            assert expected is not None
                            cut = ours[tuple(slice(size) for size in expected.shape)]
                            torch.testing.assert_close(cut, expected, rtol=1e-3, atol=1e-4)
    finally:
        peft_model.zero_grad()
