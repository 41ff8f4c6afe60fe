"""Launches and bytes of one decoder layer in a decode step, counted on a stand-in for a card.

    python benchmarks/launches.py --json launches.json      # with Triton; no card, no TRITON_INTERPRET

Qwen2.5-7B's shapes, 128 rows of ten adapters of rank 16, 512 positions cached; tensors are on torch's meta
device and have no memory. A layer is what two layers take beyond one. Every operation of torch that is no
mere view counts as one launch, which is what it is on a card for those that are left. Bytes: what each launch
reads and writes, once. The least: weights, adapters, keys and values once, and what enters and leaves each
linear layer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from side_by_side import command_line
from stand_in import StandIn
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import Qwen2Config, Qwen2ForCausalLM

from sparta_lite.engine.bank import Adapter, empty_bank
from sparta_lite.engine.cache import Cache, Step
from sparta_lite.engine.model import FusedDecoder
from sparta_lite.engine.nf4 import FourBit, Range
from sparta_lite.engine.sites import Site
from sparta_lite.files import write_json
from sparta_lite.kernels import choice
from sparta_lite.kernels.nf4 import EightBitScales, Nf4

ROWS, CAPACITY, ADAPTERS, RANK = 128, 512, 10, 16
META = torch.device("meta")
_NO_LAUNCH = {
    *("view", "_unsafe_view", "as_strided", "alias", "detach", "expand", "slice", "select", "t", "transpose"),
    *("permute", "unsqueeze", "squeeze", "split", "split_with_sizes", "unbind"),
    *("empty", "empty_like", "new_empty"),
}
"""Views, and what only makes room."""


@dataclass
class Count(TorchDispatchMode):
    """What is launched inside it."""

    card: StandIn
    names: list[str] = field(default_factory=list)
    bytes: int = 0

    def __post_init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        name = function.overloadpacket.__name__
        if name not in _NO_LAUNCH:
            self.names.append(name)
            inplace = name.endswith("_")
            self.bytes += sum(map(_size, _tensors(args))) + (
                0 if inplace else sum(map(_size, _tensors(result)))
            )
        return result

    def launched(self, name: str, args: Sequence[Any]) -> None:
        """One of Triton's kernels."""
        self.names.append(name)
        if name == "_keep_kernel":  # writes one entry a row into the cache
            turned, _, _, q, k, v, *others = args
            args = turned, q, k, v, k, v, *others
        self.bytes += sum(map(_size, _tensors(args)))


def _tensors(tree: Any) -> Iterator[Tensor]:
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, tuple | list):
        for each in tree:
            yield from _tensors(each)


def _size(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def config(layers: int) -> Qwen2Config:
    return Qwen2Config(
        hidden_size=3584, intermediate_size=18944, num_hidden_layers=layers, num_attention_heads=28,
        num_key_value_heads=4, vocab_size=1024, tie_word_embeddings=True,
    )  # fmt: skip


def decoder_of(layers: int, four_bit: bool) -> FusedDecoder:
    with META:
        model = Qwen2ForCausalLM(config(layers)).to(torch.bfloat16).requires_grad_(False)
    decoder = FusedDecoder(model)
    if four_bit:
        decoder.layers = [
            replace(layer, sites={name: _in_four_bits(site) for name, site in layer.sites.items()})
            for layer in decoder.layers
        ]
    return decoder


def _in_four_bits(site: Site) -> Site:
    assert site.whole is not None
    weights = []
    for width in site.widths:
        blocks = width * site.inputs // 64
        scales = EightBitScales(
            torch.empty(256, device=META),
            torch.empty(-(-blocks // 256), device=META),
            torch.empty((), device=META),
        )
        packed = torch.empty(32 * blocks, dtype=torch.uint8, device=META)
        absmax = torch.empty(blocks, dtype=torch.uint8, device=META)
        weights.append(Nf4(packed, torch.empty(16, device=META), absmax, scales, site.inputs))
    always = Range(1, 1 << 20, ROWS, 1.0, 2.0)
    served = FourBit((), tuple(weights), site.whole.bias, torch.bfloat16, always)
    return replace(site, whole=None, four_bit=served)


@torch.no_grad()
def step_of(card: StandIn, layers: int, four_bit: bool) -> Count:
    """A step of so many layers without embedding's and head's work."""
    decoder = decoder_of(layers, four_bit)
    names = [f"adapter{row % ADAPTERS}" for row in range(ROWS)]
    targets = tuple(name for site in decoder.layers[0].sites.values() for name in site.names)
    adapters = [Adapter(f"adapter{number}", RANK, 16.0, False, targets) for number in range(ADAPTERS)]
    lora = empty_bank(decoder, adapters, torch.float32).lora(names)
    assert lora is not None
    lora[1].segments(1)
    cache = Cache(decoder, ROWS, CAPACITY)
    ids = torch.empty(ROWS, 1, dtype=torch.int64, device=META)
    lengths = torch.empty(ROWS, dtype=torch.int64, device=META)
    count = Count(card)
    card.listener = count.launched
    with count:
        decoder.hidden(ids, ids, Step(cache, lengths, CAPACITY), lora)
    card.listener = None
    return count


def layer_of(card: StandIn, four_bit: bool) -> tuple[list[str], int]:
    """The launches of one layer, by name, and their bytes."""
    one, two = (step_of(card, layers, four_bit) for layers in (1, 2))
    return list((Counter(two.names) - Counter(one.names)).elements()), two.bytes - one.bytes


def least(four_bit: bool) -> int:
    """Bytes that have to move in one layer."""
    shape = config(1)
    hidden, inner, kv = shape.hidden_size, shape.intermediate_size, 4 * 128
    linears = [((hidden, kv, kv), hidden), ((hidden,), hidden), ((inner, inner), hidden), ((hidden,), inner)]
    weights = adapters = streams = 0
    for widths, inputs in linears:
        numbers = inputs * sum(widths)
        weights += numbers * 2 if not four_bit else numbers // 2 + numbers // 64 + 4 * numbers // (64 * 256)
        adapters += 4 * ADAPTERS * RANK * (len(widths) * inputs + sum(widths))
        streams += 2 * ROWS * (inputs + sum(widths))
    return weights + adapters + streams + 2 * 2 * ROWS * CAPACITY * kv


def measure() -> dict[str, dict[str, Any]]:
    card = StandIn()
    choice.use_triton = lambda x: True  # as on a card
    found = {}
    for name, four_bit in (("bf16", False), ("NF4, our product", True)):
        launches, moved = layer_of(card, four_bit)
        found[name] = {
            "launches": len(launches),
            "kernels": dict(Counter(launches)),
            "megabytes": moved / 1e6,
            "moved / least": moved / least(four_bit),
        }
    return found


def main() -> None:
    arguments = command_line(__doc__).parse_args()
    results = measure()
    table = Table(title="One decoder layer in a decode step", title_justify="left")
    for column in ("base", "launches", "MB", "moved / least", "kernels"):
        table.add_column(column)
    for name, each in results.items():
        kernels = ", ".join(f"{kernel} {count}" for kernel, count in sorted(each["kernels"].items()))
        table.add_row(
            name, str(each["launches"]), f"{each['megabytes']:.0f}", f"{each['moved / least']:.2f}", kernels
        )
    Console(width=150).print(table)
    if arguments.json:
        write_json(arguments.json, results)


if __name__ == "__main__":
    main()
