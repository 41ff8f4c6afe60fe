"""Whether a CPU should compute in bf16: the pocket tribe in both, side by side.

    python benchmarks/cpu_dtype.py

bf16 would be taken if it were faster and gave the same greedy answers.
"""

from __future__ import annotations

import torch
import transformers
from rich.console import Console
from side_by_side import medians, print_table

from sparta_lite.campaign.config import load_config
from sparta_lite.engine.base import load_base
from sparta_lite.engine.chat import Chat
from sparta_lite.engine.decode import Prompt, generate
from sparta_lite.engine.peft_io import load_bank, read_adapter
from sparta_lite.engine.score import expected_scores
from sparta_lite.kernels.sampling import Sampling
from sparta_lite.pocket import adapter_paths, base_path, items

QUESTIONS, NEW_TOKENS, REPEATS = 100, 24, 3
GREEDY = Sampling(temperature=0)


def main() -> None:
    torch.set_num_threads(1)
    transformers.logging.disable_progress_bar()
    settings = load_config(None, [])
    tribes = {}
    for dtype in (torch.float32, torch.bfloat16):
        base = load_base(base_path(), torch.device("cpu"), dtype)
        files = [read_adapter(name, path) for name, path in adapter_paths().items()]
        tribes[str(dtype).removeprefix("torch.")] = base, load_bank(base.decoder, files)
    base, bank = tribes["float32"]
    chat = Chat(base.tokenizer, None, settings.judge.layout, settings.judge.wording)
    names = [adapter.name for adapter in bank.adapters]
    questions = [item.question for item in items("held-out", QUESTIONS)]
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
    console = Console()
    for title, work, note in (
        ("generation", answers, f"{same} of {len(exact)} greedy answers are the same"),
        ("judging", scores, f"scores up to {apart:.2f} apart"),
    ):
        sides = {dtype: lambda dtype=dtype, work=work: work(dtype) for dtype in tribes}
        print_table(console, title, medians(sides, REPEATS), note)


if __name__ == "__main__":
    main()
