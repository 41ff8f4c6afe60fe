"""The NF4 product in Triton against bitsandbytes' unpacked matrix and a product in float64.

Tolerances are bounds, as in test_triton_lora.py. Two numbers are rounded, the matrix's and the result; sums
are taken in fp32. What is unpacked must be what bitsandbytes unpacks, bit for bit: a product with the unit
matrix shows it.
"""

from __future__ import annotations

import pytest
import torch
from bitsandbytes.functional import QuantState, dequantize_4bit, quantize_4bit
from torch import Tensor

triton = pytest.importorskip("triton")

from sparta_lite.kernels import reference  # noqa: E402
from sparta_lite.kernels.nf4 import EightBitScales, Nf4  # noqa: E402
from sparta_lite.kernels.triton_nf4 import nf4_linear  # noqa: E402

from .rounding import ROUNDING  # noqa: E402

pytestmark = pytest.mark.usefixtures("poisoned_memory")


def quantized(out: int, width: int, nested: bool, device: torch.device) -> tuple[Nf4, Tensor, QuantState]:
    """A matrix in NF4 for us, and as bitsandbytes has it. Its rows differ in size, so that scales do."""
    generator = torch.Generator().manual_seed(out + width)
    matrix = torch.randn(out, width, generator=generator) * torch.linspace(0.1, 2, out)[:, None]
    packed, state = quantize_4bit(matrix.to(device), compress_statistics=nested, quant_type="nf4")
    scales = EightBitScales(state.state2.code, state.state2.absmax, state.offset) if nested else None
    return Nf4(packed.view(-1), state.code, state.absmax, scales, width), packed, state


def inputs(
    tokens: int, width: int, out: int, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(tokens)
    x, bias = torch.randn(tokens, width, generator=generator), torch.randn(out, generator=generator)
    return x.to(device, dtype), bias.to(device, dtype)


@pytest.mark.parametrize("nested", [False, True])
def test_the_definition_unpacks_what_bitsandbytes_does(nested: bool) -> None:
    weight, packed, state = quantized(130, 192, nested, torch.device("cpu"))  # 390 scales: two blocks of them
    matrix = reference.nf4_matrix(weight)
    assert torch.equal(matrix, dequantize_4bit(packed, state))
    assert weight.outputs == 130
    x, bias = inputs(3, 192, 130, torch.float32, torch.device("cpu"))
    torch.testing.assert_close(reference.nf4_linear(x, weight, bias), x @ matrix.T + bias)


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("dtype", ROUNDING, ids=str)
@pytest.mark.parametrize(
    ("tokens", "out", "width"),
    [
        (1, 40, 64),
        (15, 130, 192),
        (16, 64, 704),  # two programs share the width, six blocks and five
        (17, 33, 128),
        (130, 150, 64),
    ],
)
def test_against_bitsandbytes(
    tokens: int, out: int, width: int, dtype: torch.dtype, nested: bool, biased: bool, device: torch.device
) -> None:
    weight, packed, state = quantized(out, width, nested, device)
    x, bias = inputs(tokens, width, out, dtype, device)
    found = nf4_linear(x, weight, bias if biased else None)

    matrix = dequantize_4bit(packed, state).double()
    assert found.dtype == dtype
    exact = x.double() @ matrix.T + biased * bias.double()
    size = x.double().abs() @ matrix.abs().T + biased * bias.double().abs()
    assert ((found.double() - exact).abs() <= (2 * ROUNDING[dtype] + width * 2.0**-24) * size).all()


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("dtype", ROUNDING, ids=str)
def test_unpacked_numbers_are_those_of_bitsandbytes_to_the_bit(
    dtype: torch.dtype, nested: bool, device: torch.device
) -> None:
    weight, packed, state = quantized(300, 64, nested, device)
    found = nf4_linear(torch.eye(64, dtype=dtype, device=device), weight).T
    expected = dequantize_4bit(packed, state)
    if dtype == torch.bfloat16 and triton.knobs.runtime.interpret:  # which cuts off instead of rounding
        expected = (expected.view(torch.int32) & -65536).view(torch.float32)
    assert torch.equal(found, expected.to(dtype))


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize(
    ("tokens", "outs", "width"), [(3, (40, 130, 1), 64), (17, (33, 200), 128), (5, (64, 16, 16), 1024)]
)
def test_several_matrices_in_one_launch_are_each_their_own(
    tokens: int, outs: tuple[int, ...], width: int, nested: bool, biased: bool, device: torch.device
) -> None:
    """The last case in several parts of the width."""
    weights = [quantized(out, width, nested, device)[0] for out in outs]
    x, bias = inputs(tokens, width, sum(outs), torch.float32, device)
    found = nf4_linear(x, weights, bias if biased else None)
    exact = torch.cat([x.double() @ reference.nf4_matrix(weight).double().T for weight in weights], -1)
    torch.testing.assert_close(found.double(), exact + biased * bias.double(), rtol=1e-5, atol=1e-4)


def test_scales_of_two_kinds_are_refused(device: torch.device) -> None:
    weights = [quantized(40, 64, nested, device)[0] for nested in (False, True)]
    with pytest.raises(ValueError, match="scales of one matrix are in 8 bits"):
        nf4_linear(torch.zeros(3, 64, device=device), weights)


def test_equal_inputs_give_equal_bits_also_where_programs_share_a_width(device: torch.device) -> None:
    weight, _, _ = quantized(40, 1024, True, device)
    x, bias = inputs(5, 1024, 40, torch.bfloat16, device)
    first = nf4_linear(x, weight, bias)
    for _ in range(2):
        assert torch.equal(nf4_linear(x, weight, bias), first)


def test_rows_that_lie_apart_and_no_rows_at_all(device: torch.device) -> None:
    weight, _, _ = quantized(40, 64, True, device)
    x, _ = inputs(5, 64, 40, torch.float32, device)
    frame = torch.full((5, 70), float("nan"), device=device)
    frame[:, 3:67] = x
    assert torch.equal(nf4_linear(frame[:, 3:67], weight), nf4_linear(x, weight))
    assert nf4_linear(x[:0], weight).shape == (0, 40)


def test_another_width_is_refused(device: torch.device) -> None:
    weight, _, _ = quantized(40, 64, True, device)
    with pytest.raises(ValueError, match="32 inputs for a matrix of 64"):
        nf4_linear(torch.zeros(3, 32, device=device), weight)
