"""Delta-rule layers over sequences: what they carry on, and how one beginning serves several ends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from sparta_lite.engine.mixing import DeltaSpec
from sparta_lite.kernels.delta import convolve, gated_delta, gated_delta_step


@dataclass(frozen=True)
class Carried:
    """All that such a layer knows of the tokens so far."""

    convolution: Tensor
    """[rows, kernel - 1, channels], the newest inputs of the convolution, the last of them newest."""
    recurrent: Tensor
    """float32 [rows, value_heads, key_dim, value_dim]"""


def run(
    spec: DeltaSpec,
    qkv: Tensor,
    decay: Tensor,
    beta: Tensor,
    lengths: Tensor | None = None,
    before: Carried | None = None,
) -> tuple[Tensor, Carried]:
    """Convolution and gated delta rule over rows that are padded on the right.

    Args:
        spec: of the layer.
        qkv: [rows, length, channels].
        decay: [rows, length, value_heads], logarithms.
        beta: [rows, length, value_heads].
        lengths: int64 [rows], tokens of each row, behind which nothing touches what is carried on; None: all.
        before: what the rows go on from; None: they begin.

    Returns:
        [rows, length, value_heads, value_dim], and what is carried on behind the last token of each row.
    """
    rows, length, _ = qkv.shape
    past = spec.kernel - 1
    if lengths is None:
        newest = qkv.new_full((rows,), length, dtype=torch.int64)
    else:
        newest = lengths
        padding = (torch.arange(length, device=qkv.device) >= lengths[:, None])[..., None]
        decay, beta = decay.masked_fill(padding, 0.0), beta.masked_fill(padding, 0.0)
    head = None if before is None else before.convolution
    mixed = convolve(qkv, spec.convolution, head)
    state = None if before is None else before.recurrent
    output, after = gated_delta(*split(spec, mixed), decay, beta, state)
    whole = F.pad(qkv, (0, 0, past, 0)) if head is None else torch.cat((head.to(qkv.dtype), qkv), dim=1)
    at = newest[:, None] + torch.arange(past, device=qkv.device)  # [rows, kernel - 1]
    return output, Carried(whole[torch.arange(rows, device=qkv.device)[:, None], at], after)


def advance(spec: DeltaSpec, qkv: Tensor, decay: Tensor, beta: Tensor, carried: Carried) -> Tensor:
    """The same for one more token of each row, without gradients; ``carried`` is overwritten.

    Args:
        spec: of the layer.
        qkv: [rows, 1, channels].
        decay: [rows, 1, value_heads].
        beta: [rows, 1, value_heads].
        carried: of the same rows.

    Returns:
        [rows, 1, value_heads, value_dim].
    """
    mixed = convolve(qkv, spec.convolution, carried.convolution)
    newest = torch.cat((carried.convolution[:, 1:], qkv), dim=1) if spec.kernel > 1 else carried.convolution
    carried.convolution.copy_(newest)
    q, k, v = (each[:, 0] for each in split(spec, mixed))
    return gated_delta_step(q, k, v, decay[:, 0], beta[:, 0], carried.recurrent)[:, None]


def split(spec: DeltaSpec, mixed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys [rows, length, key_heads, key_dim] and values [rows, length, value_heads, value_dim]."""
    q, k, v = mixed.split(spec.widths, dim=-1)
    keys, values = (spec.key_heads, spec.key_dim), (spec.value_heads, spec.value_dim)
    return q.unflatten(-1, keys), k.unflatten(-1, keys), v.unflatten(-1, values)


