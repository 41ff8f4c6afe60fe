"""Low-rank updates of many adapters in Triton, forward and backward.

Three kernels, each a grouped matrix product that accumulates in fp32:

    shrink     low[place] = x[row] @ W[slot].T        from the layer's width down to the ranks, times a gain
    expand     result[row] = output[row] + scale * low[place] @ W[slot].T        and up again
    gradient   dW[slot] = scale * sum over the segment of low[place] outer x[row]

The backward pass is made of the same three: the outputs' gradients shrink through B and expand through
A. No kernel adds to memory that another program writes, hence equal inputs give equal bits.

Import this module only where Triton is installed.
"""

# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False
# mypy: disallow-untyped-decorators=False, disallow-untyped-calls=False

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from sparta_lite.kernels import choice
from sparta_lite.kernels.lora import gradients_by_torch
from sparta_lite.kernels.segments import Segments
from sparta_lite.kernels.triton_product import DTYPES, OPTIONS, product


def grouped_lora(
    outputs: Sequence[Tensor],
    x: Tensor,
    a: Tensor,
    b: Sequence[Tensor],
    segments: Segments,
    gain: Tensor | None = None,
) -> list[Tensor]:
    """Add each row's low-rank update ``scale * x @ A.T @ B.T`` to the outputs of a linear layer.

    One launch shrinks for all projections and one expands. Rows may stand in any order: ``segments``
    says where each adapter's are. Products take both factors in the dtype of ``outputs`` and sum
    in fp32; the low-rank states are rounded to it in between, the scale multiplies the fp32 sum. The bank
    may be in another dtype: a kernel converts what it has loaded.

    Args:
        outputs: what the base gives for each of the P projections, P x [tokens, out_p]; rows may lie apart,
            as in a split of a wider output, but columns may not. Where no gradient is wanted they are
            overwritten and returned, else results are new tensors.
        x: the common input, [tokens, in], any row stride.
        a: the bank's A of this layer, the projections' ranks one after another, [slots, P * rank, in].
        b: the bank's B of each projection, P x [slots, out_p, rank].
        segments: which rows belong to which slots, for as many slots as ``a`` has.
        gain: see ``lora.add_lora``.

    Returns:
        P x [tokens, out_p], in the dtype of ``outputs``. Rows without adapter keep their values.

    Raises:
        ValueError: ``segments`` speaks of more or fewer slots or rows than there are.
    """
    if (len(a), len(x)) != (len(segments.scales) - 1, len(segments.order)):
        raise ValueError(
            f"segments of {len(segments.order)} rows and {len(segments.scales) - 1} slots "
            f"for {len(x)} rows and {len(a)} slots"
        )
    if torch.is_grad_enabled() and any(each.requires_grad for each in (*outputs, x, a, *b)):
        return list(_GroupedLora.apply(segments, gain, x, a, *outputs, *b))
    dtype = outputs[0].dtype
    low = _shrink(_by_row(x), a, 1, segments, dtype, gain, splits=_splits(x.shape[1], segments))
    _expand(outputs, outputs, low, b, 2, segments, dtype)
    return list(outputs)


