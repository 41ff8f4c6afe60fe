"""What `engine.py --model` measures: the engine on a real model beside PEFT, transformers and TRL."""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset  # type: ignore[import-untyped]
from peers import peft_generate, peft_loop
from real_tribe import RANK, pieces, prompts, real_tribe
from rich.console import Console
from rich.table import Table
from side_by_side import circumstances, deviation, print_circumstances, require, require_near, trl_trainer
from tiny_tribe import NAMES, PAD, Tribe
from transformers import AutoModelForCausalLM

from sparta_lite.engine.chat import Chat
from sparta_lite.engine.decode import Prompt, generate
from sparta_lite.engine.score import expected_scores
from sparta_lite.errors import SpartaError
from sparta_lite.files import write_json
from sparta_lite.kernels.sampling import Sampling
from sparta_lite.randomness import generator
from sparta_lite.training.dpo import train
from sparta_lite.training.packing import TokenizedPair
from sparta_lite.training.phase import DpoSettings

PARTS = ("generation", "judging", "dpo")
GOALS = {
    "generation_vs_peft_loop": 4.0,
    "generation_vs_peft_mixed": 2.0,
    "generation_share_of_lora_free": 0.9,
    "lora_free_vs_transformers_batch": 1.8,
    "judging_vs_5x16": 10.0,
    "dpo_vs_trl": 2.0,
}
EACH, NEW_TOKENS = 4, 48
RESPONSES, JUDGE_TOKENS = 24, 16  # both answers of twelve duels; enough for a score and no more
PAIRS = 8  # four updates: of fewer ours warm up otherwise than those of transformers
DPO = DpoSettings(learning_rate=1e-4, batch=2, micro_batch=1)

Times = dict[str, list[float]]
"""CPU seconds of every side, one for every repeat."""


def in_turns(sides: Mapping[str, Callable[[], Any]], repeats: int) -> tuple[Times, dict[str, Any]]:
    """Times of every side, and what each gave first: who asks has to compare before a time is shown."""
    times: Times = {name: [] for name in sides}
    given: dict[str, Any] = {}
    for _ in range(repeats):
        for name, run in sides.items():
            start = time.process_time()
            result = run()
            times[name].append(time.process_time() - start)
            given.setdefault(name, result)
    return times, given


def generation(tribe: Tribe, repeats: int, names: list[str]) -> tuple[Times, str]:
    """Ten adapters in one batch beside one after another, PEFT's mixed batch, and the bare base."""
    asked = prompts(tribe, names, EACH, seed=1)
    bare = [replace(prompt, adapter=None) for prompt in asked]
    plain = AutoModelForCausalLM.from_pretrained(tribe.path, dtype=torch.float32).eval()
    plain.generation_config.eos_token_id = None

    def ours(rows: list[Prompt]) -> list[list[int]]:
        greedy = Sampling(temperature=0)
        found = generate(tribe.base, tribe.bank, rows, greedy, NEW_TOKENS, len(rows))
        return [list(row.ids) for row in found]

    sides = {
        "ours": lambda: ours(asked),
        "ours without LoRA": lambda: ours(bare),
        "PEFT loop": lambda: peft_loop(tribe, asked, NEW_TOKENS),
        "PEFT mixed batch": lambda: peft_generate(
            tribe, asked, NEW_TOKENS, adapter_names=[prompt.adapter for prompt in asked]
        ),
        "transformers, bare base, one batch": lambda: peft_generate(
            replace(tribe, peft=plain), bare, NEW_TOKENS
        ),
    }
    times, given = in_turns(sides, repeats)
    require(given["ours"] == given["PEFT loop"], "our greedy tokens and those of PEFT's loop")
    require(given["ours"] == given["PEFT mixed batch"], "our greedy tokens and those of PEFT's mixed batch")
    alone = given["transformers, bare base, one batch"]
    require(given["ours without LoRA"] == alone, "greedy tokens of the bare base")
    return times, "same greedy tokens"