@dataclass(frozen=True)
class Fork:
    """Rows of a common beginning and several ends, taken apart into sequences of their own.

    Cells hold places among the rows * length tokens, 0 where there are none.
    """

    beginnings: Tensor
    """int64 [rows, longest]"""
    lengths: Tensor
    """int64 [rows], tokens of each beginning."""
    ends: Tensor
    """int64 [ends, longest]"""
    sources: Tensor
    """int64 [ends], the row whose beginning each of them continues."""
    cells: Tensor
    """int64 [rows, length]: where each token stands among the cells of the beginnings, then of the ends."""

    def to(self, device: torch.device) -> Fork:
        names = ("beginnings", "lengths", "ends", "sources", "cells")
        return replace(self, **{name: getattr(self, name).to(device) for name in names})

    def repeat(self, copies: int) -> Fork:
        """For the same rows ``copies`` times, one after another."""
        rows, length = self.cells.shape
        first, last = self.beginnings.numel(), self.ends.numel()

        def again(cells: Tensor, step: int) -> Tensor:
            steps = step * torch.arange(copies, device=cells.device)
            return (cells + steps.view(-1, *[1] * cells.ndim)).flatten(0, 1)

        steps = torch.arange(copies, device=self.cells.device).view(-1, 1, 1)
        ahead = torch.where(self.cells < first, first * steps, first * (copies - 1) + last * steps)
        return Fork(
            again(self.beginnings, rows * length),
            self.lengths.repeat(copies),
            again(self.ends, rows * length),
            again(self.sources, rows),
            (self.cells + ahead).flatten(0, 1),
        )

    def run(self, spec: DeltaSpec, qkv: Tensor, decay: Tensor, beta: Tensor) -> Tensor:
        """``run`` over the rows, every end from a copy of what its beginning carries on.

        Args:
            spec: of the layer.
            qkv: [rows, length, channels].
            decay: [rows, length, value_heads].
            beta: [rows, length, value_heads].

        Returns:
            [rows, length, value_heads, value_dim]; that of padding is that of any token.
        """
        inputs = [each.flatten(0, 1) for each in (qkv, decay, beta)]

        def pick(cells: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            qkv, decay, beta = (_pick(each, cells) for each in inputs)
            return qkv, decay, beta

        one, carried = run(spec, *pick(self.beginnings), self.lengths)
        before = Carried(
            carried.convolution.index_select(0, self.sources), carried.recurrent.index_select(0, self.sources)
        )
        others, _ = run(spec, *pick(self.ends), before=before)
        return _pick(torch.cat((one.flatten(0, 1), others.flatten(0, 1))), self.cells)


def _pick(x: Tensor, cells: Tensor) -> Tensor:
    """x[cells], whose gradient torch adds up faster."""
    picked: Tensor = x.index_select(0, cells.flatten()).unflatten(0, cells.shape)
    return picked


def fork(rows: Sequence[Sequence[int]]) -> Fork | None:
    """How to take rows apart.

    Args:
        rows: of each the tokens of its beginning, then of each of its ends.

    Returns:
        None where no row has several ends: each row is a sequence, which needs no taking apart.
    """
    # An end without others is part of its beginning.
    parts = []
    for beginning, *lengths in rows:
        ends = [end for end in lengths if end]
        parts.append((beginning, ends) if len(ends) > 1 else (beginning + sum(ends), []))
    if not any(ends for _, ends in parts):
        return None
    length = max(beginning + sum(ends) for beginning, ends in parts)
    most = max(beginning for beginning, _ in parts)
    longest = max(end for _, ends in parts for end in ends)
    first = len(parts) * most
    beginnings: list[list[int]] = []
    tails: list[list[int]] = []
    sources: list[int] = []
    cells: list[list[int]] = []
    for number, (beginning, ends) in enumerate(parts):
        at = number * length
        beginnings.append([*range(at, at + beginning), *[0] * (most - beginning)])
        where = [*range(number * most, number * most + beginning)]
        at += beginning
        for end in ends:
            where += range(first + len(tails) * longest, first + len(tails) * longest + end)
            tails.append([*range(at, at + end), *[0] * (longest - end)])
            sources.append(number)
            at += end
        cells.append(where + [0] * (length - len(where)))
    return Fork(
        torch.tensor(beginnings, dtype=torch.int64).view(len(parts), most),  # all of them may be empty
        torch.tensor([beginning for beginning, _ in parts]),
        torch.tensor(tails),
        torch.tensor(sources),
        torch.tensor(cells),
    )
