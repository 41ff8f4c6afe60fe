"""Low-rank updates for a batch whose rows belong to different adapters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from sparta_lite.kernels import choice, reference
from sparta_lite.kernels.segments import Segments, sort_rows


@dataclass(frozen=True)
class Grid:
    """The rows on a grid with one line per adapter of a contiguous range of the bank.

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


@dataclass(frozen=True)
class Routing:
    """Which adapter serves which row; what is worked out of it serves every layer of a batch."""

    slots: tuple[int | None, ...]
    """The bank's slot of each row's adapter, None for a row on the bare base."""
    scales: tuple[float, ...]
    """alpha / rank of every slot of the bank."""
    device: torch.device
    """Where the tables are needed."""
    mergeable: bool = False
    """Whether an adapter that serves every row may be added to the weights; it rounds otherwise."""
    _sorted: dict[int, Segments] = field(default_factory=dict, init=False, repr=False, compare=False)

    @cached_property
    def grid(self) -> Grid:
        """What plain torch needs."""
        return _lay_out(self.slots, self.scales, self.device)

    @cached_property
    def only(self) -> int | None:
        """The slot that serves every row; None where there is no such one."""
        return self.slots[0] if len(set(self.slots)) == 1 else None

    def segments(self, length: int) -> Segments:
        """What Triton's kernels need for rows of ``length`` tokens.

        The first call for a length copies tables to the device: it must come before a graph is captured.
        """
        if length not in self._sorted:
            self._sorted[length] = sort_rows(self.slots, self.scales, self.device, length)
        return self._sorted[length]

    def adopt(self, length: int, tables: Segments) -> None:
        """Write what ``segments(length)`` gives into ``tables``, which a captured graph reads, and give those
        from now on."""
        if tables is not self.segments(length):
            tables.overwrite(self.segments(length))
            self._sorted[length] = tables


def route(
    slots: Sequence[int | None], scales: Sequence[float], device: torch.device, mergeable: bool = False
) -> Routing | None:
    """Note which adapter serves which row.

    Args:
        slots: see ``Routing``.
        scales: see ``Routing``.
        device: see ``Routing``.
        mergeable: see ``Routing``.

    Returns:
        None when no row has an adapter.
    """
    if all(slot is None for slot in slots):
        return None
    return Routing(tuple(slots), tuple(scales), device, mergeable)


def add_lora(
    outputs: Sequence[Tensor],
    x: Tensor,
    a: Tensor,
    b: Sequence[Tensor],
    routing: Routing,
    gain: Tensor | None = None,
) -> list[Tensor]:
    """Add each row's low-rank update ``scale * x @ A.T @ B.T`` to the outputs of a linear layer.

    Several projections of one input (q, k, v; gate, up) share one shrinking product.

    Args:
        outputs: what the base gives for each of the P projections, P x [rows, length, out_p]. They may be a
            split of one wider output, though torch is slower with it. Where no gradient is wanted they
            are overwritten.
        x: the common input, [rows, length, in].
        a: the bank's A of this layer, the projections' ranks one after another, [slots, P * rank, in].
        b: the bank's B of each projection, P x [slots, out_p, rank].
        routing: which rows belong to which slots.
        gain: what multiplies the low-rank states ``x @ A.T`` besides the scale, [slots, P * rank], where
            adapters scale their modules differently; None: nothing.

    Returns:
        P x [rows, length, out_p], in the dtype of ``outputs``. Torch takes the products in that of ``x``,
        Triton in that of ``outputs``: they differ under autocast alone, which torch's products see.
    """
    if not choice.use_triton(x):
        return by_torch(outputs, x, a, b, routing, gain)
    return choice.attempt(
        lambda: by_triton(outputs, x, a, b, routing, gain), lambda: by_torch(outputs, x, a, b, routing, gain)
    )


def merged(
    weight: Tensor, a: Tensor, b: Sequence[Tensor], slot: int, scale: float, gain: Tensor | None = None
) -> Tensor:
    """A linear layer's weight with one adapter's update in it, ``weight + scale * B @ A``, as new memory.

    Args:
        weight: of all P projections of one input, one after another, [sum of out_p, in].
        a: see ``add_lora``.
        b: see ``add_lora``.
        slot: of the adapter.
        scale: its alpha / rank.
        gain: see ``add_lora``.

    Returns:
        [sum of out_p, in].
    """
    low = a[slot] if gain is None else a[slot] * gain[slot, :, None]  # [P * rank, in]
    result = torch.empty_like(weight)
    parts = [weight.split([each.shape[1] for each in b]) for weight in (weight, result)]
    for before, after, a_p, b_p in zip(*parts, low.chunk(len(b)), b, strict=True):
        torch.addmm(before, b_p[slot], a_p, alpha=scale, out=after)
    return result


