"""How far one rounding may move a number, by what it is rounded to.

Interpreted, Triton computes wrongly in bf16: sums and products come out as garbage, and what a card rounds
is cut off. Our kernels, interpreted, take numbers into fp32 before they compute, and only store in bf16. So a
test without a card shows which numbers are read, where the results go, and in which dtype. How exact they are
in bf16 is for a card to show.
"""

from __future__ import annotations

import torch
import triton

ROUNDING = {
    torch.float32: 2.0**-24,
    torch.bfloat16: 2.0**-7 if triton.knobs.runtime.interpret else 2.0**-8,
    torch.float16: 2.0**-10,
}
"""The largest relative error."""
