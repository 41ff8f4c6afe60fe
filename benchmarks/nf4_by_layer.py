"""Which matrices of a Qwen3.5 its error in 4 bits comes from.

    python benchmarks/nf4_by_layer.py --json nf4_by_layer.json
    python benchmarks/nf4_by_layer.py --base Qwen/Qwen3.5-0.8B --text some.txt

One kind of matrix at a time is rounded to NF4 in all layers (blocks of 64, scales doubly quantised, as
bitsandbytes holds them) and the base reads the same tokens as before. Told are the kind's share of all
numbers in the decoder's matrices, how far the next-token distributions moved (mean Kullback-Leibler
divergence, in thousandths of a nat), and that again for a hundredth of the numbers: what it costs to save
memory there. All kinds together stand last.

Without --base it is a tiny model with **random** weights, whose matrices have no outliers and whose states
forget as fast as at initialisation: its figures rank kinds by how the architecture passes their errors on,
not as a trained model does.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from bitsandbytes.functional import dequantize_4bit, quantize_4bit
from rich.console import Console
from rich.table import Table
from side_by_side import circumstances, command_line, one_thread, print_circumstances
from tiny_tribe import HYBRID, save_tokenizer
from torch import Tensor
from transformers import AutoModelForCausalLM, Qwen3_5TextConfig

from sparta_lite.engine.base import Base, load_base
from sparta_lite.engine.sequences import WholeSequences
from sparta_lite.files import write_json

LENGTH, ROWS = 512, 4
TOGETHER = "all of them"


def kinds(base: Base) -> dict[str, list[Any]]:
    """Linear modules of the decoder layers by the last part of their name."""
    found: dict[str, list[Any]] = {}
    for name, module in base.model.model.layers.named_modules():
        if isinstance(module, torch.nn.Linear):
            found.setdefault(name.rpartition(".")[2], []).append(module)
    return found


def rounded(weight: Tensor) -> Tensor:
    packed, state = quantize_4bit(
        weight.contiguous(), blocksize=64, compress_statistics=True, quant_type="nf4"
    )
    back: Tensor = dequantize_4bit(packed, state)
    return back.to(weight.dtype)


@torch.no_grad()
def distributions(base: Base, ids: Tensor) -> Tensor:
    """log p of every next token, [rows, length, vocabulary], row by row."""
    decoder = base.decoder
    positions = torch.arange(ids.shape[1])[None]
    rows = [
        decoder.logits(decoder.hidden(row[None], positions, WholeSequences(decoder.mixers), None)).float()
        for row in ids
    ]
    return torch.cat(rows).log_softmax(-1)


@torch.no_grad()
def divergence(base: Base, ids: Tensor, before: Tensor, modules: Sequence[Any]) -> float:
    """How far the base moves while these modules are rounded."""
    kept = [module.weight.clone() for module in modules]
    for module in modules:
        module.weight.copy_(rounded(module.weight))
    after = distributions(base, ids)
    for module, weight in zip(modules, kept, strict=True):
        module.weight.copy_(weight)
    return float((before.exp() * (before - after)).sum(-1).mean())


def random_base(path: Path) -> Base:
    save_tokenizer(path)
    config = Qwen3_5TextConfig(
        **{**HYBRID, "num_hidden_layers": 8},
        max_position_embeddings=1024,
        eos_token_id=256,
        pad_token_id=257,
        tie_word_embeddings=True,
        initializer_range=0.05,
    )
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(path)
    return load_base(path, torch.device("cpu"))


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--base", help="a directory or hub id; without it a tiny random model")
    parser.add_argument("--text", type=Path, help="what the base reads; without it random tokens")
    arguments = parser.parse_args()
    one_thread()
    console = Console()
    with tempfile.TemporaryDirectory() as directory:
        if arguments.base:
            base = load_base(arguments.base, torch.device("cpu"), torch.bfloat16)
        else:
            base = random_base(Path(directory))
        if arguments.text:
            tokens = base.tokenizer(arguments.text.read_text(encoding="utf-8")).input_ids
            rows = max(1, min(ROWS, len(tokens) // LENGTH))
            ids = torch.tensor(tokens[: rows * LENGTH]).view(rows, -1)
        else:
            dice = torch.Generator().manual_seed(1)
            ids = torch.randint(256, (ROWS, LENGTH), generator=dice)
        before = distributions(base, ids)
        found = kinds(base)
        total = sum(module.weight.numel() for modules in found.values() for module in modules)
        rows_of: dict[str, dict[str, float]] = {}
        everything = [module for modules in found.values() for module in modules]
        for name, modules in {**found, TOGETHER: everything}.items():
            share = sum(module.weight.numel() for module in modules) / total
            moved = 1e3 * divergence(base, ids, before, modules)
            rows_of[name] = {"share": share, "divergence": moved, "per_hundredth": moved / (100 * share)}
    table = Table(title="one kind of matrix in NF4", title_justify="left")
    for column in ("kind", "% of numbers", "KL x 1000", "for 1 %"):
        table.add_column(column, justify="left" if column == "kind" else "right")
    last = rows_of.pop(TOGETHER)
    ordered = dict(sorted(rows_of.items(), key=lambda item: -item[1]["divergence"]))
    for name, row in {**ordered, TOGETHER: last}.items():
        table.add_row(
            name, f"{100 * row['share']:.2f}", f"{row['divergence']:.3f}", f"{row['per_hundredth']:.3f}"
        )
    console.print(table)
    facts = circumstances()
    print_circumstances(console, facts)
    if arguments.json:
        report = {"base": arguments.base or "tiny, random weights", "kinds": {**ordered, TOGETHER: last}}
        write_json(arguments.json, report | facts)


if __name__ == "__main__":
    main()