def by_triton(
    outputs: Sequence[Tensor],
    x: Tensor,
    a: Tensor,
    b: Sequence[Tensor],
    routing: Routing,
    gain: Tensor | None = None,
) -> list[Tensor]:
    """``add_lora`` in Triton, whatever the device."""
    from sparta_lite.kernels.triton_lora import grouped_lora

    rows, length, _ = x.shape
    flat = [output.flatten(0, 1) for output in outputs]  # [rows * length, out_p]
    results = grouped_lora(flat, x.flatten(0, 1), a, b, routing.segments(length), gain)
    return [result.view(rows, length, -1) for result in results]


def by_torch(
    outputs: Sequence[Tensor],
    x: Tensor,
    a: Tensor,
    b: Sequence[Tensor],
    routing: Routing,
    gain: Tensor | None = None,
) -> list[Tensor]:
    """``add_lora`` in plain torch."""
    rows, length, width = x.shape
    grid = routing.grid
    lines, cells = grid.lines, grid.cells
    a = a.narrow(0, grid.first, lines).to(x.dtype)  # [lines, P * rank, in]
    low = x
    if grid.gather is not None:
        low = low.index_select(0, grid.gather)  # [lines * cells, length, in]
    low = torch.bmm(low.reshape(lines, cells * length, width), a.mT)  # [lines, cells * length, P * rank]
    if gain is not None:
        low = low * gain.narrow(0, grid.first, lines)[:, None].to(low.dtype)
    scale = 1.0
    if isinstance(grid.scale, float):
        scale = grid.scale
    else:
        low = (low.view(lines, cells, length, -1) * grid.scale.to(low.dtype)).flatten(1, 2)

    results = []
    for output, low_p, b_p in zip(outputs, low.chunk(len(outputs), dim=-1), b, strict=True):
        b_p = b_p.narrow(0, grid.first, lines).to(low.dtype).mT  # [lines, rank, out_p]
        if grid.scatter is None and output.dtype == low_p.dtype == b_p.dtype:
            whole = output.view(lines, cells * length, -1)
            add = torch.baddbmm if low_p.requires_grad or output.requires_grad else Tensor.baddbmm_
            results.append(add(whole, low_p, b_p, alpha=scale).view(rows, length, -1))
            continue
        update = torch.bmm(low_p, b_p).view(lines * cells, length, -1)
        if grid.scatter is not None:
            update = update.index_select(0, grid.scatter)  # [rows, length, out_p]
        results.append(torch.add(output, update.view(rows, length, -1).to(output.dtype), alpha=scale))
    return results


def gradients_by_torch(
    x: Tensor,
    a: Tensor,
    b: Sequence[Tensor],
    gradients: Sequence[Tensor],
    asked: Sequence[bool],
    segments: Segments,
    gain: Tensor | None = None,
) -> list[Tensor | None]:
    """The backward half of a pass whose forward half was Triton's, by autograd over the definition.

    Args:
        x: [tokens, in], the tokens of all rows.
        a: see ``add_lora``.
        b: see ``add_lora``.
        gradients: of the P results, each [tokens, out_p].
        asked: whether the gradients of ``x``, ``a`` and each of ``b`` are wanted.
        segments: which tokens belong to which slots.
        gain: see ``add_lora``.

    Returns:
        The gradients in the order of ``asked``, None where one is not wanted.
    """
    order, dtype = segments.order.long(), gradients[0].dtype
    scales, bounds = segments.scales[:-1].tolist(), segments.bounds[:-1].tolist()
    with torch.enable_grad():
        leaves = [each.detach().requires_grad_() for each in (x, a, *b)]
        x_, a_, *b_ = (leaf.to(dtype) for leaf in leaves)
        zeros = [torch.zeros_like(each) for each in gradients]
        results = reference.grouped_lora(zeros, x_[order], a_, b_, scales, bounds, gain)
    found = torch.autograd.grad(results, leaves, [each[order] for each in gradients])
    return [each if want else None for each, want in zip(found, asked, strict=True)]


def _lay_out(slots: Sequence[int | None], scales: Sequence[float], device: torch.device) -> Grid:
    """``slots``: at least one row has an adapter."""
    used = [slot for slot in slots if slot is not None]
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
        return Grid(first, lines, cells, same.pop(), None, None)

    gather = [row for line in members for row in line + [0] * (cells - len(line))]
    scatter = [0] * len(slots)
    for index, line in enumerate(members):
        for cell, row in enumerate(line):
            scatter[row] = index * cells + cell
    scale = torch.zeros(lines, cells, 1, 1)
    for index, line in enumerate(members):
        for cell, row in enumerate(line):
            scale[index, cell] = 0.0 if row in bare_rows else scales[first + index]
    return Grid(
        first,
        lines,
        cells,
        same.pop() if len(same) == 1 and not bare_rows else scale.to(device),
        torch.tensor(gather, device=device),
        torch.tensor(scatter, device=device),
    )
