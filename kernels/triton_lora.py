"""Low-rank updates of many adapters in Triton, forward and backward.

Three kernels, each a grouped matrix product that accumulates in fp32:

    shrink     low[place] = x[row] @ W[slot].T        from the layer's width down to the ranks, times a gain
    expand     result[row] = output[row] + scale * low[place] @ W[slot].T        and up again
    gradient   dW[slot] = scale * sum over the segment of low[place] outer x[row]

The backward pass is made of the same three: the outputs' gradients shrink through B and expand through
A. One launch serves all projections of a site. Where a shrink has too few tiles to fill a card its programs
share the width; their partial sums are added in a fixed order, by the expanding programs in decoding and
by a kernel of their own in training. No kernel adds to memory that another program writes, hence equal
inputs give equal bits.

Import this module only where Triton is installed.
"""

# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False
# mypy: disallow-untyped-decorators=False, disallow-untyped-calls=False

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import torch
import triton
from torch import Tensor

from sparta_lite.kernels import choice
from sparta_lite.kernels.lora import gradients_by_torch
from sparta_lite.kernels.segments import Segments
from sparta_lite.kernels.triton_launch import Launch, addresses, settle, settled
from sparta_lite.kernels.triton_lora_kernels import (
    _add_kernel,
    _expand_kernel,
    _gradient_kernel,
    _shrink_kernel,
)
from sparta_lite.kernels.triton_product import DTYPES, OPTIONS

_PROGRAMS = 264
"""Twice the processors of the largest card in question: with fewer programs some of it idles."""


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
    low = _shrink((_by_row(x),), (a,), 1, segments, dtype, gain, parted=True)
    _expand(outputs, outputs, low, b, 2, segments, dtype)
    return list(outputs)


