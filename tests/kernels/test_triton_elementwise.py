"""The Triton kernels between the products of a layer against their definitions in float64.

Without a card they run interpreted; on one, ``TRITON_INTERPRET=0 pytest tests/kernels`` runs them compiled.

With u the largest relative error of one rounding (rounding.py), tolerances are: two of them where a number is
rounded once more on its way, and 2**-20 for fp32 sums, roots and exponentials, all relative to the same
computation on positive numbers, or to the largest result of its row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

triton = pytest.importorskip("triton")

from sparta_lite.kernels import reference, triton_elementwise, triton_rotary  # noqa: E402

from .rounding import ROUNDING  # noqa: E402

pytestmark = pytest.mark.usefixtures("poisoned_memory")

DTYPES = pytest.mark.parametrize("dtype", ROUNDING, ids=str)


def normal(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed + sum(shape))).to(dtype)


def framed(inner: Tensor) -> Tensor:
    """The same amid NaN, as a slice of a wider tensor lies: its rows are apart."""
    frame = torch.full((*inner.shape[:-1], inner.shape[-1] + 11), torch.nan).to(inner)
    frame[..., 4:-7] = inner
    return frame[..., 4:-7]


def require_near(found: Tensor, exact: Tensor, roundings: float = 2) -> None:
    error = (found.detach().cpu().double() - exact).abs()
    size = exact.abs().amax(-1, keepdim=True) if exact.numel() else exact
    assert (error <= (roundings * ROUNDING[found.dtype] + 2.0**-20) * size).all(), (error / size).max()


def in_double(
    run: Callable[..., Sequence[Tensor]], tensors: Sequence[Tensor], slopes: Sequence[Tensor]
) -> list[Tensor]:
    """What ``run`` gives of ``tensors`` in float64, and the gradients of all of them."""
    leaves = [each.detach().cpu().double().requires_grad_() for each in tensors]
    results = run(*leaves)
    found = torch.autograd.grad(results, leaves, [each.cpu().double() for each in slopes])
    return [each.detach() for each in (*results, *found)]


def with_gradients(
    run: Callable[..., Sequence[Tensor]], tensors: Sequence[Tensor], slopes: Sequence[Tensor]
) -> list[Tensor]:
    leaves = [each.detach().requires_grad_() for each in tensors]
    results = run(*leaves)
    return [*results, *torch.autograd.grad(results, leaves, slopes)]


def test_the_definitions_are_those_of_torch() -> None:
    x, added, weight = (normal(*shape).double() for shape in ((3, 5, 8), (3, 5, 8), (8,)))
    total, found = reference.add_norm(x, added, weight, 1e-3)
    torch.testing.assert_close(found, F.rms_norm(x + added, (8,), weight, 1e-3))
    assert torch.equal(total, x + added)
    torch.testing.assert_close(reference.swiglu(x, added), F.silu(x) * added)


def test_rotation_is_a_product_of_complex_numbers() -> None:
    x, angles = normal(2, 3, 5, 8).double(), normal(2, 1, 5, 4).double()
    cos, sin = torch.cat([angles.cos()] * 2, -1), torch.cat([-angles.sin(), angles.sin()], -1)
    turned = torch.complex(*x.chunk(2, -1)) * torch.exp(1j * angles)
    torch.testing.assert_close(reference.rotate(x, cos, sin), torch.cat([turned.real, turned.imag], -1))


@DTYPES
@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 3, 37), (5, 1, 64), (1, 4, 200)], ids=str)
def test_norm_behind_a_residual(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> None:
    x, added = (normal(*shape, dtype=dtype, seed=seed).to(device) for seed in (1, 2))
    weight = normal(shape[-1], dtype=dtype, seed=3).to(device)
    along, slope = (normal(*shape, dtype=dtype, seed=seed).to(device) for seed in (4, 5))

    def exact(x: Tensor, added: Tensor) -> Sequence[Tensor]:
        return reference.add_norm(x, added, weight.cpu().double(), 1e-2)

    def run(x: Tensor, added: Tensor) -> Sequence[Tensor]:
        return triton_elementwise.add_norm(x, added, weight, 1e-2)

    expected = in_double(exact, (x, added), (along, slope))
    found = with_gradients(run, (framed(x), framed(added)), (along, slope))
    assert {each.dtype for each in found} == {dtype}
    for each, other in zip(found, expected, strict=True):
        require_near(each, other, 4)
    with torch.no_grad():
        for each, other in zip(run(x, added), found, strict=False):
            assert torch.equal(each, other)


@DTYPES
def test_a_norm_alone_and_gradients_of_one_result(dtype: torch.dtype, device: torch.device) -> None:
    x, added, slope = (normal(3, 2, 40, dtype=dtype, seed=seed).to(device) for seed in range(3))
    weight = normal(40, seed=3).to(device)  # in fp32, as the hybrids' norms are

    def exact(x: Tensor) -> Sequence[Tensor]:
        return (reference.add_norm(x, None, weight.cpu().double(), 1e-6)[1],)

    def run(x: Tensor) -> Sequence[Tensor]:
        total, normed = triton_elementwise.add_norm(x, None, weight, 1e-6)
        assert total is x
        return (normed,)

    for each, other in zip(
        with_gradients(run, (x,), (slope,)), in_double(exact, (x,), (slope,)), strict=True
    ):
        require_near(each, other, 4)
    leaves = [each.clone().requires_grad_() for each in (x, added)]
    total, _ = triton_elementwise.add_norm(*leaves, weight, 1e-6)
    for gradient in torch.autograd.grad(total, leaves, slope):  # the norm is not used
        assert torch.equal(gradient, slope)


@DTYPES
@pytest.mark.parametrize("width", [1, 37, 1024, 1100])
def test_swiglu(width: int, dtype: torch.dtype, device: torch.device) -> None:
    gate, up, slope = (4 * normal(2, 3, width, dtype=dtype, seed=seed).to(device) for seed in range(3))

    def exact(gate: Tensor, up: Tensor) -> Sequence[Tensor]:
        return (reference.swiglu(gate, up),)

    def run(gate: Tensor, up: Tensor) -> Sequence[Tensor]:
        return (triton_elementwise.swiglu(gate, up),)

    found = with_gradients(run, (framed(gate), framed(up)), (slope,))
    for each, other in zip(found, in_double(exact, (gate, up), (slope,)), strict=True):
        require_near(each, other)


@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")
def test_swiglu_of_numbers_that_overflow_an_exponential(device: torch.device) -> None:
    gate = torch.tensor([[[-1e4, -90.0, 0.0, 90.0, 1e4]]], device=device)
    leaves = [gate.clone().requires_grad_(), torch.full_like(gate, 2.0).requires_grad_()]
    (result,) = (triton_elementwise.swiglu(*leaves),)
    assert torch.equal(result.detach(), 2 * F.silu(gate))
    for gradient in torch.autograd.grad(result.sum(), leaves):
        assert gradient.isfinite().all()


def rotary(rows: int, length: int, width: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    angles = 3 * normal(rows, 1, length, width // 2, seed=9)
    cos, sin = angles.cos().to(dtype), angles.sin().to(dtype)
    return torch.cat([cos, cos], -1), torch.cat([-sin, sin], -1)


def heads_of(x: Tensor, width: int) -> Tensor:
    return x.unflatten(-1, (-1, width)).transpose(1, 2)


@DTYPES
@pytest.mark.parametrize(
    ("rows", "length", "heads", "kv_heads", "width"),
    [(2, 3, 4, 2, 8), (3, 1, 7, 1, 16), (1, 5, 20, 4, 12), (2, 2, 1, 1, 2)],
)
@pytest.mark.parametrize("side_by_side", [False, True])
def test_both_are_turned(
    rows: int,
    length: int,
    heads: int,
    kv_heads: int,
    width: int,
    side_by_side: bool,
    dtype: torch.dtype,
    device: torch.device,
) -> None:
    """Queries and keys as slices of one product, and each by itself, heads before tokens."""
    both = normal(rows, length, (heads + 2 * kv_heads) * width, dtype=dtype).to(device)
    q, k, _ = (
        heads_of(each, width) for each in both.split([heads * width, kv_heads * width, kv_heads * width], -1)
    )
    if not side_by_side:
        q, k = q.contiguous(), k.contiguous()
    cos, sin = (each.to(device) for each in rotary(rows, length, width, dtype))
    slopes = [normal(*each.shape, dtype=dtype, seed=5).to(device) for each in (q, k)]

    def exact(q: Tensor, k: Tensor) -> Sequence[Tensor]:
        return [reference.rotate(each, cos.cpu().double(), sin.cpu().double()) for each in (q, k)]

    def run(q: Tensor, k: Tensor) -> Sequence[Tensor]:
        return triton_rotary.rotate_both(q, k, cos, sin)

    found = with_gradients(run, (q, k), slopes)
    for each, other in zip(found, in_double(exact, (q, k), slopes), strict=True):
        assert each.shape == other.shape
        require_near(each, other)


@DTYPES
@pytest.mark.parametrize(("heads", "kv_heads", "width"), [(4, 2, 8), (28, 4, 16), (3, 3, 10)])
def test_the_newest_token_is_turned_into_the_cache(
    heads: int, kv_heads: int, width: int, dtype: torch.dtype, device: torch.device
) -> None:
    """Also behind a window's end, where a token takes the place of the one that leaves."""
    lengths = [0, 4, 5, 13]
    rows, capacity = len(lengths), 5
    both = normal(rows, 1, (heads + 2 * kv_heads) * width, dtype=dtype).to(device)
    q, k, v = (
        heads_of(each, width) for each in both.split([heads * width, kv_heads * width, kv_heads * width], -1)
    )
    cos, sin = (each.to(device) for each in rotary(rows, 1, width, dtype))
    caches = [
        normal(rows + 2, kv_heads, capacity, width, dtype=dtype, seed=seed).to(device) for seed in (1, 2)
    ]
    expected = reference.rotate_and_keep(
        *(each.cpu().double() for each in (q, k, v, cos, sin, *caches)), lengths
    )
    at = torch.tensor(lengths, device=device)
    found = triton_rotary.rotate_and_keep(q, k, v, cos, sin, *caches, at)
    for each, other in zip((found, *caches), expected, strict=True):
        require_near(each, other)


def test_no_rows(device: torch.device) -> None:
    empty = torch.zeros(0, 3, 8, device=device)
    total, normed = triton_elementwise.add_norm(empty, empty, torch.ones(8, device=device), 1e-6)
    assert total.shape == normed.shape == triton_elementwise.swiglu(empty, empty).shape == empty.shape
