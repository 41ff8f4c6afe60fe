"""A linear layer over a matrix in NF4, in Triton, without the unpacked matrix in memory.

Meant for a few dozen to a few hundred tokens, where reading the matrix still is most of the work: 4 bits a
number, against those and twice 16 for a product that has the matrix unpacked first.

- The matrix is the left factor, ``W @ x.T``: a card's matrix units take that one from registers (on
  Hopper that one alone), where its numbers arise. The right one, x, streams through shared memory.
- A byte's two numbers are neighbours along the width, and so are the two halves of a register of the left
  factor: unpacking interleaves them in place, and x is read as it lies.
- The 16 values are gathered from a register's worth of them: one load from shared memory a number, in which
  16 values lie in 16 banks and no two threads wait for each other. In the compiled code loads from a table
  became asynchronous copies of 4 bytes each, and a tree of selects took ten operations a number.
- Every number is rounded as bitsandbytes unpacks it: fp32 value times fp32 scale, then the product's dtype.
- Where tiles of the result are too few to fill a card, programs share the width; their partial sums are
  added in a fixed order by a second kernel. Equal inputs give equal bits.

Import this module only where Triton is installed. The kernels compile for Hopper and Ada without spilling
registers; they are not yet run on a GPU.
"""

# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False
# mypy: disallow-untyped-decorators=False, disallow-untyped-calls=False

from __future__ import annotations

from collections.abc import Hashable, Sequence
from itertools import accumulate

import torch
import triton
import triton.language as tl
from torch import Tensor

from sparta_lite.kernels.nf4 import BLOCK, SCALES_BLOCK, Nf4
from sparta_lite.kernels.triton_launch import Launch, addresses, settle, settled
from sparta_lite.kernels.triton_product import DTYPES, capability, product

_BLOCK, _SCALES_BLOCK = tl.constexpr(BLOCK), tl.constexpr(SCALES_BLOCK)


def nf4_linear(x: Tensor, weights: Nf4 | Sequence[Nf4], bias: Tensor | None = None) -> Tensor:
    """x @ weight.T + bias, without gradients. Factors are in the dtype of ``x``, sums in fp32.

    Several matrices of one input (q, k, v; gate, up) share one launch, which fills a card better.
    Nothing waits for the device, and what is launched depends on shapes alone: a CUDA graph may hold it.

    Args:
        x: [tokens, in]: bfloat16, float16 or float32.
        weights: one or several [out_p, in], on the same device; all or none of them with scales in 8 bits.
        bias: [sum of out_p].

    Returns:
        [tokens, sum of out_p] in the dtype of ``x``, one matrix's outputs behind the other's.

    Raises:
        ValueError: the width is another than a matrix's, or does not divide by 64; scales are of two kinds.
    """
    weights = [weights] if isinstance(weights, Nf4) else weights
    tokens, width = x.shape
    eight_bit = weights[0].eight_bit is not None
    key = (
        id(_linear_kernel), tokens, width, x.dtype, eight_bit, None if bias is None else bias.dtype,
        *[weight.outputs for weight in weights], *[weight.width for weight in weights],
    )  # fmt: skip
    launch = settled(key) or _settle_linear(key, x, weights, bias)
    splits, _, outputs = launch.shape
    result = torch.empty(tokens, outputs, dtype=x.dtype, device=x.device)
    if not tokens:
        return result
    x = x.contiguous()
    sums = result if splits == 1 else torch.empty(launch.shape, dtype=torch.float32, device=x.device)
    pointers = tuple(zip(*[_pointers(weight) for weight in weights], strict=True))
    flat = [each for kind in pointers for each in kind]
    launch(
        addresses((x, *flat) if bias is None else (x, bias, *flat)),
        sums, x, *pointers, bias if splits == 1 else None,
    )  # fmt: skip
    if splits > 1:
        _add_parts(result, sums, bias)
    return result


