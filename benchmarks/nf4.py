"""Linear layers in NF4: bitsandbytes' module, our product, the unpacked matrix, and the floor.

    python benchmarks/nf4.py --json nf4.json      # a GPU: Qwen2.5-7B's four shapes, 8 to 256 tokens

Microseconds, medians of alternated launches that find the second cache cold, as it is between the layers of a
model. The floor is the larger of two: the bytes of packed matrix, scales, inputs and outputs over the rate
at which this card copies, and the operations over its best rate of bf16 matrix products; both are measured.
Results are compared before anything is timed. **Not yet run on a GPU.**
"""

from __future__ import annotations

import sys
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from side_by_side import command_line, require_cuda, require_near

from sparta_lite.engine.nf4 import COUNTS, crossover, read, time_both
from sparta_lite.files import write_json
from sparta_lite.kernels.choice import choose_kernels
from sparta_lite.kernels.nf4 import Nf4

SHAPES = {  # Qwen2.5-7B: outputs, inputs
    "q, o": (3584, 3584),
    "k, v": (512, 3584),
    "gate, up": (18944, 3584),
    "down": (3584, 18944),
}
SIDES = ("module", "ours", "bf16", "floor")
DTYPE = torch.bfloat16


def make_layer(outputs: int, inputs: int) -> Any:
    """A Linear4bit of random weights, doubly quantised like those of a base."""
    from bitsandbytes.nn import Linear4bit

    with torch.device("cuda"):
        layer = Linear4bit(inputs, outputs, bias=False, compute_dtype=DTYPE, quant_type="nf4")
        weight = torch.randn(outputs, inputs, generator=torch.Generator("cuda").manual_seed(0))
    layer.weight.data = weight.to(DTYPE)
    return layer.to("cuda").eval()


def rates() -> tuple[float, float]:
    """Bytes that a copy moves, read and written, and operations of a product in bf16, both a microsecond."""
    source = torch.ones(1 << 29, dtype=torch.uint8, device="cuda")
    into = torch.empty_like(source)
    square = torch.randn(8192, 8192, dtype=DTYPE, device="cuda")
    copy, product = time_both(partial(into.copy_, source), partial(torch.mm, square, square))
    return 2 * source.nbytes / copy, 2 * len(square) ** 3 / product


def floor(weight: Nf4, tokens: int, bandwidth: float, peak: float) -> float:
    """Microseconds, with rates a microsecond."""
    scales = weight.absmax.nbytes + (0 if weight.eight_bit is None else weight.eight_bit.absmax.nbytes)
    states = tokens * (weight.width + weight.outputs) * DTYPE.itemsize
    operations = 2 * tokens * weight.width * weight.outputs
    return max((weight.packed.nbytes + scales + states) / bandwidth, operations / peak)


def measure(layer: Any, bandwidth: float, peak: float) -> dict[int, dict[str, float]]:
    """Microseconds of every side for each number of tokens."""
    from bitsandbytes.functional import dequantize_4bit

    from sparta_lite.kernels.triton_nf4 import nf4_linear

    weight = read(layer)
    assert weight is not None
    matrix = dequantize_4bit(layer.weight.data, layer.weight.quant_state).to(DTYPE)
    generator = torch.Generator("cuda").manual_seed(1)
    x = torch.randn(COUNTS[-1], weight.width, generator=generator, device="cuda").to(DTYPE)
    times = {}
    for count in COUNTS:
        rows = x[:count]
        found, expected = nf4_linear(rows, weight).float(), layer(rows).float()
        apart = float((found - expected).norm() / expected.norm())
        require_near([apart], 1e-2, f"our and bitsandbytes' results of {count} tokens")
        ours, module = time_both(partial(nf4_linear, rows, weight), partial(layer, rows))
        plain, _ = time_both(partial(F.linear, rows, matrix), partial(layer, rows))
        least = floor(weight, count, bandwidth, peak)
        times[count] = dict(zip(SIDES, (module, ours, plain, least), strict=True))
    return times


def show(console: Console, name: str, times: dict[int, dict[str, float]]) -> None:
    found = crossover([(each["ours"], each["module"]) for each in times.values()])
    served = "ours serves none" if found is None else f"ours serves {found.least} to {found.most} tokens"
    outputs, inputs = SHAPES[name]
    table = Table(title=f"{name}: {outputs} x {inputs} ({served})", title_justify="left", min_width=70)
    for column in ("tokens", *SIDES, "module / ours", "ours / floor"):
        table.add_column(column, justify="right")
    for count, each in times.items():
        ratios = each["module"] / each["ours"], each["ours"] / each["floor"]
        table.add_row(
            str(count), *(f"{each[side]:.1f}" for side in SIDES), *(f"{each:.2f}" for each in ratios)
        )
    console.print(table)


@torch.no_grad()
def main() -> None:
    arguments = command_line(__doc__).parse_args()
    require_cuda()
    kernels, why = choose_kernels(torch.device("cuda"), DTYPE)
    if kernels != "triton":
        print(f"error: our product needs Triton: {why}", file=sys.stderr)
        sys.exit(2)
    bandwidth, peak = rates()
    console = Console()
    device = torch.cuda.get_device_name()
    console.print(f"{device}: copies {bandwidth / 1e6:.2f} TB/s, bf16 products {peak / 1e6:.0f} TFLOP/s")
    results: dict[str, Any] = {"device": device, "bytes/us": bandwidth, "operations/us": peak}
    for name, shape in SHAPES.items():
        times = measure(make_layer(*shape), bandwidth, peak)
        show(console, name, times)
        results[name] = times
    if arguments.json:
        write_json(arguments.json, results)


if __name__ == "__main__":
    main()
