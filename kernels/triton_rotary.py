"""Rotary embedding of queries and keys in one launch, in Triton: forward, backward, and into the cache.

Import this module only where Triton is installed.
"""

# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False
# mypy: disallow-untyped-decorators=False, disallow-untyped-calls=False

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from sparta_lite.kernels import choice
from sparta_lite.kernels.elementwise import rotate
from sparta_lite.kernels.triton_launch import Launch, addresses, settle, settled
from sparta_lite.kernels.triton_product import OPTIONS

_HEADS = 16  # of one program


def rotate_both(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """``elementwise.rotate_both``: results lie token by token, whatever the inputs do."""
    if torch.is_grad_enabled() and (q.requires_grad or k.requires_grad):
        turned, other = _Rotate.apply(q, k, cos, sin)
        return turned, other
    return _turn(q, k, cos, sin, back=False)


def rotate_and_keep(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cos: Tensor,
    sin: Tensor,
    keys: Tensor,
    values: Tensor,
    lengths: Tensor,
) -> Tensor:
    """Turn the newest token's queries and keys, and write its keys and values into the cache; no gradients.

    Args:
        q: [rows, heads, 1, head_dim].
        k: [rows, kv_heads, 1, head_dim].
        v: like ``k``.
        cos: see ``elementwise.Rotary``; [rows, 1, 1, head_dim].
        sin: like ``cos``.
        keys: [at least rows, kv_heads, capacity, head_dim], contiguous, written at ``lengths``
            modulo capacity.
        values: like ``keys``.
        lengths: int64 [rows], the position of the newest token.

    Returns:
        The queries, turned, [rows, heads, 1, head_dim].
    """
    q, k, v = _by_token(q), _by_token(k), _by_token(v)
    key = (
        id(_keep_kernel), q.shape, q.stride(), k.shape, k.stride(), v.stride(), q.dtype, cos.dtype,
        keys.shape[2], keys.dtype,
    )  # fmt: skip
    launch = settled(key)
    if launch is None:
        rows, heads, _, width = q.shape
        kv_heads, capacity = keys.shape[1:3]
        half = width // 2
        launch = settle(
            key, _keep_kernel, (rows, triton.cdiv(heads + 2 * kv_heads, _HEADS)),
            (
                heads, kv_heads, capacity, half, q.stride(0), k.stride(0), v.stride(0),
                _HEADS, triton.next_power_of_2(half),
            ),
            shape=(rows, heads, 1, width), **OPTIONS,
        )  # fmt: skip
    turned = torch.empty(launch.shape, dtype=q.dtype, device=q.device)
    launch(addresses((q, k, v, cos, sin, lengths)), turned, keys, values, q, k, v, cos, sin, lengths)
    return turned


class _Rotate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(cos, sin)
        return _turn(q, k, cos, sin, back=False)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        half = cos.shape[-1] // 2
        q, k = choice.attempt(
            lambda: _turn(gradients[0], gradients[1], cos, sin, back=True),
            # To turn back is to turn with what the other half of a pair was turned with.
            lambda: (
                rotate(gradients[0], cos, sin.roll(half, -1)),
                rotate(gradients[1], cos, sin.roll(half, -1)),
            ),
        )
        return q, k, None, None


def _turn(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, back: bool) -> tuple[Tensor, Tensor]:
    q, k = _by_token(q), _by_token(k)
    key = id(_turn_kernel), q.shape, q.stride(), k.shape, k.stride(), q.dtype, cos.dtype, back
    launch = settled(key) or _settle_turn(key, q, k, back)
    results = tuple(
        torch.empty(each.transpose(1, 2).shape, dtype=each.dtype, device=each.device) for each in (q, k)
    )
    if q.shape[0] * q.shape[2]:
        launch(addresses((q, k, cos, sin)), *results, q, k, cos, sin)
    left, right = (each.transpose(1, 2) for each in results)
    return left, right


def _settle_turn(key: Hashable, q: Tensor, k: Tensor, back: bool) -> Launch:
    rows, heads, length, width = q.shape
    half, axis = width // 2, 2 if length > 1 else 0  # of the tokens
    return settle(
        key, _turn_kernel, (rows * length, triton.cdiv(heads + k.shape[1], _HEADS)),
        (
            heads, k.shape[1], half, q.stride(axis), k.stride(axis),
            back, _HEADS, triton.next_power_of_2(half),
        ),
        **OPTIONS,
    )  # fmt: skip


def _by_token(x: Tensor) -> Tensor:
    """[rows, heads, length, head_dim] whose heads lie side by side and whose tokens are one stride apart."""
    _, heads, length, width = x.shape
    row, head, token, number = x.stride()
    apart = length > 1 and row != length * token
    if number == 1 and (heads == 1 or head == width) and not (apart and len(x) > 1):
        return x
    return x.transpose(1, 2).contiguous().transpose(1, 2)


@triton.jit
def _pairs(x, token, row, head, first, heads, pair, half, HEADS: tl.constexpr, HALF: tl.constexpr):
    """Both halves of the heads from ``first`` on, ``heads`` of them, zeros where they are others'."""
    there = ((head >= first) & (head < first + heads))[:, None] & (pair < half)[None, :]
    at = x + token * row + ((head - first) * (2 * half))[:, None] + pair[None, :]
    left = tl.load(at, mask=there, other=0.0).to(tl.float32)
    return left, tl.load(at + half, mask=there, other=0.0).to(tl.float32), there


@triton.jit
def _turn_kernel(
    turned_q, turned_k, q, k, cos, sin, heads, kv_heads, half, q_token, k_token,
    BACK: tl.constexpr, HEADS: tl.constexpr, HALF: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64)
    head, pair = tl.program_id(1) * HEADS + tl.arange(0, HEADS), tl.arange(0, HALF)
    a, b, mine = _pairs(q, token, q_token, head, 0, heads, pair, half, HEADS, HALF)
    c, d, others = _pairs(k, token, k_token, head, heads, kv_heads, pair, half, HEADS, HALF)
    low, high = _turned(a + c, b + d, cos, sin, token, pair, half, BACK)
    at = token * heads * 2 * half + (head * 2 * half)[:, None] + pair[None, :]
    tl.store(turned_q + at, low.to(turned_q.dtype.element_ty), mask=mine)
    tl.store(turned_q + at + half, high.to(turned_q.dtype.element_ty), mask=mine)
    at = token * kv_heads * 2 * half + ((head - heads) * 2 * half)[:, None] + pair[None, :]
    tl.store(turned_k + at, low.to(turned_k.dtype.element_ty), mask=others)
    tl.store(turned_k + at + half, high.to(turned_k.dtype.element_ty), mask=others)


@triton.jit
def _turned(low, high, cos, sin, token, pair, half, BACK: tl.constexpr):
    """x * cos + (the other half of x) * sin; back: times the sine of the other half."""
    at, there = token * 2 * half + pair, pair < half
    cos_low = tl.load(cos + at, mask=there, other=0.0).to(tl.float32)[None, :]
    cos_high = tl.load(cos + at + half, mask=there, other=0.0).to(tl.float32)[None, :]
    sin_low = tl.load(sin + at, mask=there, other=0.0).to(tl.float32)[None, :]
    sin_high = tl.load(sin + at + half, mask=there, other=0.0).to(tl.float32)[None, :]
    if BACK:
        return low * cos_low + high * sin_high, high * cos_high + low * sin_low
    return low * cos_low + high * sin_low, high * cos_high + low * sin_high


@triton.jit
def _keep_kernel(
    turned_q, keys, values, q, k, v, cos, sin, lengths,
    heads, kv_heads, capacity, half, q_row, k_row, v_row,
    HEADS: tl.constexpr, HALF: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    head, pair = tl.program_id(1) * HEADS + tl.arange(0, HEADS), tl.arange(0, HALF)
    a, b, mine = _pairs(q, row, q_row, head, 0, heads, pair, half, HEADS, HALF)
    c, d, others = _pairs(k, row, k_row, head, heads, kv_heads, pair, half, HEADS, HALF)
    low, high = _turned(a + c, b + d, cos, sin, row, pair, half, False)
    at = row * heads * 2 * half + (head * 2 * half)[:, None] + pair[None, :]
    tl.store(turned_q + at, low.to(turned_q.dtype.element_ty), mask=mine)
    tl.store(turned_q + at + half, high.to(turned_q.dtype.element_ty), mask=mine)
    entry = tl.load(lengths + row) % capacity
    at = (((row * kv_heads + head - heads) * capacity + entry) * 2 * half)[:, None] + pair[None, :]
    tl.store(keys + at, low.to(keys.dtype.element_ty), mask=others)
    tl.store(keys + at + half, high.to(keys.dtype.element_ty), mask=others)
    first = heads + kv_heads
    left, right, last = _pairs(v, row, v_row, head, first, kv_heads, pair, half, HEADS, HALF)
    at = (((row * kv_heads + head - first) * capacity + entry) * 2 * half)[:, None] + pair[None, :]
    tl.store(values + at, left.to(values.dtype.element_ty), mask=last)
    tl.store(values + at + half, right.to(values.dtype.element_ty), mask=last)
