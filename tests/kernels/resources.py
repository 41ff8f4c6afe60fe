"""Compiles the kernels at the shapes of a 7B base for a card that is not there, and prints what they take."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import torch
from stand_in import HOPPER, StandIn, report
from triton.runtime.jit import JITFunction

from sparta_lite.kernels import triton_attention, triton_lora, triton_nf4
from sparta_lite.kernels.nf4 import EightBitScales, Nf4
from sparta_lite.kernels.segments import sort_rows

META = torch.device("meta")
BF16, FP32 = torch.bfloat16, torch.float32


def empty(*shape: int, dtype: torch.dtype = BF16) -> torch.Tensor:
    return torch.empty(*shape, dtype=dtype, device=META)


def products_in_four_bits() -> None:
    def matrix(outputs: int) -> Nf4:
        blocks = outputs * 3584 // 64
        scales = EightBitScales(
            empty(256, dtype=FP32), empty(-(-blocks // 256), dtype=FP32), empty(1, dtype=FP32)
        )
        bytes_ = [empty(count, dtype=torch.uint8) for count in (32 * blocks, blocks)]
        return Nf4(bytes_[0], empty(16, dtype=FP32), bytes_[1], scales, 3584)

    triton_nf4.nf4_linear(empty(128, 3584), [matrix(18944), matrix(18944)])
    triton_nf4.nf4_linear(empty(128, 3584), [matrix(3584), matrix(512), matrix(512)], empty(4608))


def attention(dtype: torch.dtype) -> None:
    q, cache = empty(4, 28, 128, dtype=dtype), [empty(4, 4, 512, 128, dtype=dtype) for _ in range(2)]
    triton_attention.newest_attention(q, *cache, empty(4, dtype=torch.int32))


def adapters(dtype: torch.dtype, rank: int, tokens: int, slots: int, width: int) -> None:
    segments = sort_rows([row % slots for row in range(tokens)], [1.0] * slots, META)
    b = [empty(slots, width, rank, dtype=FP32).requires_grad_() for _ in range(2)]
    a = empty(slots, 2 * rank, 3584, dtype=FP32).requires_grad_()
    x, outputs = (
        empty(tokens, 3584, dtype=dtype).requires_grad_(),
        [empty(tokens, width, dtype=dtype) for _ in b],
    )
    with torch.no_grad():
        triton_lora.grouped_lora(outputs, x, a, b, segments)
    results = triton_lora.grouped_lora(outputs, x, a, b, segments)
    torch.autograd.grad(results, [x, a, *b], outputs)


def main() -> None:
    arch = int(sys.argv[1])
    StandIn(arch)
    found: dict[int, dict[str, Any]] = {}
    what = ""
    launch = JITFunction.run

    def noted(self: Any, *args: Any, **named: Any) -> Any:
        compiled = launch(self, *args, **named)
        if id(compiled) not in found:
            found[id(compiled)] = {
                "kernel": self.__name__,
                "of": what,
                **vars(report(compiled)),
                "_": compiled,
            }
        return compiled

    JITFunction.run = noted
    what = "NF4"
    products_in_four_bits()
    # The largest tiles, and a width that 16 does not divide.
    what = "LoRA of rank 128"
    adapters(BF16, 128, 130, 2, 150)
    if arch == HOPPER:
        what = "attention in float32"
        attention(FP32)
    print(json.dumps([{key: each[key] for key in each if key != "_"} for each in found.values()]))


if __name__ == "__main__":
    main()
