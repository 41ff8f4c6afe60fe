"""Rows in the order of their adapters, worked out once per batch and read by every layer's kernels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Segments:
    """Where each adapter's rows are, and how they are cut into tiles.

    A segment is the rows of one slot; those without adapter form one more, the last. Nothing is
    moved: kernels look up in ``order`` which row of the batch stands at a place of the sorted order.
    All shapes follow from the numbers of rows and slots alone, so that another batch of as many
    rows can be copied into the same tensors, as a captured CUDA graph needs.
    """

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

    def table(values: Tensor) -> Tensor:
        return values.to(device, torch.int32)

    return Segments(
        order=table(keys.argsort(stable=True)),
        bounds=table(bounds),
        tiles=table(torch.stack([segment, first], dim=1)),
        scales=torch.tensor([*scales, 0.0], dtype=torch.float32, device=device),
        block=block,
    )
