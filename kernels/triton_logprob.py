"""Log-probabilities of given tokens under a frozen linear head, in Triton, without logits in memory.

Values come from one kernel that goes over the vocabulary in tiles and keeps each row's running maximum
and sum. A logit is never rounded: it leaves the product in fp32. The derivative takes the product again,
for a chunk of rows at a time, and stores softmax alone, in the dtype of ``hidden``. No kernel adds to
memory that another program writes, hence equal inputs give equal bits.

Import this module only where Triton is installed.
"""

# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False
# mypy: disallow-untyped-decorators=False, disallow-untyped-calls=False

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from sparta_lite.kernels import choice
from sparta_lite.kernels.logprob import by_torch
from sparta_lite.kernels.triton_product import DTYPES, OPTIONS, product


def token_logprobs(
    hidden: Tensor,
    head: Tensor,
    targets: Tensor,
    chunk: int = 256,
    bias: Tensor | None = None,
    softcap: float | None = None,
) -> Tensor:
    """``kernels.logprob.token_logprobs``; rows of ``hidden`` may lie apart.

    ``chunk`` rows' logits in fp32 with what torch makes of them are 12 bytes a number; here softmax
    alone exists in the backward pass, for as many rows as take 8.
    """
    result: Tensor = _TokenLogprobs.apply(hidden, head, targets, chunk, bias, softcap)
    return result


