"""Whether a processor computes a base faster in bf16: its products are timed in both dtypes, side by side.

With instructions for bf16 (AMX, AVX512-BF16) they take less than half the time; without, many times as long.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from sparta_lite.engine.processor import compared

GAIN = 1.5
"""How many times as fast bf16 must be in every kind of product: the rest of a pass gains nothing by it."""
LEAST = 1 << 20
"""Numbers in a layer's MLP. Smaller bases spend their time between the products."""

_MOST = 1 << 22  # numbers of a matrix that are timed; more of them take as long each
_WIDEST = 1 << 14  # columns that are timed
_DECODED = 24  # rows of a decoding step
_PASSED = 256  # tokens of a pass


def choose_half(hidden: int, inner: int) -> tuple[torch.dtype, str]:
    """bf16 where it is ``GAIN`` times as fast as fp32 in every kind of product of such a base, and why.

    Args:
        hidden: width of the base.
        inner: width inside its MLP.
    """
    if 3 * hidden * inner < LEAST:
        return torch.float32, "small models take longer in 16 bits on a CPU"
    found = gains(hidden, inner)
    faster = ", ".join(f"{gain:.1f} x in {kind}" for kind, gain in found.items())
    if all(gain >= GAIN for gain in found.values()):
        return torch.bfloat16, f"this CPU's products are faster in it: {faster}"
    return torch.float32, f"this CPU's products are not {GAIN} x as fast in bfloat16: {faster}"


@cache
def gains(hidden: int, inner: int) -> dict[str, float]:
    """Kind of product -> how many times as fast it is in bf16, up to the first that is not fast enough.

    In CPU seconds of one thread, once per shape in a process.
    """
    hidden = min(hidden, _WIDEST)
    outputs = min(2 * inner, _MOST // hidden, _WIDEST)
    weight = torch.ones(outputs, hidden)
    found = {}
    for kind, rows, backward in (
        ("decoding", _DECODED, False),
        ("long passes", _PASSED, False),
        ("training", _PASSED, True),
    ):
        x = torch.ones(rows, outputs if backward else hidden)
        matrix = weight if backward else weight.mT
        single, half = compared([_product(x, matrix), _product(x.bfloat16(), matrix.bfloat16())])
        found[kind] = single / half
        if found[kind] < GAIN:
            break
    return found


def _product(x: Tensor, matrix: Tensor) -> Callable[[], Tensor]:
    """x @ matrix, [rows, in] and [in, out]."""
    return lambda: x @ matrix
