"""The one product that all Triton kernels are made of.

Import this module only where Triton is installed. ``TRITON_INTERPRET=1``, set before Triton is first
imported, runs the kernels on a CPU.
"""

# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False
# mypy: disallow-untyped-decorators=False, disallow-untyped-calls=False

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from triton.runtime import driver

DTYPES = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}
"""What the kernels' operands may be stored in, in any combination, and what products may be taken in."""

OPTIONS: dict[str, Any] = {"enable_fp_fusion": True}
"""For every launch; Triton 3.9 warns where it is left unsaid, for its default will change."""

_INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)


def capability() -> int:
    """Of the card that Triton compiles for, 90 for 9.0; 0 where kernels run interpreted."""
    return 0 if triton.knobs.runtime.interpret else int(driver.active.get_current_target().arch)


@triton.jit
def product(left, right, total, DTYPE: tl.constexpr):
    """total + left @ right: factors in ``DTYPE``, sums in fp32."""
    left, right = left.to(DTYPE), right.to(DTYPE)
    if _INTERPRETED:  # its products of bf16 are wrong, those of the same numbers in fp32 are not
        left, right = left.to(tl.float32), right.to(tl.float32)
    return tl.dot(left, right, total, input_precision="ieee")  # fp32 stays fp32 instead of tf32