class _GroupedLora(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, segments: Segments, gain: Tensor | None, x: Tensor, a: Tensor, *others: Tensor
    ) -> tuple[Tensor, ...]:
        outputs, b = others[: len(others) // 2], others[len(others) // 2 :]
        x, dtype = _by_row(x), outputs[0].dtype
        low = _shrink((x,), (a,), 1, segments, dtype, gain)
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
    dtype = low.dtype
    steep = tuple(map(_by_row, gradients))

    dx, da = None, None
    if wants_x or wants_a:
        slope = _shrink(steep, b, 2, segments, dtype, gain)  # [1, tokens, P * rank]
        if wants_x:
            dx = torch.empty(x.shape, dtype=x.dtype, device=x.device)
            _expand((dx,), None, slope, (a,), 1, segments, dtype)
        if wants_a:
            da = torch.empty(a.shape, dtype=a.dtype, device=a.device)
            _gradient((da,), 1, slope, (x,), segments, dtype)
    db: list[Tensor | None] = [None] * len(b)
    if all(wants_b):
        room = [torch.empty(each.shape, dtype=each.dtype, device=each.device) for each in b]
        _gradient(room, 2, low, steep, segments, dtype)
        db = [*room]
    elif any(wants_b):
        rank = b[0].shape[2]
        for part, b_p in enumerate(b):
            if wants_b[part]:
                db[part] = into = torch.empty(b_p.shape, dtype=b_p.dtype, device=b_p.device)
                mine = low[..., part * rank : (part + 1) * rank]
                _gradient((into,), 2, mine, steep[part : part + 1], segments, dtype)
    return [dx, da, *db]


# Launching. A weight is A, [slots, ranks, width], or B, [slots, width, ranks]; ``axis`` is where its ranks
# are. ``low`` is [parts, tokens, ranks]: partial sums of the low-rank states, by place in the sorted order.


def _shrink(
    xs: Sequence[Tensor],
    weights: Sequence[Tensor],
    axis: int,
    segments: Segments,
    dtype: torch.dtype,
    gain: Tensor | None,
    parted: bool = False,
) -> Tensor:
    """The low-rank states of every x through its weight, ranks side by side; ``parted``: as partial sums."""
    weights = [weight.contiguous() for weight in weights]
    bank = weights[0].dtype
    key = (
        id(_shrink_kernel), axis, dtype, bank, parted, segments.key, gain is None, xs[0].dtype,
        *[(x.shape, x.stride()) for x in xs], *[weight.shape for weight in weights],
    )  # fmt: skip
    launch = settled(key)
    if launch is None:
        slots, ranks = len(weights[0]), weights[0].shape[axis]
        columns, step = _block(ranks, 128), 128 // dtype.itemsize
        blocks, widest = triton.cdiv(ranks, columns), max(x.shape[1] for x in xs)
        programs = len(segments.tiles) * blocks * len(xs)
        parts = _few_parts(widest, segments) if parted else _parts(widest, programs)
        warps = 8 if segments.block * columns >= 8192 else 4
        launch = settle(
            key, _shrink_kernel, (len(segments.tiles), blocks * len(xs), parts),
            (
                tuple(x.shape[1] for x in xs), tuple(x.stride(0) for x in xs), slots, len(xs[0]), ranks,
                step * triton.cdiv(widest, step * parts), blocks,
                len(xs), axis, segments.block, columns, step, DTYPES[dtype],
            ),
            shape=(parts, len(xs[0]), len(xs) * ranks), num_warps=warps, **OPTIONS,
        )  # fmt: skip
    low = torch.empty(
        launch.shape, dtype=dtype if launch.shape[0] == 1 else torch.float32, device=xs[0].device
    )
    launch(
        addresses((*xs, *weights) if gain is None else (*xs, *weights, gain)),
        low, tuple(xs), tuple(weights), gain,
        segments.order, segments.bounds, segments.tiles,
    )  # fmt: skip
    return low if parted or launch.shape[0] == 1 else _add_parts(low, dtype)


def _add_parts(low: Tensor, dtype: torch.dtype) -> Tensor:
    """[parts, tokens, ranks] fp32 -> [1, tokens, ranks]."""
    key = id(_add_kernel), low.shape, dtype
    launch = settled(key)
    if launch is None:
        numbers = low[0].numel()
        grid = (triton.cdiv(numbers, 1024),)
        launch = settle(
            key, _add_kernel, grid, (numbers, len(low), 1024), shape=(1, *low.shape[1:]), **OPTIONS
        )
    total = torch.empty(launch.shape, dtype=dtype, device=low.device)
    launch(0, total, low)
    return total


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
    added = results if outputs is None else outputs
    in_place = results is outputs
    key = (
        id(_expand_kernel), axis, dtype, weights[0].dtype, low.shape, low.dtype, segments.key,
        outputs is None,
        *[(each.shape, each.stride(), each.dtype) for each in added],
        *[weight.shape for weight in weights], *([] if in_place else [each.stride() for each in results]),
    )  # fmt: skip
    launch = settled(key)
    if launch is None:
        launch = _settle_expand(key, results, outputs, low, weights, axis, segments, dtype)
    launch(
        addresses((*added, *weights, low)), tuple(results), tuple(added), tuple(weights), low,
        segments.scales, segments.order, segments.bounds, segments.tiles,
    )  # fmt: skip


def _settle_expand(
    key: Hashable,
    results: Sequence[Tensor],
    outputs: Sequence[Tensor] | None,
    low: Tensor,
    weights: Sequence[Tensor],
    axis: int,
    segments: Segments,
    dtype: torch.dtype,
) -> Launch:
    widths = tuple(weight.shape[3 - axis] for weight in weights)
    rank = weights[0].shape[axis]
    coarse = dtype.itemsize // 2  # fp32 goes without matrix units: large tiles would take long to compile
    # Every program reads the partial sums again: where they are many for few ranks, it writes more columns.
    columns = _block(max(widths), (256 if segments.block < 64 and rank <= 32 else 128) // coarse)
    step = _block(rank, (32 if segments.block == 64 else 64) // coarse)  # 64 by 64 would spill registers
    warps = 8 if segments.block * columns * coarse >= 8192 else 4
    added = results if outputs is None else outputs
    return settle(
        key, _expand_kernel, (len(segments.tiles), triton.cdiv(max(widths), columns), len(results)),
        (
            widths, tuple(each.stride(0) for each in results), tuple(each.stride(0) for each in added),
            len(segments.scales) - 1, rank, low.stride(0), low.stride(1),
            len(results), axis, len(low), outputs is not None, results is outputs,
            segments.block, columns, step, DTYPES[dtype],
        ),
        num_warps=warps, **OPTIONS,
    )  # fmt: skip


def _gradient(
    into: Sequence[Tensor],
    axis: int,
    low: Tensor,
    xs: Sequence[Tensor],
    segments: Segments,
    dtype: torch.dtype,
) -> None:
    """Every ``into`` from its x and its share of the ranks in ``low``."""
    key = (
        id(_gradient_kernel), axis, dtype, into[0].dtype, low.stride(), low.dtype, segments.key, xs[0].dtype,
        *[(x.shape, x.stride()) for x in xs], *[each.shape for each in into],
    )  # fmt: skip
    launch = settled(key)
    if launch is None:
        slots, ranks = len(into[0]), into[0].shape[axis]
        widths = tuple(x.shape[1] for x in xs)
        ranks_block, columns = _block(ranks, 64), _block(max(widths), 128)
        blocks = triton.cdiv(ranks, ranks_block)
        while columns > 32 and slots * len(xs) * blocks * triton.cdiv(max(widths), columns) < 256:
            columns //= 2  # a program goes over all rows of its adapter: few of them would leave a card idle
        launch = settle(
            key, _gradient_kernel, (slots, blocks * len(xs), triton.cdiv(max(widths), columns)),
            (
                widths, tuple(x.stride(0) for x in xs), ranks, low.stride(1), blocks,
                len(xs), axis, 32 if dtype == torch.float32 else 64, ranks_block, columns, DTYPES[dtype],
            ),
            **OPTIONS,
        )  # fmt: skip
    launch(
        addresses((low, *xs)), tuple(into), low, tuple(xs), segments.scales, segments.order, segments.bounds
    )


def _by_row(x: Tensor) -> Tensor:
    return x if x.stride(1) == 1 else x.contiguous()


def _block(size: int, most: int) -> int:
    return min(most, max(16, 1 << (size - 1).bit_length()))


def _few_parts(width: int, segments: Segments) -> int:
    """Parts of the width that shrink side by side where the expanding programs add them up, each anew.

    A power of two, for each number of parts is compiled apart; not more than 512 columns are worth.
    """
    most = min(16, 256 // len(segments.tiles), width // 512)
    return 1 << (most.bit_length() - 1) if most else 1


def _parts(width: int, programs: int) -> int:
    """The same where a kernel of its own adds them up: as many as fill a card."""
    most = min(16, width // 512)
    wanted = -(-_PROGRAMS // programs)
    return min(1 << (wanted - 1).bit_length(), 1 << (most.bit_length() - 1)) if most else 1