def _pointers(weight: Nf4) -> tuple[Tensor, ...]:
    scales = weight.eight_bit
    if scales is None:
        return weight.words, weight.code, weight.absmax, weight.code, weight.code, weight.code
    return weight.words, weight.code, weight.absmax, scales.code, scales.absmax, scales.offset


def _settle_linear(key: Hashable, x: Tensor, weights: Sequence[Nf4], bias: Tensor | None) -> Launch:
    tokens, width = x.shape
    for weight in weights:
        if width != weight.width or width % BLOCK:
            raise ValueError(
                f"{width} inputs for a matrix of {weight.width}; both must be one multiple of {BLOCK}"
            )
        if (weight.eight_bit is None) != (weights[0].eight_bit is None):
            raise ValueError("scales of one matrix are in 8 bits, those of another are not")
    if max(tokens, *(weight.outputs for weight in weights)) * width >= 2**31:
        raise ValueError(f"{tokens} tokens of {width} inputs are too many: places are counted in 32 bits")
    rows, columns = _tile(tokens, x.dtype)
    down = max(1, triton.cdiv(tokens, rows))
    outputs = [weight.outputs for weight in weights]
    tiles = [triton.cdiv(each, columns) for each in outputs]
    splits = _splits(down * sum(tiles), rows, width)
    # With so many registers two programs fit on a processor of Hopper: one works while the other waits. On
    # Ada shared memory leaves room for one alone.
    limit = {"maxnreg": 128} if rows == 128 and capability() >= 90 else {}
    return settle(
        key, _linear_kernel, (down, sum(tiles), splits),
        (
            tuple(outputs), tuple(accumulate(tiles)), tuple(accumulate(outputs)),
            tokens, sum(outputs), width, BLOCK * triton.cdiv(width, BLOCK * splits),
            len(weights), weights[0].eight_bit is not None, rows, columns, DTYPES[x.dtype],
        ),
        shape=(splits, tokens, sum(outputs)), num_warps=8, num_stages=4, **limit,
        enable_fp_fusion=False,  # a scale in 8 bits rounds twice, as in bitsandbytes
    )  # fmt: skip


def _add_parts(result: Tensor, sums: Tensor, bias: Tensor | None) -> None:
    key = id(_sum_kernel), sums.shape, result.dtype, None if bias is None else bias.dtype
    launch = settled(key)
    if launch is None:
        splits, tokens, outputs = sums.shape
        launch = settle(
            key, _sum_kernel, (tokens, triton.cdiv(outputs, 512)), (tokens, outputs, splits, 512),
            enable_fp_fusion=False,
        )  # fmt: skip
    launch(0 if bias is None else bias.data_ptr(), result, sums, bias)


def _tile(tokens: int, dtype: torch.dtype) -> tuple[int, int]:
    """Tokens and outputs of one program."""
    if dtype.itemsize == 4:  # goes without matrix units: large tiles would take long to compile
        return 16, 32
    # The matrix is unpacked once per tile of tokens, x read once per tile of outputs.
    return min(128, max(16, 1 << (tokens - 1).bit_length())), 128


