"""Log-probabilities of given tokens under a frozen linear head, without the whole matrix of logits."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sparta_lite.kernels import choice
from sparta_lite.kernels.product import linear


def token_logprobs(
    hidden: Tensor,
    head: Tensor,
    targets: Tensor,
    chunk: int = 256,
    bias: Tensor | None = None,
    softcap: float | None = None,
) -> Tensor:
    """log softmax(hidden @ head.T + bias)[targets], row by row.

    Args:
        hidden: [tokens, hidden].
        head: [vocabulary, hidden], in the dtype of ``hidden``. It gets no gradient.
        targets: int64 [tokens].
        chunk: rows whose logits may exist at once, in fp32 and with what is made of them.
        bias: [vocabulary], frozen like the head.
        softcap: logits go through ``softcap * tanh(logit / softcap)``; None: as they are.

    Returns:
        [tokens] float32 (float64 where ``hidden`` is).
    """
    if not choice.use_triton(hidden):
        return by_torch(hidden, head, targets, chunk, bias, softcap)
    return choice.attempt(
        lambda: by_triton(hidden, head, targets, chunk, bias, softcap),
        lambda: by_torch(hidden, head, targets, chunk, bias, softcap),
    )


def by_triton(
    hidden: Tensor,
    head: Tensor,
    targets: Tensor,
    chunk: int,
    bias: Tensor | None,
    softcap: float | None = None,
) -> Tensor:
    """``token_logprobs`` in Triton, whatever the device."""
    from sparta_lite.kernels import triton_logprob

    return triton_logprob.token_logprobs(hidden, head, targets, chunk, bias, softcap)


def by_torch(
    hidden: Tensor,
    head: Tensor,
    targets: Tensor,
    chunk: int,
    bias: Tensor | None,
    softcap: float | None = None,
) -> Tensor:
    """``token_logprobs`` in plain torch.

    Logits exist for ``chunk`` rows at a time. Every result depends on one row of ``hidden`` alone, so
    its derivative, head[target] - softmax @ head, is taken while that row's logits are at hand: the
    backward pass needs neither the logits nor the head again.
    """
    result: Tensor = _TokenLogprobs.apply(  # type: ignore[no-untyped-call]
        hidden, head, targets, chunk, bias, softcap
    )
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
        precise = torch.promote_types(hidden.dtype, torch.float32)
        result = torch.empty(len(hidden), dtype=precise, device=hidden.device)
        slope = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None  # [tokens, hidden]
        for start in range(0, len(hidden), chunk):
            rows = slice(start, start + chunk)
            target = targets[rows, None]
            logits = linear(hidden[rows], head, bias).to(precise)  # [chunk, vocabulary]
            if softcap is not None:
                logits.div_(softcap).tanh_().mul_(softcap)
            total = logits.logsumexp(dim=-1, keepdim=True)
            result[rows] = (logits.gather(1, target) - total).squeeze(1)
            if slope is not None:
                slope[rows] = _slope(logits, total, target, head, softcap)
        ctx.save_for_backward(slope)
        return result

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None, None, None]:
        (slope,) = ctx.saved_tensors
        return gradients[0].to(slope.dtype)[:, None] * slope, None, None, None, None, None


def _slope(logits: Tensor, total: Tensor, target: Tensor, head: Tensor, softcap: float | None) -> Tensor:
    """The derivative of every row's result in the row, [chunk, hidden]; ``logits`` are overwritten."""
    if softcap is None:
        return head[target[:, 0]] - linear(logits.sub_(total).exp_().to(head.dtype), head.t())
    steep = 1 - (logits / softcap).square()  # of the tanh
    inside = logits.sub_(total).exp_().neg_().scatter_add_(1, target, torch.ones_like(total))
    return linear((inside * steep).to(head.dtype), head.t())
