"""A matrix in NF4 as bitsandbytes keeps it (Dettmers et al. 2023): four bits a number, one scale a block."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

BLOCK = 64
"""Numbers that share a scale, one after another along a row. Rows are whole blocks."""
SCALES_BLOCK = 256
"""Scales that share a scale of their own, where scales are in 8 bits."""


@dataclass(frozen=True)
class EightBitScales:
    """The blocks' scales, quantised once more: ``code[absmax] * scale of 256 of them + offset``."""

    code: Tensor
    """What an 8-bit scale stands for, float32 [256]."""
    absmax: Tensor
    """float32 [out * in / 64 / 256, rounded up]."""
    offset: Tensor
    """float32, one number."""


@dataclass(frozen=True)
class Nf4:
    """A matrix [out, in], of which ``in`` divides by 64."""

    packed: Tensor
    """uint8 [out * in / 2], row by row. A byte's high half is the earlier number."""
    code: Tensor
    """What the 16 values stand for, float32 [16]."""
    absmax: Tensor
    """The scale of every block, [out * in / 64]: float32, or uint8 with ``eight_bit``."""
    eight_bit: EightBitScales | None
    width: int
    """``in``"""

    @cached_property
    def words(self) -> Tensor:
        """``packed`` as kernels read it, int32 [out * in / 8]: the same memory."""
        return self.packed.view(torch.int32)

    @cached_property
    def outputs(self) -> int:
        return 2 * self.packed.numel() // self.width
