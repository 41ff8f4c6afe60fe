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

import torch
import triton
import triton.language as tl
from torch import Tensor

from sparta_lite.kernels.nf4 import BLOCK, SCALES_BLOCK, Nf4
from sparta_lite.kernels.triton_product import DTYPES, product

_BLOCK, _SCALES_BLOCK = tl.constexpr(BLOCK), tl.constexpr(SCALES_BLOCK)


def nf4_linear(x: Tensor, weight: Nf4, bias: Tensor | None = None) -> Tensor:
    """x @ weight.T + bias, without gradients. Factors are in the dtype of ``x``, sums in fp32.

    Nothing waits for the device, and what is launched depends on shapes alone: a CUDA graph may hold it.

    Args:
        x: [tokens, in]: bfloat16, float16 or float32.
        weight: [out, in], on the same device.
        bias: [out].

    Returns:
        [tokens, out] in the dtype of ``x``.

    Raises:
        ValueError: the width is another than the matrix's, or does not divide by 64.
    """
    (tokens, width), outputs = x.shape, weight.outputs
    if width != weight.width or width % BLOCK:
        raise ValueError(
            f"{width} inputs for a matrix of {weight.width}; both must be one multiple of {BLOCK}"
        )
    result = torch.empty(tokens, outputs, dtype=x.dtype, device=x.device)
    if not tokens:
        return result
    x, scales = x.contiguous(), weight.eight_bit
    rows, columns = _tile(tokens, x.dtype)
    down, across = triton.cdiv(tokens, rows), triton.cdiv(outputs, columns)
    splits = _splits(down * across, rows, width)
    span = BLOCK * triton.cdiv(width, BLOCK * splits)
    sums = result if splits == 1 else x.new_empty(splits, tokens, outputs, dtype=torch.float32)
    _linear_kernel[(down, across, splits)](
        sums, x, weight.packed.view(torch.int32), weight.code, weight.absmax,
        weight.code if scales is None else scales.code,
        weight.code if scales is None else scales.absmax,
        weight.code if scales is None else scales.offset,
        x if bias is None else bias,
        tokens, outputs, width, span,
        EIGHT_BIT=scales is not None, BIASED=bias is not None and splits == 1,
        ROWS=rows, COLUMNS=columns, DTYPE=DTYPES[x.dtype],
        num_warps=8, num_stages=4, enable_fp_fusion=False,  # a scale in 8 bits rounds twice, as there
    )  # fmt: skip
    if splits > 1:
        _sum_kernel[(tokens, triton.cdiv(outputs, 512))](
            result, sums, x if bias is None else bias, tokens, outputs,
            SPLITS=splits, BIASED=bias is not None, COLUMNS=512, enable_fp_fusion=False,
        )  # fmt: skip
    return result


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
    sums, x, packed, code, absmax, scale_code, scale_absmax, scale_offset, bias,
    tokens, outputs, width, span,
    EIGHT_BIT: tl.constexpr, BIASED: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """One tile of the result, or its partial sum over one part of the width."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    split = tl.program_id(2)
    served, real = row < tokens, column < outputs
    stop = tl.minimum((split + 1) * span, width)
    line = column.to(tl.int64) * (width // _BLOCK)  # the first block of each of the matrix's rows
    offset = tl.load(scale_offset) if EIGHT_BIT else 0.0
    table = tl.load(code + tl.arange(0, 16))

    total = tl.zeros((COLUMNS, ROWS), dtype=tl.float32)
    for start in range(split * span, stop, _BLOCK):
        block = line + start // _BLOCK
        words = tl.load(
            packed + block[:, None] * (_BLOCK // 8) + tl.arange(0, _BLOCK // 8)[None, :],
            mask=real[:, None],
            other=0,
        )  # [COLUMNS, 8]
        scale = tl.load(absmax + block, mask=real, other=0)
        if EIGHT_BIT:
            fine = tl.load(scale_code + scale.to(tl.int32))
            scale = fine * tl.load(scale_absmax + block // _SCALES_BLOCK, mask=real, other=0.0) + offset
        values = tl.gather(table, tl.reshape(_unpack(words), (COLUMNS * _BLOCK,)), 0)
        left = tl.reshape(values, (COLUMNS, _BLOCK))
        left = (left * scale[:, None]).to(DTYPE)
        right = tl.load(
            x + row.to(tl.int64)[None, :] * width + (start + tl.arange(0, _BLOCK))[:, None],
            mask=served[None, :],
            other=0.0,
        )  # [64, ROWS]
        total = product(left, right, total, DTYPE)
    if BIASED:
        total += tl.load(bias + column, mask=real, other=0.0).to(tl.float32)[:, None]
    into = sums + (split * tokens + row).to(tl.int64)[None, :] * outputs + column[:, None]
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
def _sum_kernel(
    result, sums, bias, tokens, outputs, SPLITS: tl.constexpr, BIASED: tl.constexpr, COLUMNS: tl.constexpr
):
    """Partial sums [SPLITS, tokens, outputs], first to last, for part of one row."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    real = column < outputs
    total = tl.zeros((COLUMNS,), dtype=tl.float32)
    for split in tl.static_range(SPLITS):
        total += tl.load(sums + (split * tokens + row) * outputs + column, mask=real, other=0.0)
    if BIASED:
        total += tl.load(bias + column, mask=real, other=0.0).to(tl.float32)
    tl.store(result + row * outputs + column, total.to(result.dtype.element_ty), mask=real)
