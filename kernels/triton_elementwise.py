"""RMSNorm behind a residual, and SwiGLU, in Triton, forward and backward.

Numbers are read and written once, in the dtype of the inputs, and computed with in fp32. Weights of norms
are frozen: they get no gradient.

Import this module only where Triton is installed.
"""

# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False
# mypy: disallow-untyped-decorators=False, disallow-untyped-calls=False

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from sparta_lite.kernels import choice
from sparta_lite.kernels.triton_launch import addresses, settle, settled
from sparta_lite.kernels.triton_product import OPTIONS

_BLOCK = 1024


def add_norm(x: Tensor, added: Tensor | None, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """x + added, and that over the root of its mean square, times a weight.

    Args:
        x: [..., width].
        added: like ``x``; None: nothing.
        weight: [width], any dtype.
        eps: added to the mean square.

    Returns:
        The sum, or ``x`` itself where nothing is added, and the norm; both like ``x``.
    """
    if torch.is_grad_enabled() and (x.requires_grad or (added is not None and added.requires_grad)):
        if added is None:
            return x, _AddNorm.apply(x, None, weight, eps)[0]
        total, normed = _AddNorm.apply(x, added, weight, eps)
        return total, normed
    total, normed, _ = _add_norm(x, added, weight, eps, keep=False)
    return total, normed


class _AddNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, added: Tensor | None, weight: Tensor, eps: float) -> tuple[Tensor, ...]:
        total, normed, rates = _add_norm(x, added, weight, eps, keep=True)
        ctx.eps, ctx.alone = eps, added is None
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(total, weight, rates)
        return (normed,) if added is None else (total, normed)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, Tensor | None, None, None]:
        total, weight, rates = ctx.saved_tensors
        along, slope = (None, gradients[0]) if ctx.alone else gradients
        if slope is None:
            return along, None if ctx.alone else along, None, None
        found = choice.attempt(
            lambda: _norm_slope(slope, along, total, weight, rates),
            lambda: _plain_norm_slope(slope, along, total, weight, ctx.eps),
        )
        return found, None if ctx.alone else found, None, None


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """``elementwise.swiglu``; rows may lie apart, as in a split of a wider tensor."""
    if torch.is_grad_enabled() and (gate.requires_grad or up.requires_grad):
        result: Tensor = _Swiglu.apply(gate, up)
        return result
    return _swiglu(gate, up)


class _Swiglu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return _swiglu(gate, up)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        return choice.attempt(
            lambda: _swiglu_slopes(gradients[0], gate, up),
            lambda: _plain_swiglu_slopes(gradients[0], gate, up),
        )


# Launching.


