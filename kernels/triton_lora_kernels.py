"""The kernels of grouped LoRA (see ``triton_lora``), which launches them.

Both factors of a product are masked wherever a block overhangs: what lies there may be NaN. Where a launch
serves several projections a program picks the tensors of its own.

Import this module only where Triton is installed.
"""

# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False
# mypy: disallow-untyped-decorators=False, disallow-untyped-calls=False

from __future__ import annotations

import triton
import triton.language as tl

from sparta_lite.kernels.triton_product import product


@triton.jit
def _of(values, part, COUNT: tl.constexpr):
    """The number at ``part`` of a tuple."""
    found = tl.where(part == 0, values[0], 0)
    for other in tl.static_range(1, COUNT):
        found += tl.where(part == other, values[other], 0)
    return found


@triton.jit
def _shrink_kernel(
    low, xs, weights, gain, order, bounds, tiles,
    widths, x_rows, slots, tokens, ranks, span, blocks,
    PROJECTIONS: tl.constexpr, AXIS: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, STEP: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    slot = tl.load(tiles + 2 * tl.program_id(0))
    first = tl.load(tiles + 2 * tl.program_id(0) + 1)
    last = tl.load(bounds + slot + 1)
    if (slot == slots) | (first >= last):  # nobody reads the low-rank states of rows without adapter
        return
    part, split = tl.program_id(1) // blocks, tl.program_id(2)
    x, weight = xs[0], weights[0]
    for other in tl.static_range(1, PROJECTIONS):
        if part == other:
            x, weight = xs[other], weights[other]
    width, x_row = _of(widths, part, PROJECTIONS), _of(x_rows, part, PROJECTIONS)
    place = first + tl.arange(0, ROWS)
    column = (tl.program_id(1) % blocks) * COLUMNS + tl.arange(0, COLUMNS)
    served, real = (place < last)[:, None], (column < ranks)[None, :]
    row = tl.load(order + place, mask=place < last, other=0).to(tl.int64)
    weight += slot.to(tl.int64) * ranks * width
    stop = tl.minimum((split + 1) * span, width)

    total = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    for start in range(split * span, stop, STEP):
        at = start + tl.arange(0, STEP)
        left = tl.load(x + row[:, None] * x_row + at[None, :], mask=served & (at < stop)[None, :], other=0.0)
        if AXIS == 1:
            right = weight + at[:, None] + column[None, :] * width
        else:
            right = weight + at[:, None] * ranks + column[None, :]
        total = product(
            left, tl.load(right, mask=(at < stop)[:, None] & real, other=0.0), total, DTYPE
        )  # fmt: skip
    column += part * ranks
    if gain is not None:
        factor = tl.load(gain + slot * PROJECTIONS * ranks + column[None, :], mask=real, other=0.0)
        total *= factor
    into = low + ((split * tokens + place) * PROJECTIONS * ranks)[:, None] + column[None, :]
    tl.store(into, total.to(low.dtype.element_ty), mask=served & real)


@triton.jit(do_not_specialize=["numbers"])
def _add_kernel(total, low, numbers, PARTS: tl.constexpr, BLOCK: tl.constexpr):
    """Partial sums, first to last."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    found = tl.zeros((BLOCK,), dtype=tl.float32)
    for part in tl.static_range(PARTS):
        found += tl.load(low + part * numbers + at, mask=at < numbers, other=0.0)
    tl.store(total + at, found.to(total.dtype.element_ty), mask=at < numbers)


@triton.jit
def _expand_kernel(
    results, added, weights, low, scales, order, bounds, tiles,
    widths, result_rows, added_rows, slots, rank, low_split, low_place,
    PROJECTIONS: tl.constexpr, AXIS: tl.constexpr, SPLITS: tl.constexpr,
    ADD: tl.constexpr, IN_PLACE: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, STEP: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    slot = tl.load(tiles + 2 * tl.program_id(0))
    first = tl.load(tiles + 2 * tl.program_id(0) + 1)
    last = tl.load(bounds + slot + 1)
    if (first >= last) | (IN_PLACE & (slot == slots)):  # rows without adapter are there already
        return
    part = tl.program_id(2)
    width = _of(widths, part, PROJECTIONS)
    if tl.program_id(1) * COLUMNS >= width:
        return
    result, base, weight = results[0], added[0], weights[0]
    for other in tl.static_range(1, PROJECTIONS):
        if part == other:
            result, base, weight = results[other], added[other], weights[other]
    place = first + tl.arange(0, ROWS)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    served, real = (place < last)[:, None], (column < width)[None, :]
    row = tl.load(order + place, mask=place < last, other=0).to(tl.int64)[:, None]
    weight += slot.to(tl.int64) * rank * width

    total = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    if slot < slots:
        for start in range(0, rank, STEP):
            at = start + tl.arange(0, STEP)
            left = tl.zeros((ROWS, STEP), dtype=tl.float32)
            states = low + place[:, None] * low_place + part * rank + at[None, :]
            for split in range(SPLITS):
                left += tl.load(
                    states + split * low_split, mask=served & (at < rank)[None, :], other=0.0
                ).to(tl.float32)  # fmt: skip
            if AXIS == 1:
                right = weight + at[:, None] * width + column[None, :]
            else:
                right = weight + at[:, None] + column[None, :] * rank
            total = product(
                left, tl.load(right, mask=(at < rank)[:, None] & real, other=0.0), total, DTYPE
            )  # fmt: skip
        total *= tl.load(scales + slot)
    if ADD:
        base += row * _of(added_rows, part, PROJECTIONS) + column[None, :]
        total += tl.load(base, mask=served & real, other=0.0).to(tl.float32)
    into = result + row * _of(result_rows, part, PROJECTIONS) + column[None, :]
    tl.store(into, total.to(result.dtype.element_ty), mask=served & real)


@triton.jit
def _gradient_kernel(
    into, low, xs, scales, order, bounds,
    widths, x_rows, ranks, low_place, blocks,
    PROJECTIONS: tl.constexpr, AXIS: tl.constexpr,
    ROWS: tl.constexpr, RANKS: tl.constexpr, COLUMNS: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    slot, part = tl.program_id(0), tl.program_id(1) // blocks
    width, x_row = _of(widths, part, PROJECTIONS), _of(x_rows, part, PROJECTIONS)
    if tl.program_id(2) * COLUMNS >= width:
        return
    first, last = tl.load(bounds + slot), tl.load(bounds + slot + 1)
    x, found = xs[0], into[0]
    for other in tl.static_range(1, PROJECTIONS):
        if part == other:
            x, found = xs[other], into[other]
    rank = (tl.program_id(1) % blocks) * RANKS + tl.arange(0, RANKS)
    column = tl.program_id(2) * COLUMNS + tl.arange(0, COLUMNS)

    total = tl.zeros((RANKS, COLUMNS), dtype=tl.float32)
    for start in range(first, last, ROWS):
        place = start + tl.arange(0, ROWS)
        row = tl.load(order + place, mask=place < last, other=0).to(tl.int64)
        left = tl.load(
            low + place[None, :] * low_place + part * ranks + rank[:, None],
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
    found += slot.to(tl.int64) * ranks * width
    if AXIS == 1:
        found += rank[:, None] * width + column[None, :]
    else:
        found += rank[:, None] + column[None, :] * ranks
    tl.store(
        found, total.to(found.dtype.element_ty), mask=(rank < ranks)[:, None] & (column < width)[None, :]
    )
