"""The gated delta rule in chunks and by steps, against its definition token by token in float64."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from sparta_lite.kernels import choice, delta, probe, reference

CPU, CARD = torch.device("cpu"), torch.device("cuda")
Heads = tuple[int, int, int, int]
HEADS: list[Heads] = [(2, 4, 8, 12), (1, 3, 16, 8), (3, 3, 4, 4)]
"""key heads, value heads, key dim, value dim"""
LENGTHS = [1, 2, 63, 64, 65, 150]
CHUNKED = 2e-6
"""How far float32 in chunks is from float64 by tokens, of the norm; gradients ten times as far."""


def problem(length: int, heads: Heads, rows: int = 2) -> list[Tensor]:
    """q, k, v, decay, beta and a state, float64; some decay to nothing within a token, some hardly at all."""
    key_heads, value_heads, key_dim, value_dim = heads
    dice = torch.Generator().manual_seed(length)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=dice, dtype=torch.float64)

    q, k = normal(rows, length, key_heads, key_dim), normal(rows, length, key_heads, key_dim)
    decay = -(2 * normal(rows, length, value_heads) - 3).exp()
    return [
        q,
        k,
        normal(rows, length, value_heads, value_dim),
        decay,
        normal(rows, length, value_heads).sigmoid(),
        normal(rows, value_heads, key_dim, value_dim),
    ]


def with_gradients(rule: Callable[..., tuple[Tensor, Tensor]], inputs: list[Tensor]) -> list[Tensor]:
    """Outputs, state behind them, and the gradients of a scalar that both enter."""
    leaves = [each.clone().requires_grad_() for each in inputs]
    results = rule(*leaves)
    total = sum((each.sin() * torch.arange(1, each.numel() + 1).view_as(each)).sum() for each in results)
    assert isinstance(total, Tensor)
    return [each.detach() for each in (*results, *torch.autograd.grad(total, leaves))]


def apart(found: Tensor, expected: Tensor) -> float:
    return float((found.double() - expected).norm() / expected.norm())


@pytest.mark.parametrize("heads", HEADS)
@pytest.mark.parametrize("length", LENGTHS)
def test_chunks_are_the_definition_and_so_are_their_gradients(length: int, heads: Heads) -> None:
    inputs = problem(length, heads)
    expected = with_gradients(reference.gated_delta, inputs)
    for found, each in zip(with_gradients(delta.gated_delta, inputs), expected, strict=True):
        torch.testing.assert_close(found, each, rtol=1e-9, atol=1e-9 * float(each.abs().max()))
    single = with_gradients(delta.gated_delta, [each.float() for each in inputs])
    far = [apart(found, each) for found, each in zip(single, expected, strict=True)]
    assert max(far[:2]) < CHUNKED
    assert max(far[2:]) < 10 * CHUNKED


def test_it_begins_at_zeros() -> None:
    *inputs, state = problem(70, HEADS[0])
    expected = reference.gated_delta(*inputs, torch.zeros_like(state))
    for found, each in zip(delta.gated_delta(*inputs), expected, strict=True):
        torch.testing.assert_close(found, each, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("heads", HEADS)
def test_steps_are_the_definition(heads: Heads) -> None:
    *inputs, start = problem(40, heads)
    outputs, expected = reference.gated_delta(*inputs, start)
    state = start.float()
    with torch.no_grad():
        for token in range(40):
            now = [each[:, token].float() for each in inputs]
            output = delta.gated_delta_step(*now, state)  # type: ignore[call-arg]
            assert apart(output, outputs[:, token]) < CHUNKED
    assert apart(state, expected) < CHUNKED


def test_going_on_from_a_state_is_going_through() -> None:
    *inputs, start = problem(150, HEADS[0])
    whole, state = delta.gated_delta(*inputs, start)
    first, middle = delta.gated_delta(*(each[:, :97] for each in inputs), start)  # type: ignore[misc]
    rest, end = delta.gated_delta(*(each[:, 97:] for each in inputs), middle)  # type: ignore[misc]
    torch.testing.assert_close(torch.cat([first, rest], 1), whole, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(end, state, rtol=1e-9, atol=1e-9)


def test_nothing_touches_a_state_where_decay_and_beta_are_nothing() -> None:
    q, k, v, decay, beta, start = problem(100, HEADS[1])
    state = start.float()
    for rule in (delta.gated_delta, reference.gated_delta):
        for number in (0.0, 1e3):  # whatever the tokens hold
            noise = [each.float() * number for each in (q, k, v)]
            _, after = rule(*noise, torch.zeros_like(decay).float(), torch.zeros_like(beta).float(), state)
            assert torch.equal(after, state)


def test_queries_and_keys_of_zeros_have_a_gradient() -> None:
    inputs = problem(5, HEADS[0])
    for each in inputs[:2]:
        each[:, 2] = 0
    for gradient in with_gradients(delta.gated_delta, inputs)[2:]:
        assert gradient.isfinite().all()


def test_autocast_does_not_round_the_state() -> None:
    inputs = [each.float() for each in problem(70, HEADS[0])]
    with torch.no_grad():
        expected = delta.gated_delta(*inputs)  # type: ignore[arg-type]
        with torch.autocast("cpu", torch.bfloat16):
            found = delta.gated_delta(*inputs)  # type: ignore[arg-type]
    assert all(torch.equal(*each) for each in zip(found, expected, strict=True))


def test_16_bits_come_out_as_they_go_in() -> None:
    inputs = problem(70, HEADS[0])
    halves = [each.bfloat16() for each in inputs[:3]]
    output, state = delta.gated_delta(*halves, *(each.float() for each in inputs[3:]))  # type: ignore[arg-type]
    assert (output.dtype, state.dtype) == (torch.bfloat16, torch.float32)
    exact = [each.double() for each in halves]
    expected, after = reference.gated_delta(*exact, *inputs[3:])
    assert apart(output, expected) < 1e-2
    assert apart(state, after) < CHUNKED


@pytest.mark.parametrize("kernel", [1, 3, 4])
@pytest.mark.parametrize("fresh", [False, True])
def test_the_convolution_is_its_definition(kernel: int, fresh: bool) -> None:
    dice = torch.Generator().manual_seed(kernel)
    x = torch.randn(2, 9, 5, generator=dice, dtype=torch.float64)
    filters = torch.randn(5, kernel, generator=dice, dtype=torch.float64)
    before = None if fresh else torch.randn(2, kernel - 1, 5, generator=dice, dtype=torch.float64)

    def gradients(convolve: Callable[..., Tensor]) -> list[Tensor]:
        leaves = [each.clone().requires_grad_() for each in (x, before) if each is not None]
        result = convolve(leaves[0], filters, *leaves[1:])
        found = torch.autograd.grad(result.square().sum(), leaves, allow_unused=True)
        return [result.detach(), *(each for each in found if each is not None)]

    pairs = zip(gradients(delta.convolve), gradients(reference.convolve), strict=True)
    for found, expected in pairs:
        if found.numel():
            torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.fixture
def fla(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A stand-in with the signatures of flash-linear-attention 0.6, which computes by the definition."""

    def chunked(
        q: Tensor,
        k: Tensor,
        v: Tensor,
        g: Tensor,
        beta: Tensor,
        scale: float | None = None,
        initial_state: Tensor | None = None,
        output_final_state: bool = False,
        use_qk_l2norm_in_kernel: bool = False,
    ) -> tuple[Tensor, Tensor]:
        assert use_qk_l2norm_in_kernel
        assert output_final_state
        assert scale is None
        assert all(each.is_contiguous() for each in (q, k, v, g, beta))
        state = None if initial_state is None else initial_state.double()
        exact = [each.double() for each in (q, k, v, g, beta)]
        output, after = reference.gated_delta(*exact, state)
        return output.to(v.dtype), after.float()

    module = ModuleType("fla.ops.gated_delta_rule")
    module.chunk_gated_delta_rule = chunked  # type: ignore[attr-defined]
    module.fused_recurrent_gated_delta_rule = chunked  # type: ignore[attr-defined]
    for name in ("fla", "fla.ops"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return module


def test_fla_gets_its_own_arguments_and_is_tried(fla: ModuleType) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        probe.require_sound_delta(CPU, dtype)


def test_an_fla_that_computes_something_else_is_not_taken(
    fla: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    right: Any = fla.chunk_gated_delta_rule

    def wrong(*tensors: Tensor, **others: Any) -> tuple[Tensor, Tensor]:
        output, state = right(*tensors, **others)
        return 1.2 * output, state

    monkeypatch.setattr(fla, "chunk_gated_delta_rule", wrong)
    with pytest.raises(RuntimeError, match="delta rule differs"):
        probe.require_sound_delta(CPU, torch.float32)


def test_who_computes_and_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "_chosen_delta", {})
    assert choice.choose_delta(CPU, torch.bfloat16)[0] == "torch"
    assert "needs a CUDA device" in choice.choose_delta(CPU, torch.bfloat16)[1]
    monkeypatch.setattr(choice, "find_spec", lambda name: None)
    assert choice.choose_delta(CARD, torch.bfloat16) == ("torch", "flash-linear-attention is not installed")
    monkeypatch.setattr(choice, "find_spec", lambda name: ModuleType(name))
    tried: list[torch.dtype] = []
    monkeypatch.setattr(probe, "require_sound_delta", lambda device, dtype: tried.append(dtype))
    assert choice.choose_delta(CARD, torch.float16)[0] == "fla"
    assert choice.choose_delta(CARD, torch.float16)[0] == "fla"
    assert tried == [torch.float16]  # once

    def broken(device: torch.device, dtype: torch.dtype) -> None:
        raise ImportError("made for another Triton")

    monkeypatch.setattr(probe, "require_sound_delta", broken)
    kind, why = choice.choose_delta(CARD, torch.float32)
    assert kind == "torch"
    assert "ImportError: made for another Triton" in why
