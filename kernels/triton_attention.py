"""Attention of every row's newest token over what the row has cached, in Triton.

A program takes all query heads that share one key head, over ``SPAN`` positions; a second kernel puts the
spans of a row together (flash-decoding; Dao, Haziza, Massa and Sizov 2023). Spans have one size whatever
the batch: equal rows give equal bits whoever stands beside them. How far a row reaches is read on the
device, and programs behind its end return at once.

Import this module only where Triton is installed.
"""

# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False
# mypy: disallow-untyped-decorators=False, disallow-untyped-calls=False

from __future__ import annotations

from collections.abc import Hashable

import torch
import triton
import triton.language as tl
from torch import Tensor

from sparta_lite.kernels.triton_launch import Launch, addresses, settle, settled
from sparta_lite.kernels.triton_product import DTYPES, OPTIONS, product

SPAN = 256
"""Positions that one program reads."""

_LOG2_E = 1.4426950408889634


def newest_attention(
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    counts: Tensor,
    softcap: float | None = None,
    sinks: Tensor | None = None,
) -> Tensor:
    """softmax(q . keys / sqrt(head_dim)) . values over the first ``counts`` positions of every row.

    Products take both factors in the dtype of ``q``; scores, weights and sums are in fp32.

    Args:
        q: [rows, heads, head_dim], of one token per row; heads in a row of memory.
        keys: [at least rows, kv_heads, capacity, head_dim], contiguous; row by row those of ``q``. The query
            heads that share a key head stand together. What lies behind a row's count is not read.
        values: like ``keys``.
        counts: int32 [rows], from 1 to capacity.
        softcap: see ``reference.newest_attention``.
        sinks: see ``reference.newest_attention``; [heads], in a row of memory.

    Returns:
        [rows, heads, head_dim] in the dtype of ``q``.
    """
    q = q.contiguous()
    key = (
        id(_span_kernel), q.shape, q.dtype, keys.shape, keys.dtype, softcap,
        None if sinks is None else sinks.dtype,
    )  # fmt: skip
    launch = settled(key) or _settle_spans(key, q, keys, softcap)
    result = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    spans = launch.shape[0]
    sums = result if spans == 1 else torch.empty(launch.shape, dtype=torch.float32, device=q.device)
    peaks = torch.empty(2, *launch.shape[:-1], dtype=torch.float32, device=q.device)  # and masses
    there = addresses((q, keys, values, counts) if sinks is None else (q, keys, values, counts, sinks))
    launch(there, sums, peaks, q, keys, values, counts, sinks)
    if spans > 1:
        _join(result, sums, peaks, counts)
    return result


