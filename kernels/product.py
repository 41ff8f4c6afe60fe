"""The product with a frozen matrix of the base, by whichever library of torch's is the faster one here."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

_LEAST = 1 << 17
"""Numbers in a matrix: what oneDNN spends on looking at a smaller one is more than it gains."""


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``x @ weight.T + bias``, as torch's ``linear``; no gradient reaches ``weight`` and ``bias``.

    Args:
        x: [..., in].
        weight: [out, in].
        bias: [out].

    Returns:
        [..., out].
    """
    if not _by_onednn(x, weight):
        return F.linear(x, weight, bias)
    if torch.is_grad_enabled() and x.requires_grad:
        output: Tensor = _Frozen.apply(x, weight, bias)  # type: ignore[no-untyped-call]
        return output
    return _onednn(x, weight, bias)


@cache
def onednn_is_faster() -> bool:
    """Whether this processor is better served by oneDNN than by MKL, torch's own choice for float32.

    MKL takes its slower code on processors of AMD. The answer depends on the machine alone: equal runs have
    to give equal bits.
    """
    backends = torch.backends
    if not (backends.mkldnn.is_available() and backends.mkl.is_available()):
        return False
    cpuinfo = Path("/proc/cpuinfo")
    return cpuinfo.is_file() and "AuthenticAMD" in cpuinfo.read_text()


def _by_onednn(x: Tensor, weight: Tensor) -> bool:
    return (
        x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and weight.numel() > _LEAST
        # For a slice of columns oneDNN has nothing but its reference code, a thousand times slower.
        and (weight.is_contiguous() or weight.t().is_contiguous())
        and onednn_is_faster()
        and not torch.is_autocast_enabled("cpu")
    )


def _onednn(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    output: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return output


class _Frozen(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(weight)
        return _onednn(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (weight,) = ctx.saved_tensors
        return _onednn(gradients[0], weight.t(), None), None, None
