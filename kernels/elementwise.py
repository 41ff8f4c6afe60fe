"""What stands between the products of a decoder layer: one kernel each on a card, plain torch elsewhere."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from sparta_lite.kernels import choice

Rotary = tuple[Tensor, Tensor]
"""Cosine of every position, and sine, negative in the first half: [rows, 1, length, head_dim] each."""


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up (Shazeer 2020).

    Args:
        gate: [rows, length, width].
        up: like ``gate``.

    Returns:
        [rows, length, width].
    """
    if not choice.use_triton(gate):
        return F.silu(gate) * up
    return choice.attempt(lambda: swiglu_by_triton(gate, up), lambda: F.silu(gate) * up)


def swiglu_by_triton(gate: Tensor, up: Tensor) -> Tensor:
    """``swiglu`` in Triton, whatever the device."""
    from sparta_lite.kernels import triton_elementwise

    return triton_elementwise.swiglu(gate, up)


def add_norm_by_triton(x: Tensor, added: Tensor | None, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """``reference.add_norm`` in Triton, whatever the device; without ``added`` the sum is ``x`` itself."""
    from sparta_lite.kernels import triton_elementwise

    return triton_elementwise.add_norm(x, added, weight, eps)


def rotate_both(q: Tensor, k: Tensor, rotary: Rotary) -> tuple[Tensor, Tensor]:
    """Rotary embedding of queries and keys.

    Args:
        q: [rows, heads, length, head_dim].
        k: [rows, kv_heads, length, head_dim].
        rotary: of the rows' positions.

    Returns:
        Both, of the same shapes.
    """
    if not choice.use_triton(q):
        return rotate(q, *rotary), rotate(k, *rotary)
    return choice.attempt(
        lambda: rotate_both_by_triton(q, k, rotary), lambda: (rotate(q, *rotary), rotate(k, *rotary))
    )


def rotate_both_by_triton(q: Tensor, k: Tensor, rotary: Rotary) -> tuple[Tensor, Tensor]:
    """``rotate_both`` in Triton, whatever the device."""
    from sparta_lite.kernels import triton_rotary

    return triton_rotary.rotate_both(q, k, *rotary)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding (Su et al. 2021) of the pairs (i, i + head_dim / 2): [..., head_dim]."""
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, -1), sin)