class _TokenLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        head: Tensor,
        targets: Tensor,
        chunk: int,
        bias: Tensor | None,
        softcap: float | None,
    ) -> Tensor:
        hidden, head = _by_row(hidden), _by_row(head)
        (tokens, width), vocabulary = hidden.shape, len(head)
        rows, columns, step, warps = _tile(hidden)
        blocks = triton.cdiv(tokens, rows)
        # Where rows are too few to fill a card, several programs share the vocabulary of each.
        share = columns * max(4, triton.cdiv(vocabulary, columns * max(1, 512 // max(blocks, 1))))
        parts = triton.cdiv(vocabulary, share)
        totals = torch.empty(parts, tokens, dtype=torch.float32, device=hidden.device)
        chosen = torch.empty(tokens, dtype=torch.float32, device=hidden.device)  # the targets' logits
        if tokens:
            _total_kernel[(blocks, parts)](
                totals, chosen, hidden, head, hidden if bias is None else bias, targets,
                tokens, vocabulary, width, share, hidden.stride(0), head.stride(0), softcap or 0.0,
                BIASED=bias is not None, CAPPED=softcap is not None, ROWS=rows, COLUMNS=columns, STEP=step,
                DTYPE=DTYPES[hidden.dtype], num_warps=warps, **OPTIONS,
            )  # fmt: skip
        total = totals.logsumexp(dim=0)
        ctx.chunk, ctx.softcap, ctx.rows = chunk, softcap, 8 // hidden.dtype.itemsize * chunk
        ctx.save_for_backward(hidden, head, targets, bias, total)
        return chosen - total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None, None, None]:
        hidden, head, targets, bias, total = ctx.saved_tensors
        slope = choice.attempt(
            lambda: _slope(hidden, head, targets, bias, ctx.softcap, total, ctx.rows),
            lambda: _plain_slope(hidden, head, targets, bias, ctx.softcap, ctx.chunk),
        )
        return slope.mul_(gradients[0][:, None]), None, None, None, None, None


def _slope(
    hidden: Tensor,
    head: Tensor,
    targets: Tensor,
    bias: Tensor | None,
    softcap: float | None,
    total: Tensor,
    chunk: int,
) -> Tensor:
    """The derivative of every row's result in the row, [tokens, hidden]; ``total``: log sum exp, [tokens]."""
    (tokens, width), vocabulary = hidden.shape, len(head)
    rows, columns, step, warps = _tile(hidden)
    slope = torch.empty(tokens, width, dtype=hidden.dtype, device=hidden.device)
    for start in range(0, tokens, chunk):
        x = hidden[start : start + chunk]
        weights = torch.empty(len(x), vocabulary, dtype=x.dtype, device=x.device)
        _slope_kernel[(triton.cdiv(len(x), rows), triton.cdiv(vocabulary, columns))](
            weights, x, head, hidden if bias is None else bias, targets[start:], total[start:],
            len(x), vocabulary, width, hidden.stride(0), head.stride(0), softcap or 0.0,
            BIASED=bias is not None, CAPPED=softcap is not None, ROWS=rows, COLUMNS=columns, STEP=step,
            DTYPE=DTYPES[x.dtype], num_warps=warps, **OPTIONS,
        )  # fmt: skip
        torch.mm(weights, head, out=slope[start : start + chunk])
    return slope


def _plain_slope(
    hidden: Tensor, head: Tensor, targets: Tensor, bias: Tensor | None, softcap: float | None, chunk: int
) -> Tensor:
    with torch.enable_grad():
        leaf = hidden.detach().requires_grad_()
        (slope,) = torch.autograd.grad(by_torch(leaf, head, targets, chunk, bias, softcap).sum(), leaf)
    return slope


def _by_row(x: Tensor) -> Tensor:
    return x if x.stride(1) == 1 else x.contiguous()


def _tile(hidden: Tensor) -> tuple[int, int, int, int]:
    """Rows, tokens of the vocabulary, step along the width and warps of one program."""
    if hidden.dtype.itemsize == 4:
        return 32, 64, 32, 4
    rows = min(128, max(16, 1 << (len(hidden) - 1).bit_length()))
    return rows, 128, 64, 8 if rows == 128 else 4


@triton.jit
def _logits(
    hidden, head, bias, row, token, tokens, vocabulary, width, hidden_row, head_row, softcap,
    BIASED: tl.constexpr, CAPPED: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    STEP: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """Logits of some rows for some tokens, [ROWS, COLUMNS] fp32; -inf behind the vocabulary's end."""
    left = hidden + row.to(tl.int64)[:, None] * hidden_row
    right = head + token.to(tl.int64)[None, :] * head_row
    logits = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    for start in range(0, width, STEP):
        at = start + tl.arange(0, STEP)
        logits = product(
            tl.load(left + at[None, :], mask=(row < tokens)[:, None] & (at < width)[None, :], other=0.0),
            tl.load(
                right + at[:, None], mask=(at < width)[:, None] & (token < vocabulary)[None, :], other=0.0
            ),
            logits,
            DTYPE,
        )
    if BIASED:
        logits += tl.load(bias + token, mask=token < vocabulary, other=0.0).to(tl.float32)[None, :]
    if CAPPED:  # tanh(x) = 1 - 2 / (exp(2 x) + 1)
        logits = softcap - 2 * softcap / (tl.exp(logits * (2 / softcap)) + 1)
    return tl.where((token < vocabulary)[None, :], logits, float("-inf"))


@triton.jit(do_not_specialize=["tokens"])
def _total_kernel(
    totals, chosen, hidden, head, bias, targets,
    tokens, vocabulary, width, share, hidden_row, head_row, softcap,
    BIASED: tl.constexpr, CAPPED: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    STEP: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """log sum exp over one part of the vocabulary, and the target's logit where it lies in that part."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    first = tl.program_id(1) * share
    last = tl.minimum(first + share, vocabulary)
    target = tl.load(targets + row, mask=row < tokens, other=0)
    highest = tl.full((ROWS,), float("-inf"), dtype=tl.float32)
    total = tl.zeros((ROWS,), dtype=tl.float32)
    wanted = tl.zeros((ROWS,), dtype=tl.float32)
    for start in range(first, last, COLUMNS):
        token = start + tl.arange(0, COLUMNS)
        logits = _logits(
            hidden, head, bias, row, token, tokens, vocabulary, width, hidden_row, head_row, softcap,
            BIASED, CAPPED, ROWS, COLUMNS, STEP, DTYPE,
        )  # fmt: skip
        wanted += tl.sum(tl.where(token[None, :] == target[:, None], logits, 0.0), axis=1)
        higher = tl.maximum(highest, tl.max(logits, axis=1))
        total = total * tl.exp(highest - higher) + tl.sum(tl.exp(logits - higher[:, None]), axis=1)
        highest = higher
    tl.store(totals + tl.program_id(1) * tokens + row, highest + tl.log(total), mask=row < tokens)
    tl.store(chosen + row, wanted, mask=(row < tokens) & (target >= first) & (target < last))


@triton.jit(do_not_specialize=["tokens"])
def _slope_kernel(
    weights, hidden, head, bias, targets, totals,
    tokens, vocabulary, width, hidden_row, head_row, softcap,
    BIASED: tl.constexpr, CAPPED: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    STEP: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """The derivative of a row's result in its logits: 1 at the target, less softmax everywhere."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    token = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    logits = _logits(
        hidden, head, bias, row, token, tokens, vocabulary, width, hidden_row, head_row, softcap,
        BIASED, CAPPED, ROWS, COLUMNS, STEP, DTYPE,
    )  # fmt: skip
    total = tl.load(totals + row, mask=row < tokens, other=0.0)
    target = tl.load(targets + row, mask=row < tokens, other=0)
    slope = tl.where(token[None, :] == target[:, None], 1.0, 0.0) - tl.exp(logits - total[:, None])
    if CAPPED:  # and of the logits in what the cap takes them from
        tanh = tl.where((token < vocabulary)[None, :], logits, 0.0) / softcap
        slope *= 1 - tanh * tanh
    into = weights + row.to(tl.int64)[:, None] * vocabulary + token[None, :]
    tl.store(
        into, slope.to(weights.dtype.element_ty), mask=(row < tokens)[:, None] & (token < vocabulary)[None, :]
    )
