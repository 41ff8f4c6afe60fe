"""Sequences that begin alike in one row, so that their common beginning is computed once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise

import torch
from torch import Tensor

from sparta_lite.engine.delta import fork
from sparta_lite.engine.mixing import AttentionSpec, DeltaSpec, Mixers
from sparta_lite.engine.model import Decoder
from sparta_lite.engine.sequences import WholeSequences
from sparta_lite.engine.shape import pair_cost, sharing_pays
from sparta_lite.engine.transfer import send

Tokens = tuple[int, ...]

_PADDING = -1


@dataclass(frozen=True)
class Row:
    """Some sequences: what they share at their beginning once, then the tail of each."""

    shared: Tokens
    tails: tuple[Tokens, ...]

    @property
    def length(self) -> int:
        return len(self.shared) + sum(map(len, self.tails))

    def place(self, tail: int, index: int) -> int:
        """Where token ``index`` of the sequence ``shared + tails[tail]`` stands in the row."""
        if index < len(self.shared):
            return index
        return index + sum(map(len, self.tails[:tail]))


@dataclass(frozen=True)
class Layout:
    """Rows side by side, padded on the right to the longest.

    A tail sees the shared beginning and itself, not its neighbours, and its rotary positions continue
    from the beginning: every hidden state is the one of its sequence alone.
    """

    ids: Tensor
    """int64 [rows, length]"""
    positions: Tensor
    """int64 [rows, length]"""
    parts: Tensor | None
    """int64 [rows, length]: 0 in the shared beginning, n in the n-th tail, -1 in padding; None where no row
    has several tails, and causal order says it all."""
    lengths: tuple[tuple[int, ...], ...] = ()
    """Of each row the tokens of its shared beginning, then of each tail: the delta rule takes it apart."""

    @cached_property
    def mask(self) -> Tensor | None:
        """bool [rows, 1, length, length], True where the query (third) may see the key (fourth); None as in
        ``parts``. Padding sees itself: no softmax is empty. Made where the layout is: it never travels."""
        if self.parts is None:
            return None
        own = self.parts[:, :, None] == self.parts[:, None]  # [rows, length, length]
        earlier = torch.ones(own.shape[1:], dtype=torch.bool, device=own.device).tril()
        return own.logical_or_((self.parts == 0)[:, None]).logical_and_(earlier)[:, None]

    def mixing(self, mixers: Mixers, copies: int = 1) -> WholeSequences:
        """What mixes the rows, ``copies`` times one after another, in a decoder with these ``mixers``."""
        mask, positions = self.mask, self.positions
        if mask is not None and copies > 1:
            # [copies * rows, 1, length, length], [copies * rows, length]
            mask, positions = mask.repeat(copies, 1, 1, 1), positions.repeat(copies, 1)
        taken = fork(self.lengths) if any(isinstance(mixer, DeltaSpec) for mixer in mixers) else None
        if taken is not None:
            taken = taken.repeat(copies).to(self.ids.device)
        return WholeSequences(mixers, mask, positions, taken)

    def to(self, device: torch.device) -> Layout:
        """The same there, without waiting for what the device is doing."""
        if device == self.ids.device:
            return self
        numbers = [self.ids, self.positions, *([] if self.parts is None else [self.parts])]
        ids, positions, *parts = send(torch.stack(numbers), device)
        return replace(self, ids=ids, positions=positions, parts=parts[0] if parts else None)


def lay_out(rows: Sequence[Row], pad: int = 0) -> Layout:
    """Rows as tensors on the CPU.

    Args:
        rows: at least one, none of them empty.
        pad: the token that rows are filled with; it changes no result.
    """
    length = max(row.length for row in rows)
    ids, positions, parts = [], [], []
    for row in rows:
        lengths = [len(row.shared), *map(len, row.tails)]
        spare = length - sum(lengths)
        places = [*range(lengths[0])]
        for tail in lengths[1:]:
            places += range(lengths[0], lengths[0] + tail)
        ids.append([*row.shared, *(token for tail in row.tails for token in tail), *[pad] * spare])
        positions.append(places + [0] * spare)
        parts.append([part for part, tail in enumerate(lengths) for _ in range(tail)] + [_PADDING] * spare)
    several = any(len(row.tails) > 1 for row in rows)
    counts = tuple((len(row.shared), *map(len, row.tails)) for row in rows)
    return Layout(
        torch.tensor(ids), torch.tensor(positions), torch.tensor(parts) if several else None, counts
    )


def share(
    decoder: Decoder, sequences: Sequence[tuple[str | None, Tokens]], most: int
) -> list[tuple[list[int], Row]]:
    """Put sequences of one adapter that begin alike into rows, two in each at most, where that is faster.

    Args:
        decoder: what will read them.
        sequences: adapter and tokens, no two of them equal.
        most: tokens that a row of two may have.

    Returns:
        Rows with the indices in ``sequences`` of what their tails end.
    """
    layers = len(decoder.layers)
    linear = sum(site.inputs * sum(site.widths) for layer in decoder.layers for site in layer.sites.values())
    attention = sum(isinstance(mixer, AttentionSpec) for mixer in decoder.mixers)
    cost = pair_cost(decoder.head.shape[1], linear / layers, attention / layers)
    order = sorted(range(len(sequences)), key=lambda index: (sequences[index][0] or "", sequences[index][1]))
    # [index]: tokens shared with the next one in this order, in which all that begins alike is together.
    common = [_common(sequences[one], sequences[other]) for one, other in pairwise(order)]
    common += [0, 0]
    rows, at = [], 0
    while at < len(order):
        members, shared = order[at : at + 2], common[at]
        lengths = [len(sequences[index][1]) for index in members]
        paired = shared >= common[at + 1] and sum(lengths) - shared <= most
        if not (paired and sharing_pays(shared, lengths, cost)):
            members, shared = members[:1], 0
        tails = tuple(sequences[index][1][shared:] for index in members)
        rows.append((members, Row(sequences[members[0]][1][:shared], tails)))
        at += len(members)
    return rows


def _common(one: tuple[str | None, Tokens], other: tuple[str | None, Tokens]) -> int:
    """How many tokens two different sequences of one adapter begin with alike; a tail is left to both."""
    if one[0] != other[0]:
        return 0
    both = zip(one[1], other[1], strict=False)
    return next(
        (index for index, (left, right) in enumerate(both) if left != right),
        min(len(one[1]), len(other[1])) - 1,
    )