def _add_norm(
    x: Tensor, added: Tensor | None, weight: Tensor, eps: float, keep: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Sum, norm, and, where the backward pass will want it, what each row was multiplied by, fp32 [rows]."""
    given, x = x, _rows(x)
    added = None if added is None else _rows(added)
    key = (
        id(_norm_kernel), x.shape, x.stride(), x.dtype, weight.dtype, eps, keep,
        None if added is None else (added.stride(), added.dtype),
    )  # fmt: skip
    launch = settled(key)
    if launch is None:
        rows, width = x.shape
        launch = settle(
            key, _norm_kernel, (rows,),
            (width, x.stride(0), 0 if added is None else added.stride(0), eps, *_wide(width)),
            shape=(rows,), num_warps=_warps(width), **OPTIONS,
        )  # fmt: skip
    normed = torch.empty(given.shape, dtype=x.dtype, device=x.device)
    total = None if added is None else torch.empty(given.shape, dtype=x.dtype, device=x.device)
    rates = torch.empty(launch.shape, dtype=torch.float32, device=x.device) if keep else None
    if len(x):
        there = addresses((x, weight) if added is None else (x, added, weight))
        launch(there, normed, total, rates, x, added, weight)
    return given if total is None else total, normed, rates


def _norm_slope(slope: Tensor, along: Tensor | None, total: Tensor, weight: Tensor, rates: Tensor) -> Tensor:
    """The gradient of the sum, ``along`` being what comes to it beside the norm."""
    slope = slope.contiguous()
    along = None if along is None else along.contiguous()
    total = _rows(total)
    key = id(_norm_slope_kernel), total.shape, total.stride(), slope.dtype, weight.dtype, along is None
    launch = settled(key)
    if launch is None:
        width = total.shape[1]
        launch = settle(
            key, _norm_slope_kernel, (len(rates),), (width, total.stride(0), *_wide(width)),
            num_warps=_warps(width), **OPTIONS,
        )  # fmt: skip
    found = torch.empty(slope.shape, dtype=slope.dtype, device=slope.device)
    if len(rates):
        there = addresses((slope, total, weight) if along is None else (slope, along, total, weight))
        launch(there, found, slope, along, total, weight, rates)
    return found


def _plain_norm_slope(
    slope: Tensor, along: Tensor | None, total: Tensor, weight: Tensor, eps: float
) -> Tensor:
    with torch.enable_grad():
        leaf = total.detach().requires_grad_()
        normed = F.rms_norm(leaf.float(), weight.shape, weight.float(), eps)
        (found,) = torch.autograd.grad(normed, leaf, slope.float())
    return found if along is None else found + along


def _swiglu(gate: Tensor, up: Tensor) -> Tensor:
    result = torch.empty(gate.shape, dtype=gate.dtype, device=gate.device)
    gate, up = _rows(gate), _rows(up)
    key = id(_swiglu_kernel), gate.shape, gate.stride(), up.stride(), gate.dtype
    launch = settled(key)
    if launch is None:
        rows, width = gate.shape
        launch = settle(
            key, _swiglu_kernel, (rows, triton.cdiv(width, _BLOCK)),
            (width, gate.stride(0), up.stride(0), _BLOCK), **OPTIONS,
        )  # fmt: skip
    if len(gate):
        launch(addresses((gate, up)), result, gate, up)
    return result


def _swiglu_slopes(slope: Tensor, gate: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    left, right = (torch.empty(gate.shape, dtype=gate.dtype, device=gate.device) for _ in range(2))
    slope, gate, up = slope.contiguous(), _rows(gate), _rows(up)
    key = id(_swiglu_slope_kernel), gate.shape, gate.stride(), up.stride(), gate.dtype
    launch = settled(key)
    if launch is None:
        rows, width = gate.shape
        launch = settle(
            key, _swiglu_slope_kernel, (rows, triton.cdiv(width, _BLOCK)),
            (width, gate.stride(0), up.stride(0), _BLOCK), **OPTIONS,
        )  # fmt: skip
    if len(gate):
        launch(addresses((slope, gate, up)), left, right, slope, gate, up)
    return left, right


def _plain_swiglu_slopes(slope: Tensor, gate: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    with torch.enable_grad():
        leaves = [each.detach().requires_grad_() for each in (gate, up)]
        left, right = torch.autograd.grad(F.silu(leaves[0]) * leaves[1], leaves, slope)
    return left, right


def _rows(x: Tensor) -> Tensor:
    """[..., width] as [rows, width]; a copy only where rows are not one stride apart."""
    x = x.reshape(-1, x.shape[-1])
    return x if x.stride(1) == 1 else x.contiguous()


def _wide(width: int) -> tuple[int]:
    return (triton.next_power_of_2(width),)


def _warps(width: int) -> int:
    return 4 if width <= 2048 else 8 if width <= 8192 else 16


# Kernels.


@triton.jit
def _norm_kernel(normed, total, rates, x, added, weight, width, x_row, added_row, eps, WIDTH: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, WIDTH)
    inside = column < width
    value = tl.load(x + row * x_row + column, mask=inside, other=0.0).to(tl.float32)
    if added is not None:
        value += tl.load(added + row * added_row + column, mask=inside, other=0.0).to(tl.float32)
        rounded = value.to(total.dtype.element_ty)
        tl.store(total + row * width + column, rounded, mask=inside)
        value = rounded.to(tl.float32)  # the norm is that of the sum as others will read it
    rate = 1 / tl.sqrt(tl.sum(value * value, 0) / width + eps)
    if rates is not None:
        tl.store(rates + row, rate)
    value *= rate * tl.load(weight + column, mask=inside, other=0.0).to(tl.float32)
    tl.store(normed + row * width + column, value.to(normed.dtype.element_ty), mask=inside)


@triton.jit
def _norm_slope_kernel(found, slope, along, total, weight, rates, width, total_row, WIDTH: tl.constexpr):
    """With r the rate and s the slope times the weight: r s - r^3 x mean(s x)."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, WIDTH)
    inside = column < width
    rate = tl.load(rates + row)
    value = tl.load(total + row * total_row + column, mask=inside, other=0.0).to(tl.float32) * rate
    steep = tl.load(slope + row * width + column, mask=inside, other=0.0).to(tl.float32)
    steep *= tl.load(weight + column, mask=inside, other=0.0).to(tl.float32)
    steep = rate * (steep - value * (tl.sum(steep * value, 0) / width))
    if along is not None:
        steep += tl.load(along + row * width + column, mask=inside, other=0.0).to(tl.float32)
    tl.store(found + row * width + column, steep.to(found.dtype.element_ty), mask=inside)


@triton.jit
def _swiglu_kernel(result, gate, up, width, gate_row, up_row, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < width
    left = tl.load(gate + row * gate_row + column, mask=inside, other=0.0).to(tl.float32)
    right = tl.load(up + row * up_row + column, mask=inside, other=0.0).to(tl.float32)
    value = left / (1 + tl.exp(-left)) * right
    tl.store(result + row * width + column, value.to(result.dtype.element_ty), mask=inside)


@triton.jit
def _swiglu_slope_kernel(gates, ups, slope, gate, up, width, gate_row, up_row, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < width
    steep = tl.load(slope + row * width + column, mask=inside, other=0.0).to(tl.float32)
    left = tl.load(gate + row * gate_row + column, mask=inside, other=0.0).to(tl.float32)
    right = tl.load(up + row * up_row + column, mask=inside, other=0.0).to(tl.float32)
    share = 1 / (1 + tl.exp(-left))
    back = steep * right * share * (1 + left * (1 - share))
    tl.store(gates + row * width + column, back.to(gates.dtype.element_ty), mask=inside)
    tl.store(ups + row * width + column, (steep * left * share).to(ups.dtype.element_ty), mask=inside)
