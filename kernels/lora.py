"""Low-rank updates for a batch whose rows belong to different adapters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Routing:
    """Which adapter serves which row, worked out once per batch and used by every layer.

    The rows are laid out on a grid with one line per adapter of a contiguous range of the bank.
    When every line is full and the rows already stand in that order the grid is a mere view of
    the batch; else ``gather`` and ``scatter`` move rows in and out of it. A row without adapter
    takes any cell and gets scale 0.
    """

    first: int
    """The bank's slot of the grid's first line."""
    lines: int
    cells: int
    """Cells per line."""
    scale: float | Tensor
    """alpha / rank of the update: one number when all rows share it, else [lines, cells, 1, 1]."""
    gather: Tensor | None
    """The row in every cell, [lines * cells]; cells left empty repeat row 0."""
    scatter: Tensor | None
    """The cell of every row, [rows]."""


def route(slots: Sequence[int | None], scales: Sequence[float], device: torch.device) -> Routing | None:
    """Lay rows out by adapter.

    Args:
        slots: the bank's slot of each row's adapter, None for a row on the bare base.
        scales: alpha / rank of every slot of the bank.
        device: where the index tensors are needed.

    Returns:
        None when no row has an adapter.
    """
    used = [slot for slot in slots if slot is not None]
    if not used:
        return None
    first, lines = min(used), max(used) - min(used) + 1
    members: list[list[int]] = [[] for _ in range(lines)]
    for row, slot in enumerate(slots):
        if slot is not None:
            members[slot - first].append(row)
    bare = [row for row, slot in enumerate(slots) if slot is None]
    cells = max(max(map(len, members)), -(-len(slots) // lines))
    bare_rows = frozenset(bare)
    for line in members:
        while bare and len(line) < cells:
            line.append(bare.pop())

    grid = [row for line in members for row in line]
    same = {scales[slot] for slot in used}
    if len(grid) == lines * cells and grid == list(range(len(slots))) and len(same) == 1 and not bare_rows:
        return Routing(first, lines, cells, same.pop(), None, None)

    gather = [row for line in members for row in line + [0] * (cells - len(line))]
    scatter = [0] * len(slots)
    for index, line in enumerate(members):
        for cell, row in enumerate(line):
            scatter[row] = index * cells + cell
    scale = torch.zeros(lines, cells, 1, 1)
    for index, line in enumerate(members):
        for cell, row in enumerate(line):
            scale[index, cell] = 0.0 if row in bare_rows else scales[first + index]
    return Routing(
        first,
        lines,
        cells,
        same.pop() if len(same) == 1 and not bare_rows else scale.to(device),
        torch.tensor(gather, device=device),
        torch.tensor(scatter, device=device),
    )


def add_lora(
    outputs: Sequence[Tensor], x: Tensor, a: Tensor, b: Sequence[Tensor], routing: Routing
) -> list[Tensor]:
    """Add each row's low-rank update ``scale * x @ A.T @ B.T`` to the outputs of a linear layer.

    Several projections of one input (q, k, v; gate, up) share one shrinking product.

    Args:
        outputs: what the base gives for each of the P projections, P x [rows, length, out_p], contiguous.
            Where no gradient is wanted they are overwritten.
        x: the common input, [rows, length, in].
        a: the bank's A of this layer, the projections' ranks one after another, [slots, P * rank, in].
        b: the bank's B of each projection, P x [slots, out_p, rank].
        routing: which rows belong to which slots.

    Returns:
        P x [rows, length, out_p], in the dtype of ``outputs``. The products are taken in that of ``x``.
    """
    rows, length, width = x.shape
    lines, cells = routing.lines, routing.cells
    a = a.narrow(0, routing.first, lines).to(x.dtype)  # [lines, P * rank, in]
    low = x
    if routing.gather is not None:
        low = low.index_select(0, routing.gather)  # [lines * cells, length, in]
    low = torch.bmm(low.reshape(lines, cells * length, width), a.mT)  # [lines, cells * length, P * rank]
    scale = 1.0
    if isinstance(routing.scale, float):
        scale = routing.scale
    else:
        low = (low.view(lines, cells, length, -1) * routing.scale.to(low.dtype)).flatten(1, 2)

    results = []
    for output, low_p, b_p in zip(outputs, low.chunk(len(outputs), dim=-1), b, strict=True):
        b_p = b_p.narrow(0, routing.first, lines).to(low.dtype).mT  # [lines, rank, out_p]
        if routing.scatter is None and output.dtype == low_p.dtype == b_p.dtype:
            grid = output.view(lines, cells * length, -1)
            add = torch.baddbmm if low_p.requires_grad or output.requires_grad else Tensor.baddbmm_
            results.append(add(grid, low_p, b_p, alpha=scale).view(rows, length, -1))
            continue
        update = torch.bmm(low_p, b_p).view(lines * cells, length, -1)
        if routing.scatter is not None:
            update = update.index_select(0, routing.scatter)  # [rows, length, out_p]
        results.append(torch.add(output, update.view(rows, length, -1).to(output.dtype), alpha=scale))
    return results