def _splits(tiles: int, rows: int, width: int) -> int:
    """Parts of the width that are summed side by side, each of four blocks or more.

    The cards in question have 128 or 132 processors. With few rows each gets two programs; with many one has
    to be enough, for the partial sums would be much of the traffic.
    """
    programs = 256 if rows <= 32 else 128
    return max(1, min(8, programs // tiles, width // (4 * BLOCK)))


@triton.jit(do_not_specialize=["tokens"])
def _linear_kernel(
    sums, x, packeds, codes, absmaxs, scale_codes, scale_absmaxs, scale_offsets, bias,
    heights, tiles, ends, tokens, total_outputs, width, span,
    MATRICES: tl.constexpr, EIGHT_BIT: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """One tile of the result, or its partial sum over one part of the width.

    ``tiles`` and ``ends`` are where each matrix's tiles and outputs end among those of all.
    """
    packed, code, absmax = packeds[0], codes[0], absmaxs[0]
    scale_code, scale_absmax, scale_offset = scale_codes[0], scale_absmaxs[0], scale_offsets[0]
    tile, split = tl.program_id(1), tl.program_id(2)
    outputs, begin, before = tl.where(tile >= 0, heights[0], 0), 0, 0
    for other in tl.static_range(1, MATRICES):
        if tile >= tiles[other - 1]:
            packed, code, absmax = packeds[other], codes[other], absmaxs[other]
            scale_code, scale_absmax = scale_codes[other], scale_absmaxs[other]
            scale_offset = scale_offsets[other]
        outputs = tl.where(tile >= tiles[other - 1], heights[other], outputs)
        begin = tl.where(tile >= tiles[other - 1], ends[other - 1], begin)
        before = tl.where(tile >= tiles[other - 1], tiles[other - 1], before)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = (tile - before) * COLUMNS + tl.arange(0, COLUMNS)
    served, real = row < tokens, column < outputs
    stop = tl.minimum((split + 1) * span, width)
    # What overhangs reads the last row again, and is not stored: masks would take registers in the loop.
    line = tl.minimum(column, outputs - 1) * (width // _BLOCK)  # the first block of each of the matrix's rows
    inputs = x + tl.minimum(row, tokens - 1)[None, :] * width
    offset = tl.load(scale_offset) if EIGHT_BIT else 0.0
    table = tl.load(code + tl.arange(0, 16))

    total = tl.zeros((COLUMNS, ROWS), dtype=tl.float32)
    for start in range(split * span, stop, _BLOCK):
        block = line + start // _BLOCK
        words = tl.load(
            packed + block[:, None] * (_BLOCK // 8) + tl.arange(0, _BLOCK // 8)[None, :]
        )  # [COLUMNS, 8]
        scale = tl.load(absmax + block)
        if EIGHT_BIT:
            fine = tl.load(scale_code + scale.to(tl.int32))
            scale = fine * tl.load(scale_absmax + block // _SCALES_BLOCK) + offset
        values = tl.gather(table, tl.reshape(_unpack(words), (COLUMNS * _BLOCK,)), 0)
        left = tl.reshape(values, (COLUMNS, _BLOCK))
        left = (left * scale[:, None]).to(DTYPE)
        right = tl.load(inputs + (start + tl.arange(0, _BLOCK))[:, None])  # [64, ROWS]
        total = product(left, right, total, DTYPE)
    if bias is not None:
        total += tl.load(bias + begin + column, mask=real, other=0.0).to(tl.float32)[:, None]
    into = sums + (split * tokens + row).to(tl.int64)[None, :] * total_outputs + begin + column[:, None]
    tl.store(into, total.to(sums.dtype.element_ty), mask=served[None, :] & real[:, None])


@triton.jit
def _unpack(words):
    """The eight numbers in each of some words, [...] -> [..., 2, 2, 2].

    Bytes go from a word's low end up, a byte's high half comes first. Every join adds an axis at the end.
    """
    even = tl.join(tl.join(words >> 4, words >> 20), tl.join(words >> 12, words >> 28))
    odd = tl.join(tl.join(words, words >> 16), tl.join(words >> 8, words >> 24))
    return tl.join(even, odd) & 15


@triton.jit(do_not_specialize=["tokens"])
def _sum_kernel(result, sums, bias, tokens, outputs, SPLITS: tl.constexpr, COLUMNS: tl.constexpr):
    """Partial sums [SPLITS, tokens, outputs], first to last, for part of one row."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    real = column < outputs
    total = tl.zeros((COLUMNS,), dtype=tl.float32)
    for split in tl.static_range(SPLITS):
        total += tl.load(sums + (split * tokens + row) * outputs + column, mask=real, other=0.0)
    if bias is not None:
        total += tl.load(bias + column, mask=real, other=0.0).to(tl.float32)
    tl.store(result + row * outputs + column, total.to(result.dtype.element_ty), mask=real)
