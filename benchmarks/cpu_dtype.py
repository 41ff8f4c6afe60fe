"""Whether a CPU should compute in bf16: the pocket tribe in both, side by side.

    python benchmarks/cpu_dtype.py
    python benchmarks/cpu_dtype.py --products 896 4864    # bare products of a base so wide, int8 as well

bf16 would be taken if it were faster and gave the same greedy answers. Both sides judge what fp32 answers.
Figures are CPU seconds of this process, medians of runs in turns.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from rich.console import Console
from side_by_side import circumstances, command_line, medians, one_thread, print_circumstances, print_table

from sparta_lite.campaign.config import load_config
from sparta_lite.engine.base import load_base
from sparta_lite.engine.chat import Chat
from sparta_lite.engine.decode import Prompt, generate
from sparta_lite.engine.peft_io import load_bank, read_adapter
from sparta_lite.engine.processor import compared
from sparta_lite.engine.score import expected_scores
from sparta_lite.files import write_json
from sparta_lite.kernels.sampling import Sampling
from sparta_lite.pocket import adapter_paths, base_path, items

NEW_TOKENS = 24
GREEDY = Sampling(temperature=0)


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--quick", action="store_true", help="one repeat of 10 questions: a smoke test")
    parser.add_argument("--products", type=int, nargs=2, metavar=("HIDDEN", "INNER"))
    arguments = parser.parse_args()
    if arguments.products:
        one_thread()
        hidden, inner = arguments.products
        products(hidden, inner, (20,) if arguments.quick else (1, 20, 64, 512), Console())
        return
    count, repeats = (10, 1) if arguments.quick else (100, 3)
    one_thread()
    settings = load_config(None, [])
    tribes = {}
    for dtype in (torch.float32, torch.bfloat16):
        base = load_base(base_path(), torch.device("cpu"), dtype)
        files = [read_adapter(name, path) for name, path in adapter_paths().items()]
        tribes[str(dtype).removeprefix("torch.")] = base, load_bank(base.decoder, files)
    base, bank = tribes["float32"]
    chat = Chat(base.tokenizer, None, settings.judge.layout, settings.judge.wording)
    names = [adapter.name for adapter in bank.adapters]
    questions = [item.question for item in items("held-out", count)]
    prompts = [Prompt(name, chat.question(each, 200).ids) for name in names for each in questions]

    def answers(dtype: str) -> list[tuple[int, ...]]:
        return [row.ids for row in generate(*tribes[dtype], prompts, GREEDY, NEW_TOKENS, 256)]

    exact = answers("float32")
    read = [
        Prompt(name, paper.ids)
        for number, (name, question) in enumerate((name, each) for name in names for each in questions)
        if (paper := chat.judge(question, exact[number], 512)) is not None
    ]

    def scores(dtype: str) -> list[float]:
        found = expected_scores(*tribes[dtype], read, chat.score_tokens, 0.0, 1024)
        return [each.value for each in found if each.value is not None]

    same = sum(one == other for one, other in zip(exact, answers("bfloat16"), strict=True))
    apart = max(abs(one - other) for one, other in zip(scores("float32"), scores("bfloat16"), strict=True))
    console, seconds = Console(), {}
    works: dict[str, tuple[Callable[[str], object], str]] = {
        "generation": (answers, f"{same} of {len(exact)} greedy answers are the same"),
        "judging": (scores, f"scores up to {apart:.2f} apart"),
    }
    for title, (work, note) in works.items():
        seconds[title] = medians({dtype: partial(work, dtype) for dtype in tribes}, repeats)
        print_table(console, title, seconds[title], note)
    facts = circumstances()
    print_circumstances(console, facts)
    if arguments.json:
        report = {"cpu_seconds": seconds, "answers": len(exact), "same_answers": same, "scores_apart": apart}
        write_json(arguments.json, report | facts)


def products(hidden: int, inner: int, rows: tuple[int, ...], console: Console) -> None:
    """Gate and up, and down, in fp32, bf16 and two kinds of int8."""
    for inputs, outputs in ((hidden, 2 * inner), (inner, hidden)):
        layer = torch.nn.Linear(inputs, outputs, bias=False)
        weight = layer.weight.data
        scales = weight.abs().amax(1) / 127
        packed = (weight / scales[:, None]).round().to(torch.int8)
        half, half_scales = weight.bfloat16(), scales.bfloat16()
        quantized = torch.ao.quantization.quantize_dynamic(
            torch.nn.Sequential(layer), {torch.nn.Linear}, torch.qint8
        )
        for count in rows:
            x = torch.randn(count, inputs)
            y = x.bfloat16()
            sides: dict[str, Callable[[], object]] = {
                "fp32": partial(F.linear, x, weight),
                "bf16": partial(F.linear, y, half),
                "int8, weights": partial(torch.ops.aten._weight_int8pack_mm, y, packed, half_scales),
                "int8, all": partial(quantized, x),
            }
            with torch.no_grad():
                taken = compared(list(sides.values()))
            found = {name: 1e6 * seconds for name, seconds in zip(sides, taken, strict=True)}
            print_table(console, "product", found, f"{inputs} to {outputs}, {count} rows", "CPU microseconds")


if __name__ == "__main__":
    main()
