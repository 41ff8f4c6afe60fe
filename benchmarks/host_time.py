"""Python before a launch: microseconds of a CPU core for each of the kernels' entry points.

    python benchmarks/host_time.py --json host.json      # with Triton; no card, no TRITON_INTERPRET

Shapes are those of Qwen2.5-7B: 128 rows of ten adapters of rank 16 in a decode step, 5,500 tokens in
training. Tensors are on torch's meta device and a stand-in takes the launches (``stand_in.py``): what is left
is what a card would wait for. Medians of rounds, in CPU time.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from side_by_side import command_line
from stand_in import StandIn
from torch import Tensor

from sparta_lite.files import write_json
from sparta_lite.kernels import triton_attention, triton_lora
from sparta_lite.kernels.nf4 import EightBitScales, Nf4
from sparta_lite.kernels.segments import sort_rows
from sparta_lite.kernels.triton_nf4 import nf4_linear

HIDDEN, INNER, RANK, ADAPTERS, ROWS, TOKENS = 3584, 18944, 16, 10, 128, 5500
DTYPE = torch.bfloat16
ROUNDS, CALLS = 15, 40
META = torch.device("meta")


def normal(*shape: int, dtype: torch.dtype = DTYPE) -> Tensor:
    return torch.empty(*shape, dtype=dtype, device=META)


def matrix(outputs: int, inputs: int) -> Nf4:
    numbers = outputs * inputs
    fp32, blocks = torch.float32, numbers // 64
    scales = EightBitScales(
        normal(256, dtype=fp32), normal(-(-blocks // 256), dtype=fp32), normal(1, dtype=fp32)
    )
    packed, absmax = normal(numbers // 2, dtype=torch.uint8), normal(blocks, dtype=torch.uint8)
    return Nf4(packed, normal(16, dtype=fp32), absmax, scales, inputs)


def sides() -> dict[str, Callable[[], object]]:
    """What is timed, by name."""
    a = normal(ADAPTERS, 2 * RANK, HIDDEN, dtype=torch.float32)
    b = [normal(ADAPTERS, INNER, RANK, dtype=torch.float32) for _ in range(2)]
    found: dict[str, Callable[[], object]] = {}
    decode = sort_rows([row % ADAPTERS for row in range(ROWS)], [1.0] * ADAPTERS, META)
    x, outputs = normal(ROWS, HIDDEN), [normal(ROWS, INNER) for _ in range(2)]
    low = triton_lora._shrink((x,), (a,), 1, decode, DTYPE, None, parted=True)
    found["shrink"] = lambda: triton_lora._shrink((x,), (a,), 1, decode, DTYPE, None, parted=True)
    found["expand"] = lambda: triton_lora._expand(outputs, outputs, low, b, 2, decode, DTYPE)
    found["gate and up, decode"] = lambda: triton_lora.grouped_lora(outputs, x, a, b, decode)

    train = sort_rows([row % ADAPTERS for row in range(TOKENS)], [1.0] * ADAPTERS, META)
    leaves = [each.detach().requires_grad_() for each in (normal(TOKENS, HIDDEN), a, *b)]
    wide = [normal(TOKENS, INNER) for _ in range(2)]
    with torch.enable_grad():
        results = triton_lora.grouped_lora(wide, leaves[0], leaves[1], leaves[2:], train)
    found["gate and up, backward"] = lambda: torch.autograd.grad(results, leaves, wide, retain_graph=True)

    def forward() -> object:
        with torch.enable_grad():
            return triton_lora.grouped_lora(wide, leaves[0], leaves[1], leaves[2:], train)

    found["gate and up, forward of training"] = forward
    weight = matrix(INNER, HIDDEN)
    found["NF4 product"] = lambda: nf4_linear(x, weight)
    q, keys, values = normal(ROWS, 28, 128), normal(ROWS, 4, 512, 128), normal(ROWS, 4, 512, 128)
    counts = normal(ROWS, dtype=torch.int32)
    found["attention of a step"] = lambda: triton_attention.newest_attention(q, keys, values, counts)
    return found


def microseconds(run: Callable[[], object]) -> float:
    """Of one call: the median of rounds, in CPU time of this process."""
    taken = []
    for _ in range(ROUNDS):
        start = time.process_time()
        for _ in range(CALLS):
            run()
        taken.append((time.process_time() - start) / CALLS)
    return 1e6 * statistics.median(taken)


@torch.no_grad()
def measure() -> dict[str, float]:
    torch.set_num_threads(1)
    StandIn()
    found = sides()
    for run in found.values():
        run()
    return {name: microseconds(run) for name, run in found.items()}


def main() -> None:
    arguments = command_line(__doc__).parse_args()
    results = measure()
    table = Table(title="Python before a launch", title_justify="left")
    for column in ("entry point", "us of a CPU core"):
        table.add_column(column, justify="right" if column.startswith("us") else "left")
    for name, each in results.items():
        table.add_row(name, f"{each:.1f}")
    Console().print(table)
    if arguments.json:
        write_json(Path(arguments.json), results)


if __name__ == "__main__":
    main()