class _GroupedLora(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, segments: Segments, gain: Tensor | None, x: Tensor, a: Tensor, *others: Tensor
    ) -> tuple[Tensor, ...]:
        outputs, b = others[: len(others) // 2], others[len(others) // 2 :]
        x, dtype = _by_row(x), outputs[0].dtype
        low = _shrink(x, a, 1, segments, dtype, gain)
        results = tuple(torch.empty(each.shape, dtype=each.dtype, device=each.device) for each in outputs)
        _expand(results, outputs, low, b, 2, segments, dtype)
        ctx.segments, ctx.gain = segments, gain
        ctx.save_for_backward(x, a, low, *b)
        return results

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, a, _, *b = saved = ctx.saved_tensors  # may be asked for once only
        _, _, wants_x, wants_a, *wants = ctx.needs_input_grad
        wants_outputs, wants_b = wants[: len(b)], wants[len(b) :]
        asked = [wants_x, wants_a, *wants_b]
        dx, da, *db = choice.attempt(
            lambda: _gradients(saved, ctx.segments, ctx.gain, gradients, asked),
            lambda: gradients_by_torch(x, a, b, gradients, asked, ctx.segments, ctx.gain),
        )
        passed = [each if want else None for each, want in zip(gradients, wants_outputs, strict=True)]
        return None, None, dx, da, *passed, *db


def _gradients(
    saved: Sequence[Tensor], segments: Segments, gain: Tensor | None, gradients: Sequence[Tensor], asked: Any
) -> list[Tensor | None]:
    """What of dx, dA and each dB is asked for."""
    x, a, low, *b = saved
    wants_x, wants_a, *wants_b = asked
    rank, dtype = b[0].shape[2], low.dtype
    steep = [_by_row(each) for each in gradients]

    slope, dx, da = torch.empty_like(low), None, None  # [1, tokens, P * rank]
    if wants_x or wants_a:
        for part, (each, b_p) in enumerate(zip(steep, b, strict=True)):
            mine = slice(part * rank, (part + 1) * rank)
            gained = None if gain is None else gain[:, mine]
            _shrink(each, b_p, 2, segments, dtype, gained, into=slope[..., mine])
    if wants_x:
        dx = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        _expand([dx], None, slope, [a], 1, segments, dtype)
    if wants_a:
        da = torch.empty_like(a, memory_format=torch.contiguous_format)
        _gradient(da, 1, slope, x, segments, dtype)
    db: list[Tensor | None] = [None] * len(b)
    for part, b_p in enumerate(b):
        if wants_b[part]:
            db[part] = into = torch.empty_like(b_p, memory_format=torch.contiguous_format)
            _gradient(into, 2, low[..., part * rank : (part + 1) * rank], steep[part], segments, dtype)
    return [dx, da, *db]


# Launching. A weight is A, [slots, ranks, width], or B, [slots, width, ranks]; ``axis`` is where its ranks
# are. ``low`` is [splits, tokens, ranks]: partial sums of the low-rank states, by place in the sorted order.


def _shrink(
    x: Tensor,
    weight: Tensor,
    axis: int,
    segments: Segments,
    dtype: torch.dtype,
    gain: Tensor | None,
    splits: int = 1,
    into: Tensor | None = None,
) -> Tensor:
    tokens, width = x.shape
    ranks = weight.shape[axis]
    weight = weight.contiguous()
    if into is None:
        partial = dtype if splits == 1 else torch.float32
        into = torch.empty(splits, tokens, ranks, dtype=partial, device=x.device)
    columns, step = _block(ranks, 128), 128 // dtype.itemsize
    span = step * triton.cdiv(width, step * splits)
    _shrink_kernel[(len(segments.tiles), triton.cdiv(ranks, columns), splits)](
        into, x, weight, gain, segments.order, segments.bounds, segments.tiles,
        len(segments.scales) - 1, width, ranks, span, 0 if gain is None else gain.stride(0),
        into.stride(0), into.stride(1), x.stride(0), weight.stride(axis), weight.stride(3 - axis),
        ROWS=segments.block, COLUMNS=columns, STEP=step, DTYPE=DTYPES[dtype], **OPTIONS,
    )  # fmt: skip
    return into


def _expand(
    results: Sequence[Tensor],
    outputs: Sequence[Tensor] | None,
    low: Tensor,
    weights: Sequence[Tensor],
    axis: int,
    segments: Segments,
    dtype: torch.dtype,
) -> None:
    weights = [weight.contiguous() for weight in weights]
    widths = [weight.shape[3 - axis] for weight in weights]
    rank = weights[0].shape[axis]
    coarse = dtype.itemsize // 2  # fp32 goes without matrix units: large tiles would take long to compile
    # Every program reads the partial sums again: where they are many for few ranks, it writes more columns.
    columns = _block(max(widths), (256 if segments.block < 64 and rank <= 32 else 128) // coarse)
    step = _block(rank, 64 // coarse)
    added = results if outputs is None else outputs
    _expand_kernel[(len(segments.tiles), triton.cdiv(max(widths), columns), len(results))](
        tuple(results), tuple(added), tuple(weights), tuple(widths),
        tuple(each.stride(0) for each in results), tuple(each.stride(0) for each in added),
        tuple(each.stride(axis) for each in weights), tuple(each.stride(3 - axis) for each in weights),
        low, segments.scales, segments.order, segments.bounds, segments.tiles,
        len(segments.scales) - 1, rank, low.stride(0), low.stride(1),
        PROJECTIONS=len(results), SPLITS=len(low), ADD=outputs is not None, IN_PLACE=results is outputs,
        ROWS=segments.block, COLUMNS=columns, STEP=step, DTYPE=DTYPES[dtype], **OPTIONS,
    )  # fmt: skip


def _gradient(
    into: Tensor, axis: int, low: Tensor, x: Tensor, segments: Segments, dtype: torch.dtype
) -> None:
    slots, ranks, width = len(into), into.shape[axis], into.shape[3 - axis]
    ranks_block, columns = _block(ranks, 64), _block(width, 128)
    while columns > 32 and slots * triton.cdiv(ranks, ranks_block) * triton.cdiv(width, columns) < 256:
        columns //= 2  # a program goes over all rows of its adapter: few of them would leave a card idle
    rows = 32 if dtype == torch.float32 else 64
    _gradient_kernel[(slots, triton.cdiv(ranks, ranks_block), triton.cdiv(width, columns))](
        into, low, x, segments.scales, segments.order, segments.bounds,
        ranks, width, low.stride(1), x.stride(0), into.stride(axis), into.stride(3 - axis),
        ROWS=rows, RANKS=ranks_block, COLUMNS=columns, DTYPE=DTYPES[dtype], **OPTIONS,
    )  # fmt: skip


def _by_row(x: Tensor) -> Tensor:
    return x if x.stride(1) == 1 else x.contiguous()


def _block(size: int, most: int) -> int:
    return min(most, max(16, 1 << (size - 1).bit_length()))


def _splits(width: int, segments: Segments) -> int:
    """Parts of the width that shrink side by side, where tiles are too few to fill a card.

    A power of two, for each number of parts is compiled apart. The expanding programs add the parts up,
    hence not more than 512 columns are worth.
    """
    most = min(16, 256 // len(segments.tiles), width // 512)
    return 1 << (most.bit_length() - 1) if most else 1


# Kernels. Both factors of a product are masked wherever a block overhangs: what lies there may be NaN.


@triton.jit
def _shrink_kernel(
    low, x, weight, gain, order, bounds, tiles,
    slots, width, ranks, span, gain_slot,
    low_split, low_place, x_row, weight_rank, weight_width,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, STEP: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    slot = tl.load(tiles + 2 * tl.program_id(0))
    first = tl.load(tiles + 2 * tl.program_id(0) + 1)
    last = tl.load(bounds + slot + 1)
    if (slot == slots) | (first >= last):  # nobody reads the low-rank states of rows without adapter
        return
    place = first + tl.arange(0, ROWS)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    split = tl.program_id(2)
    served, real = (place < last)[:, None], (column < ranks)[None, :]
    row = tl.load(order + place, mask=place < last, other=0).to(tl.int64)
    weight += slot.to(tl.int64) * ranks * width
    stop = tl.minimum((split + 1) * span, width)

    total = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    for start in range(split * span, stop, STEP):
        at = start + tl.arange(0, STEP)
        left = tl.load(x + row[:, None] * x_row + at[None, :], mask=served & (at < stop)[None, :], other=0.0)
        right = tl.load(
            weight + at[:, None] * weight_width + column[None, :] * weight_rank,
            mask=(at < stop)[:, None] & real,
            other=0.0,
        )
        total = product(left, right, total, DTYPE)
    if gain is not None:
        total *= tl.load(gain + slot * gain_slot + column, mask=column < ranks, other=0.0)[None, :]
    into = low + split * low_split + place[:, None] * low_place + column[None, :]
    tl.store(into, total.to(low.dtype.element_ty), mask=served & real)


@triton.jit
def _expand_kernel(
    results, added, weights, widths, result_rows, added_rows, weight_ranks, weight_widths,
    low, scales, order, bounds, tiles,
    slots, rank, low_split, low_place,
    PROJECTIONS: tl.constexpr, SPLITS: tl.constexpr, ADD: tl.constexpr, IN_PLACE: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, STEP: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    slot = tl.load(tiles + 2 * tl.program_id(0))
    first = tl.load(tiles + 2 * tl.program_id(0) + 1)
    last = tl.load(bounds + slot + 1)
    if (first >= last) | (IN_PLACE & (slot == slots)):  # rows without adapter are there already
        return
    place = first + tl.arange(0, ROWS)
    served = (place < last)[:, None]
    row = tl.load(order + place, mask=place < last, other=0).to(tl.int64)[:, None]
    scale = tl.load(scales + slot)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    for projection in tl.static_range(PROJECTIONS):
        width = widths[projection]
        if (tl.program_id(2) == projection) & (tl.program_id(1) * COLUMNS < width):
            real = (column < width)[None, :]
            weight = weights[projection] + slot.to(tl.int64) * rank * width
            total = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
            if slot < slots:
                for start in range(0, rank, STEP):
                    at = start + tl.arange(0, STEP)
                    left = tl.zeros((ROWS, STEP), dtype=tl.float32)
                    for split in range(SPLITS):
                        left += tl.load(
                            low + split * low_split + place[:, None] * low_place
                            + projection * rank + at[None, :],
                            mask=served & (at < rank)[None, :],
                            other=0.0,
                        ).to(tl.float32)  # fmt: skip
                    right = tl.load(
                        weight + at[:, None] * weight_ranks[projection]
                        + column[None, :] * weight_widths[projection],
                        mask=(at < rank)[:, None] & real,
                        other=0.0,
                    )  # fmt: skip
                    total = product(left, right, total, DTYPE)
                total *= scale
            if ADD:
                base = added[projection] + row * added_rows[projection] + column[None, :]
                total += tl.load(base, mask=served & real, other=0.0).to(tl.float32)
            into = results[projection] + row * result_rows[projection] + column[None, :]
            tl.store(into, total.to(results[projection].dtype.element_ty), mask=served & real)


@triton.jit
def _gradient_kernel(
    into, low, x, scales, order, bounds,
    ranks, width, low_place, x_row, into_rank, into_width,
    ROWS: tl.constexpr, RANKS: tl.constexpr, COLUMNS: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    slot = tl.program_id(0)
    first, last = tl.load(bounds + slot), tl.load(bounds + slot + 1)
    rank = tl.program_id(1) * RANKS + tl.arange(0, RANKS)
    column = tl.program_id(2) * COLUMNS + tl.arange(0, COLUMNS)

    total = tl.zeros((RANKS, COLUMNS), dtype=tl.float32)
    for start in range(first, last, ROWS):
        place = start + tl.arange(0, ROWS)
        row = tl.load(order + place, mask=place < last, other=0).to(tl.int64)
        left = tl.load(
            low + place[None, :] * low_place + rank[:, None],
            mask=(place < last)[None, :] & (rank < ranks)[:, None],
            other=0.0,
        )
        right = tl.load(
            x + row[:, None] * x_row + column[None, :],
            mask=(place < last)[:, None] & (column < width)[None, :],
            other=0.0,
        )
        total = product(left, right, total, DTYPE)
    total *= tl.load(scales + slot)
    into += slot.to(tl.int64) * ranks * width
    tl.store(
        into + rank[:, None] * into_rank + column[None, :] * into_width,
        total.to(into.dtype.element_ty),
        mask=(rank < ranks)[:, None] & (column < width)[None, :],
    )
