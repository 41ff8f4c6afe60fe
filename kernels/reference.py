"""What the fast kernels compute, in plain torch: any device, any dtype, differentiable by autograd."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor


def grouped_lora(
    outputs: Sequence[Tensor],
    x: Tensor,
    a: Tensor,
    b: Sequence[Tensor],
    scales: Sequence[float],
    bounds: Sequence[int],
) -> list[Tensor]:
    """Add to every row the low-rank update of its adapter, for P projections of one input.

    The rows are sorted by adapter: rows ``bounds[slot]`` to ``bounds[slot + 1]`` are those of a slot,
    none where the two are equal, and the rows from ``bounds[-1]`` on have no adapter.

    Args:
        outputs: what the base gives, P x [tokens, out_p].
        x: the common input, [tokens, in].
        a: the projections' ranks one after another, [slots, P * rank, in].
        b: P x [slots, out_p, rank].
        scales: alpha / rank, one number per slot.
        bounds: slots + 1 ascending places, the first of them 0.

    Returns:
        P x [tokens, out_p], new tensors.
    """
    results = [output.clone() for output in outputs]
    rank = a.shape[1] // len(outputs)
    for slot, scale in enumerate(scales):
        rows = slice(bounds[slot], bounds[slot + 1])
        for result, a_p, b_p in zip(results, a[slot].split(rank), b, strict=True):
            result[rows] += scale * (x[rows] @ a_p.T @ b_p[slot].T)
    return results


def token_logprobs(hidden: Tensor, head: Tensor, targets: Tensor, bias: Tensor | None = None) -> Tensor:
    """log softmax(hidden @ head.T + bias)[targets], row by row.

    Args:
        hidden: [tokens, hidden].
        head: [vocabulary, hidden].
        targets: int64 [tokens].
        bias: [vocabulary].

    Returns:
        [tokens].
    """
    return F.linear(hidden, head, bias).log_softmax(dim=-1).gather(1, targets[:, None]).squeeze(1)
