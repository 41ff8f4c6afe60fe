"""Rows in the order of their adapters, worked out once per batch and read by every layer's kernels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

_ALIGNED = 4  # int32 numbers: Triton compiles a kernel anew for a pointer that 16 bytes do not divide


@dataclass(frozen=True)
class Segments:
    """Where each adapter's rows are, and how they are cut into tiles.

    A segment is the rows of one slot; those without adapter form one more, the last. Nothing is
    moved: kernels look up in ``order`` which row of the batch stands at a place of the sorted order.
    All shapes follow from the numbers of rows and slots alone, so that another batch of as many
    rows can be copied into the same tensors, as a captured CUDA graph needs.
    """

    table: Tensor
    """All that follows in one piece, int32: one copy brings it to the device."""
    order: Tensor
    """The batch's row at every place of the sorted order, int32 [tokens]."""
    bounds: Tensor
    """The places where segments begin and the last one ends, int32 [slots + 2]."""
    tiles: Tensor
    """Segment and first place of every tile, int32 [tiles, 2]. Spare tiles begin behind the last row."""
    scales: Tensor
    """alpha / rank of every segment, 0 for the rows without adapter, float32 [slots + 1]."""
    block: int
    """Places per tile, a power of two; a segment's last tile may be cut short by its bound."""

    @cached_property
    def key(self) -> tuple[int, int, int, int]:
        """Rows, slots, tiles and places per tile: all that launches need to know beside the tables."""
        return len(self.order), len(self.scales) - 1, len(self.tiles), self.block

    def overwrite(self, other: Segments) -> None:
        """Take over another batch's tables, in the same tensors.

        The device is not waited for; ``other`` may be on another, such as the CPU.

        Raises:
            ValueError: ``other`` is of more or fewer rows or slots.
        """
        mine, theirs = (len(self.order), len(self.scales)), (len(other.order), len(other.scales))
        if mine != theirs:
            raise ValueError(
                f"segments of {theirs[0]} rows and {theirs[1] - 1} slots for {mine[0]} and {mine[1] - 1}"
            )
        self.table.copy_(other.table, non_blocking=True)


def sort_rows(
    slots: Sequence[int | None], scales: Sequence[float], device: torch.device, length: int = 1
) -> Segments:
    """Sort rows by adapter; rows of one adapter keep their order.

    Args:
        slots: the bank's slot of each row's adapter, None for a row on the bare base.
        scales: alpha / rank of every slot of the bank.
        device: where the tables are needed.
        length: tokens per row; a batch [rows, length, width] is served as [rows * length, width].
    """
    count = len(scales)
    keys = torch.tensor([count if slot is None else slot for slot in slots], dtype=torch.int64)
    keys = keys.repeat_interleave(length)
    tokens = len(keys)
    sizes = torch.bincount(keys, minlength=count + 1)  # [slots + 1]
    bounds = torch.cat([sizes.new_zeros(1), sizes.cumsum(0)])

    # Products on a card's matrix units take no fewer than 16 rows.
    block = min(64, max(16, 1 << (-(-tokens // max(count, 1)) - 1).bit_length()))
    needed = (sizes + block - 1) // block  # tiles, [slots + 1]
    ends = needed.cumsum(0)
    tile = torch.arange(tokens // block + count + 1)  # as many as any distribution of the rows can need
    segment = torch.searchsorted(ends, tile, right=True).clamp(max=count)
    first = bounds[segment] + (tile - (ends - needed)[segment]) * block

    tables = [
        keys.argsort(stable=True),
        bounds,
        torch.stack([segment, first], dim=1).flatten(),
        torch.tensor([*scales, 0.0], dtype=torch.float32).view(torch.int32),
    ]
    padded = [-(-len(each) // _ALIGNED) * _ALIGNED for each in tables]
    host = torch.zeros(sum(padded), dtype=torch.int32, pin_memory=device.type == "cuda")
    for part, each in zip(host.split(padded), tables, strict=True):
        part[: len(each)] = each
    table = host.to(device, non_blocking=True)  # from pinned memory: nobody waits for the device
    order, edges, cuts, factors = (
        part[: len(each)] for part, each in zip(table.split(padded), tables, strict=True)
    )
    return Segments(table, order, edges, cuts.view(-1, 2), factors.view(torch.float32), block)