def judging(tribe: Tribe, repeats: int, names: list[str]) -> tuple[Times, str]:
    """One judge, for both sides judge model after model. Two answers of 48 tokens share their question; the
    request behind each has 48 as well."""
    questions = pieces(tribe, RESPONSES // 2, 16, 64, seed=3)
    tails = pieces(tribe, RESPONSES, 96, 96, seed=4)
    asked = [Prompt(names[0], questions[number // 2] + tail) for number, tail in enumerate(tails)]
    tokens = Chat(tribe.base.tokenizer, None, "turns", "").score_tokens
    sampled = {"do_sample": True, "temperature": 0.7, "top_k": 50, "top_p": 0.95}

    def ours() -> list[float | None]:
        scores = expected_scores(tribe.base, tribe.bank, asked, tokens, 0.0, 2048)
        return [score.value for score in scores]

    def rounds() -> None:
        for _ in range(5):
            peft_generate(tribe, asked, JUDGE_TOKENS, **sampled)

    def reference(prompt: Prompt) -> float:
        """The same expectation from PEFT's logits."""
        ids = torch.tensor([[*prompt.ids, *tokens.prefix, tokens.digits[0]]])
        with torch.no_grad():
            first, second = tribe.peft(input_ids=ids).logits[0, -2:].double().softmax(-1)
        chances = first[list(tokens.digits)]
        ten = first[tokens.ten[0]] if len(tokens.ten) == 1 else chances[0] * second[tokens.ten[1]]
        if len(tokens.ten) > 1:
            chances[0] -= ten
        chances = torch.cat([chances, ten[None]])
        return float((chances * torch.arange(1, 11)).sum() / chances.sum())

    tribe.peft.set_adapter(names[0])
    times, given = in_turns({"ours, one pass": ours, "PEFT 5 x 16": rounds}, repeats)
    apart = [abs(own - reference(prompt)) for own, prompt in zip(given["ours, one pass"], asked, strict=True)]
    return times, f"expected scores within {require_near(apart, 1e-3, 'expected scores'):.1e} of PEFT's"


def dpo(tribe: Tribe, repeats: int, names: list[str], adapters: Path) -> tuple[Times, str]:
    """One epoch of the same pairs for every adapter: TRL trains one adapter after another."""
    parts = [pieces(tribe, PAIRS, 16, 64, seed=seed) for seed in (5, 6, 7)]
    pairs = [TokenizedPair(*each) for each in zip(*parts, strict=True)]
    order = list(range(PAIRS))
    generator(0, "dpo", 0, 0).shuffle(order)  # our own order of the first epoch
    sides = ("prompt", "chosen", "rejected")
    rows = [{side: list(getattr(pairs[index], side)) for side in sides} for index in order]
    texts = [{side: tribe.base.tokenizer.decode(ids) for side, ids in row.items()} for row in rows]
    tokens = Dataset.from_list([{f"{side}_ids": ids for side, ids in row.items()} for row in rows])
    start, bank = tribe.bank.snapshot(), tribe.bank.part(0, len(names))
    times: Times = {"ours": [], "TRL, one after another": []}
    apart: list[float] = []
    for _ in range(repeats):
        tribe.bank.restore(start)
        begin = time.process_time()
        train(tribe.base.decoder, bank, pairs, DPO, seed=0, iteration=0, pad=PAD, on_step=lambda _: None)
        times["ours"].append(time.process_time() - begin)
        spent = 0.0
        for slot, name in enumerate(names):
            # Loading, tokenising and building the trainer is left out of TRL's time.
            scratch = adapters / "trl"
            trainer = trl_trainer(tribe.path, adapters / name, scratch, Dataset.from_list(texts), DPO)
            trainer.train_dataset = tokens  # the very tokens, not their text tokenised anew
            begin = time.process_time()
            trainer.train()
            spent += time.process_time() - begin
            apart.append(deviation(bank, start, slot, trainer.model))
            del trainer
        times["TRL, one after another"].append(spent)
    tribe.bank.restore(start)
    share = require_near(apart, 1e-2, "weights that our DPO and TRL's end with")
    return times, f"weights apart by {share:.1e} of their movement"


def ratios(times: Mapping[str, Times]) -> dict[str, list[float]]:
    """Every ratio of ``GOALS`` that was measured, one for every repeat."""
    asked = {
        "generation_vs_peft_loop": ("generation", "PEFT loop", "ours"),
        "generation_vs_peft_mixed": ("generation", "PEFT mixed batch", "ours"),
        "generation_share_of_lora_free": ("generation", "ours without LoRA", "ours"),
        "lora_free_vs_transformers_batch": (
            "generation",
            "transformers, bare base, one batch",
            "ours without LoRA",
        ),
        "judging_vs_5x16": ("judging", "PEFT 5 x 16", "ours, one pass"),
        "dpo_vs_trl": ("dpo", "TRL, one after another", "ours"),
    }
    return {
        name: [over / under for over, under in zip(times[part][top], times[part][bottom], strict=True)]
        for name, (part, top, bottom) in asked.items()
        if part in times
    }


def measure(arguments: Namespace, repeats: int) -> None:
    """Run the parts that were asked for, print their tables, write the figures."""
    console, names = Console(), NAMES[:2] if arguments.quick else NAMES
    times: dict[str, Times] = {}
    with tempfile.TemporaryDirectory() as directory:
        adapters = Path(directory)
        try:
            tribe = real_tribe(arguments.model, adapters, names)
        except SpartaError as error:
            sys.exit(f"error: {error}")
        for part in arguments.only or PARTS:
            if part == "generation":
                title = f"{len(names)} adapters of rank {RANK} x {EACH} prompts x {NEW_TOKENS} tokens"
                times[part], note = generation(tribe, repeats, names)
            elif part == "judging":
                title = f"one judge x {RESPONSES} responses"
                times[part], note = judging(tribe, repeats, names)
            else:
                title = f"{len(names)} adapters, {PAIRS} pairs, {PAIRS // DPO.batch} updates"
                times[part], note = dpo(tribe, repeats, names, adapters)
            _print(console, f"{part}, {title}\n({note})", times[part])
    found = ratios(times)
    for name, values in found.items():
        spread = f"{min(values):.2f} to {max(values):.2f}"
        line = f"{name:34} {statistics.median(values):6.2f}  ({spread})  goal {GOALS[name]}"
        console.print(line, highlight=False)
    facts = circumstances()
    print_circumstances(console, facts)
    if arguments.json:
        report = {"model": Path(arguments.model).name, "ratios": found, "cpu_seconds": times, "goals": GOALS}
        write_json(arguments.json, report | {"repeats": repeats} | facts)


def _print(console: Console, title: str, times: Times) -> None:
    table = Table(title=title, title_justify="left", min_width=60)
    for column in ("variant", "CPU seconds", "from", "to"):
        table.add_column(column, justify="left" if column == "variant" else "right")
    for name, values in times.items():
        numbers = (statistics.median(values), min(values), max(values))
        table.add_row(name, *(f"{number:.2f}" for number in numbers))
    console.print(table)