def _settle_spans(key: Hashable, q: Tensor, keys: Tensor, softcap: float | None) -> Launch:
    rows, heads, width = q.shape
    kv_heads, capacity = keys.shape[1:3]
    spans = triton.cdiv(capacity, SPAN)
    columns = max(16, triton.next_power_of_2(width))
    step = max(16, min(64, 16384 // (columns * q.element_size())))  # keys and values in shared memory
    return settle(
        key, _span_kernel, (rows, kv_heads, spans),
        (
            rows, capacity, heads, heads // kv_heads, width, _LOG2_E / width**0.5, softcap or 0.0, _LOG2_E,
            softcap is not None, max(16, triton.next_power_of_2(heads // kv_heads)), columns, step, SPAN,
            spans == 1, DTYPES[q.dtype],
        ),
        shape=(spans, rows, heads, width),
        num_warps=8 if q.dtype == torch.float32 else 4,  # fp32 is multiplied in registers, and 4 would spill
        **OPTIONS,
    )  # fmt: skip


def _join(result: Tensor, sums: Tensor, peaks: Tensor, counts: Tensor) -> None:
    key = id(_join_kernel), sums.shape, result.dtype
    launch = settled(key)
    if launch is None:
        spans, rows, heads, width = sums.shape
        columns = max(16, triton.next_power_of_2(width))
        launch = settle(
            key, _join_kernel, (rows, heads), (spans, rows, heads, width, columns, SPAN), **OPTIONS
        )
    launch(counts.data_ptr(), result, sums, peaks, counts)


@triton.jit
def _span_kernel(
    sums, peaks, q, keys, values, counts, sinks,
    rows, capacity, heads, shared, width, scale, softcap, unit,
    CAPPED: tl.constexpr, GROUP: tl.constexpr, COLUMNS: tl.constexpr,
    STEP: tl.constexpr, SPAN: tl.constexpr, WHOLE: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    row, kv_head, span = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    first = span * SPAN
    last = tl.minimum(first + SPAN, tl.load(counts + row))
    if first >= last:
        return
    member, column = tl.arange(0, GROUP), tl.arange(0, COLUMNS)
    head = kv_head * shared + member
    real, inside = member < shared, column < width
    query = tl.load(
        q + (row * heads + head)[:, None] * width + column[None, :],
        mask=real[:, None] & inside[None, :],
        other=0.0,
    )
    start_of_row = (row.to(tl.int64) * tl.num_programs(1) + kv_head) * capacity * width

    peak = tl.full((GROUP,), float("-inf"), tl.float32)  # of the scores, in powers of two
    mass = tl.zeros((GROUP,), tl.float32)
    total = tl.zeros((GROUP, COLUMNS), tl.float32)
    if sinks is not None and span == 0:  # a score of a value of zeros
        peak = tl.load(sinks + head, mask=real, other=0.0).to(tl.float32) * unit
        mass = tl.full((GROUP,), 1.0, tl.float32)
    for start in range(first, last, STEP):
        place = start + tl.arange(0, STEP)
        here = place < last
        key = tl.load(
            keys + start_of_row + place[None, :] * width + column[:, None],
            mask=here[None, :] & inside[:, None],
            other=0.0,
        )
        score = product(query, key, tl.zeros((GROUP, STEP), tl.float32), DTYPE) * scale
        if CAPPED:  # tanh(x) = 1 - 2 / (exp(2 x) + 1); scores are exponents of 2
            score = softcap * unit * (1 - 2 / (tl.exp2(score * (2 / softcap)) + 1))
        score = tl.where(here[None, :], score, float("-inf"))
        higher = tl.maximum(peak, tl.max(score, 1))
        weight = tl.exp2(score - higher[:, None])
        fade = tl.exp2(peak - higher)
        mass = mass * fade + tl.sum(weight, 1)
        value = tl.load(
            values + start_of_row + place[:, None] * width + column[None, :],
            mask=here[:, None] & inside[None, :],
            other=0.0,
        )
        total = product(weight, value, total * fade[:, None], DTYPE)
        peak = higher

    at = (span * rows + row) * heads + head  # [GROUP]
    if WHOLE:
        total /= mass[:, None]
    else:
        tl.store(peaks + at, peak, mask=real)
        tl.store(peaks + tl.num_programs(2) * rows * heads + at, mass, mask=real)
    into = sums + at.to(tl.int64)[:, None] * width + column[None, :]
    tl.store(into, total.to(sums.dtype.element_ty), mask=real[:, None] & inside[None, :])


@triton.jit
def _join_kernel(
    result, sums, peaks, counts, spans, rows, heads, width, COLUMNS: tl.constexpr, SPAN: tl.constexpr
):
    row, head = tl.program_id(0), tl.program_id(1)
    column = tl.arange(0, COLUMNS)
    inside = column < width
    at = row * heads + head
    masses = peaks + spans * rows * heads
    peak = tl.load(peaks + at)
    mass = tl.load(masses + at)
    total = tl.load(sums + at.to(tl.int64) * width + column, mask=inside, other=0.0)
    for _ in range(1, tl.cdiv(tl.load(counts + row), SPAN)):
        at += rows * heads
        other = tl.load(peaks + at)
        higher = tl.maximum(peak, other)
        fade, share = tl.exp2(peak - higher), tl.exp2(other - higher)
        mass = mass * fade + tl.load(masses + at) * share
        total = total * fade + share * tl.load(
            sums + at.to(tl.int64) * width + column, mask=inside, other=0.0
        )
        peak = higher
    into = result + (row * heads + head).to(tl.int64) * width + column
    tl.store(into, (total / mass).to(result.dtype.element_ty), mask=inside)
