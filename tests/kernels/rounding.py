"""How far one rounding may move a number, by what it is rounded to.

Interpreted, Triton computes wrongly in bf16: sums and products come out as garbage, and what a card rounds
is cut off. Our kernels, interpreted, take numbers into fp32 before they compute, and only store in bf16. So a
test without a card shows which numbers are read, where the results go, and in which dtype. How exact they are
in bf16 is for a card to show, or for ``round_as_a_card``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import triton
import triton.language as tl
from triton.runtime import interpreter

ROUNDING = {
    torch.float32: 2.0**-24,
    torch.bfloat16: 2.0**-7 if triton.knobs.runtime.interpret else 2.0**-8,
    torch.float16: 2.0**-10,
}
"""The largest relative error."""


def round_as_a_card(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the interpreter round what it stores in bf16 to the nearest number, ties to even, as cards do."""
    others = interpreter._convert_float

    def convert(numbers: Any, source: Any, target: Any, mode: Any) -> Any:
        if (source, target) != (tl.float32, tl.bfloat16):
            return others(numbers, source, target, mode)
        exact = torch.from_numpy(np.ascontiguousarray(numbers).view(np.float32).copy())
        return exact.bfloat16().view(torch.int16).numpy().view(np.uint16)

    monkeypatch.setattr(interpreter, "_convert_float", convert)
