"""Our engine beside PEFT and TRL, in one process on one CPU thread.

    python benchmarks/engine.py --json engine.json

The model and its ten adapters are made on the spot from a fixed seed. Every comparison checks that both
sides give the same result before it reports a time, and runs them in turns. Figures are CPU seconds of
this process, which other programs disturb less than the clock; with one thread the two agree on a quiet
machine.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import transformers
from datasets import Dataset, disable_progress_bars  # type: ignore[import-untyped]
from peft import PeftModel
from rich.console import Console
from rich.table import Table
from tiny_tribe import NAMES, PAD, Tribe, make_tribe
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from sparta_lite.engine.bank import Bank
from sparta_lite.engine.chat import Chat
from sparta_lite.engine.decode import Prompt, generate
from sparta_lite.engine.score import expected_scores
from sparta_lite.files import write_json
from sparta_lite.kernels.sampling import Sampling
from sparta_lite.randomness import generator
from sparta_lite.training.dpo import train
from sparta_lite.training.packing import TokenizedPair
from sparta_lite.training.phase import DpoSettings

STOPS = list(range(300, 316))  # 16 of 512 tokens: greedy answers of this model end after 32 in the mean
NEW_TOKENS, LONGEST_ANSWER = 48, 256
PUBLISHED = {"do_sample": True, "temperature": 0.7, "top_k": 50, "top_p": 0.95}
JUDGE_BATCH = 20  # the published code reads both responses of ten duels at once
GREEDY = Sampling(temperature=0)
# Of 8, 4, 2 and 1 pairs in a pass ours is fastest with 1; TRL is as fast with 8, a whole batch, as with any.
DPO = DpoSettings(learning_rate=1e-4, batch=8, micro_batch=1)
PAIRS = 32

Seconds = dict[str, float]


def random_prompts(names: list[str], each: int, shortest: int, longest: int, seed: int) -> list[Prompt]:
    rng = random.Random(seed)
    return [
        Prompt(name, tuple(rng.randrange(256) for _ in range(rng.randint(shortest, longest))))
        for name in names
        for _ in range(each)
    ]


def peft_generate(tribe: Tribe, prompts: list[Prompt], new_tokens: int, **options: Any) -> list[list[int]]:
    """One static batch, padded on the left, as PEFT and transformers run it."""
    longest = max(len(prompt.ids) for prompt in prompts)
    padding = [longest - len(prompt.ids) for prompt in prompts]
    ids = [[PAD] * pad + list(prompt.ids) for pad, prompt in zip(padding, prompts, strict=True)]
    mask = [[0] * pad + [1] * (longest - pad) for pad in padding]
    options = {"do_sample": False, "eos_token_id": None} | options
    with torch.no_grad():
        out = tribe.peft.generate(
            input_ids=torch.tensor(ids),
            attention_mask=torch.tensor(mask),
            max_new_tokens=new_tokens,
            **options,
        )
    return [row[longest:].tolist() for row in out]


def peft_loop(tribe: Tribe, prompts: list[Prompt], new_tokens: int, **options: Any) -> list[list[int]]:
    """Adapter after adapter through ``set_adapter``, all prompts of one adapter in one batch."""
    rows = []
    for name in dict.fromkeys(prompt.adapter for prompt in prompts):
        tribe.peft.set_adapter(name)
        own = [prompt for prompt in prompts if prompt.adapter == name]
        rows += peft_generate(tribe, own, new_tokens, **options)
    return rows


def medians(sides: Mapping[str, Callable[[], object]], repeats: int) -> Seconds:
    """CPU seconds of every side: they take turns, so that whatever disturbs one disturbs the others."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, run in sides.items():
            start = time.process_time()
            run()
            times[name].append(time.process_time() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def require(equal: bool, what: str) -> None:
    if not equal:
        sys.exit(f"error: {what} differ: no times are taken from sides that do different work")


def generation(tribe: Tribe, repeats: int) -> Seconds:
    prompts = random_prompts(NAMES, 8, 16, 64, seed=1)
    bare = [replace(prompt, adapter=None) for prompt in prompts]
    base = replace(tribe.base, stops=frozenset())

    def ours() -> list[list[int]]:
        return [list(row.ids) for row in generate(base, tribe.bank, prompts, GREEDY, NEW_TOKENS, 80)]

    def lora_free() -> list[list[int]]:
        return [list(row.ids) for row in generate(base, tribe.bank, bare, GREEDY, NEW_TOKENS, 80)]

    def loop() -> list[list[int]]:
        return peft_loop(tribe, prompts, NEW_TOKENS)

    def mixed() -> list[list[int]]:
        names = [prompt.adapter for prompt in prompts]
        return peft_generate(tribe, prompts, NEW_TOKENS, adapter_names=names)

    expected = ours()
    require(expected == loop(), "our greedy tokens and those of PEFT's loop")
    require(expected == mixed(), "our greedy tokens and those of PEFT's mixed batch")
    with tribe.peft.disable_adapter():
        require(lora_free() == peft_generate(tribe, bare, NEW_TOKENS), "greedy tokens of the bare base")
    sides = {"ours": ours, "ours without LoRA": lora_free, "PEFT loop": loop, "PEFT mixed batch": mixed}
    return medians(sides, repeats)


def mixed_lengths(tribe: Tribe, repeats: int, names: list[str]) -> tuple[Seconds, list[int]]:
    prompts = random_prompts(names, 24, 16, 64, seed=2)
    base = replace(tribe.base, stops=frozenset(STOPS))

    def ours() -> list[list[int]]:
        return [list(row.ids) for row in generate(base, tribe.bank, prompts, GREEDY, LONGEST_ANSWER, 80)]

    def loop() -> list[list[int]]:
        return peft_loop(tribe, prompts, LONGEST_ANSWER, eos_token_id=STOPS)

    expected = ours()
    answers = [row[: len(own)] for row, own in zip(loop(), expected, strict=True)]
    require(expected == answers, "our greedy tokens and PEFT's at mixed lengths")
    return medians({"ours": ours, "PEFT loop": loop}, repeats), [len(row) for row in expected]


def judging(tribe: Tribe, repeats: int) -> tuple[Seconds, float]:
    """One judge, for both sides judge model after model. Its prompts have 112 to 160 tokens: a question of
    16 to 64, an answer of 48, the request around them."""
    prompts = random_prompts(NAMES[:1], JUDGE_BATCH, 112, 160, seed=3)
    tokens = Chat(tribe.base.tokenizer, None, "turns", "").score_tokens

    def ours() -> list[float]:
        scores = expected_scores(tribe.base, tribe.bank, prompts, tokens, 0.0, 4096)
        return [score.value for score in scores if score.value is not None]

    def rounds(new_tokens: int) -> None:
        for _ in range(5):
            peft_generate(tribe, prompts, new_tokens, **PUBLISHED)

    def reference(prompt: Prompt) -> float:
        """The same expectation from PEFT's logits."""
        ids = torch.tensor([[*prompt.ids, *tokens.prefix, tokens.digits[0]]])
        with torch.no_grad():
            first, second = tribe.peft(input_ids=ids).logits[0, -2:].double().softmax(-1)
        chances = first[list(tokens.digits)]
        ten = chances[0] * second[tokens.ten[1]]
        chances = torch.cat([chances[:1] - ten, chances[1:], ten[None]])
        return float((chances * torch.arange(1, 11)).sum() / chances.sum())

    tribe.peft.set_adapter(NAMES[0])
    apart = max(abs(own - reference(prompt)) for own, prompt in zip(ours(), prompts, strict=True))
    require(apart < 1e-4, "expected scores of our engine and of PEFT")
    sides: Mapping[str, Callable[[], object]] = {
        "ours, one pass": ours,
        "PEFT 5 x 16": lambda: rounds(16),
        "PEFT 5 x 256": lambda: rounds(256),
    }
    return medians(sides, repeats), apart


class TorchLogprobs:
    """TRL's Triton kernel for log-probabilities in plain torch: a CPU has to interpret Triton."""

    @staticmethod
    def apply(
        hidden: Tensor, weight: Tensor, bias: None, targets: Tensor, *_: object
    ) -> tuple[Tensor | None, ...]:
        logits = F.linear(hidden, weight)
        total = logits.logsumexp(-1)
        chosen = logits.gather(1, targets[:, None]).squeeze(1)
        with torch.no_grad():
            entropy = total - ((logits - total[:, None]).exp() * logits).sum(-1)
            best = logits.argmax(-1) == targets
        return chosen - total, entropy, None, logits.detach().mean(-1), best


def dpo(tribe: Tribe, repeats: int, names: list[str]) -> tuple[Seconds, float]:
    """One epoch of the same pairs for every adapter: TRL trains one adapter after another."""
    import trl.trainer.utils

    trl.trainer.utils._ChunkedLogProbFunction = TorchLogprobs
    rng = random.Random(4)
    letters = [chr(code) for code in range(97, 123)]
    texts = [
        {
            "prompt": "".join(rng.choices(letters, k=rng.randint(16, 64))),
            "chosen": "".join(rng.choices(letters, k=rng.randint(16, 64))) + "<|im_end|>",
            "rejected": "".join(rng.choices(letters, k=rng.randint(16, 64))) + "<|im_end|>",
        }
        for _ in range(PAIRS)
    ]
    tokenize = tribe.base.tokenizer
    pairs = [TokenizedPair(*(tuple(tokenize(text)["input_ids"]) for text in each.values())) for each in texts]
    order = list(range(PAIRS))
    generator(0, "dpo", 0, 0).shuffle(order)  # our own order of the first epoch
    data = Dataset.from_list([texts[index] for index in order])
    start, bank = tribe.bank.snapshot(), tribe.bank.part(0, len(names))

    def ours() -> None:
        train(tribe.base.decoder, bank, pairs, DPO, seed=0, iteration=0, pad=PAD, on_step=lambda _: None)

    # Loading, tokenising and building trainers is left out of TRL's time.
    apart = 0.0
    times: dict[str, list[float]] = {"ours": [], "TRL, one after another": []}
    for _ in range(repeats):
        tribe.bank.restore(start)
        trained = [trl_trainer(tribe.path, name, data) for name in names]
        begin = time.process_time()
        ours()
        middle = time.process_time()
        for trainer in trained:
            trainer.train()
        times["ours"].append(middle - begin)
        times["TRL, one after another"].append(time.process_time() - middle)
        apart = max(apart, *(deviation(bank, start, slot, each.model) for slot, each in enumerate(trained)))
        require(apart < 1e-3, "weights that our DPO and TRL's end with")
    tribe.bank.restore(start)
    return {name: statistics.median(values) for name, values in times.items()}, apart


def trl_trainer(path: Path, name: str, data: Dataset) -> Any:
    from trl import DPOConfig, DPOTrainer

    base = AutoModelForCausalLM.from_pretrained(path)
    config = DPOConfig(
        str(path / "trl"),
        beta=DPO.beta,
        learning_rate=DPO.learning_rate,
        weight_decay=DPO.weight_decay,
        warmup_steps=DPO.warmup,
        lr_scheduler_type="cosine",
        num_train_epochs=1,
        per_device_train_batch_size=DPO.batch,
        max_grad_norm=DPO.max_grad_norm,
        max_length=DPO.max_length,
        train_sampling_strategy="sequential",
        bf16=False,
        use_cpu=True,
        gradient_checkpointing=False,
        logging_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    trainer = DPOTrainer(
        PeftModel.from_pretrained(base, path / name, is_trainable=True),
        args=config,
        train_dataset=data,
        processing_class=AutoTokenizer.from_pretrained(path),
    )
    trainer.remove_callback(transformers.PrinterCallback)
    return trainer


def deviation(bank: Bank, start: dict[str, Tensor], slot: int, model: Any) -> float:
    """Distance between our weights and TRL's, as a share of how far training moved them."""
    ended = dict(model.named_parameters())
    apart = torch.zeros(())
    for module, a, b in bank.modules(slot):
        for side, tensor in (("A", a), ("B", b)):
            theirs = ended[f"base_model.model.model.{module}.lora_{side}.default.weight"]
            apart = apart + (tensor - theirs.detach()).square().sum()
    moved = sum((tensor[slot] - start[name][slot]).square().sum() for name, tensor in bank.tensors())
    return float((apart / moved).sqrt())


def cpu_model() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")


def print_table(console: Console, title: str, seconds: Seconds, note: str) -> None:
    table = Table(title=f"{title}\n({note})", title_justify="left", min_width=60)
    ours = next(iter(seconds.values()))
    for column in ("variant", "CPU seconds", "times ours"):
        table.add_column(column, justify="left" if column == "variant" else "right")
    for name, value in seconds.items():
        table.add_row(name, f"{value:.3f}", f"{value / ours:.2f}")
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=3, help="of every side; the median counts")
    parser.add_argument("--quick", action="store_true", help="one repeat, fewer adapters: a smoke test")
    parser.add_argument("--json", type=Path, help="write the figures there")
    arguments = parser.parse_args()
    repeats = 1 if arguments.quick else arguments.repeats
    if repeats < 1:
        parser.error(f"--repeats takes 1 or more, not {repeats}")

    few = NAMES[:2] if arguments.quick else NAMES

    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    disable_progress_bars()
    console = Console()
    with tempfile.TemporaryDirectory() as directory:
        tribe = make_tribe(Path(directory))
        rows = generation(tribe, max(repeats, 3))  # short runs: one alone can be off by a third
        print_table(console, "generation, 10 adapters x 8 prompts x 48 tokens", rows, "same greedy tokens")
        mixed, lengths = mixed_lengths(tribe, repeats, few)
        note = f"same greedy tokens; mean {statistics.mean(lengths):.0f}, longest {max(lengths)}"
        print_table(
            console, f"generation, {len(few)} adapters x 24 prompts, mixed answer lengths", mixed, note
        )
        judged, gap = judging(tribe, repeats)
        note = f"expected scores within {gap:.1e} of PEFT's"
        print_table(console, f"judging, one judge x {JUDGE_BATCH} responses", judged, note)
        trained, share = dpo(tribe, repeats, few)
        note = f"weights apart by {share:.1e} of their movement"
        print_table(
            console, f"DPO, {len(few)} adapters, {PAIRS} pairs, {PAIRS // DPO.batch} updates", trained, note
        )

    ratios = {
        "generation_vs_peft_loop": rows["PEFT loop"] / rows["ours"],
        "generation_vs_peft_mixed": rows["PEFT mixed batch"] / rows["ours"],
        "generation_share_of_lora_free": rows["ours without LoRA"] / rows["ours"],
        "generation_mixed_lengths_vs_peft_loop": mixed["PEFT loop"] / mixed["ours"],
        "judging_vs_5x256": judged["PEFT 5 x 256"] / judged["ours, one pass"],
        "judging_vs_5x16": judged["PEFT 5 x 16"] / judged["ours, one pass"],
        "dpo_vs_trl": trained["TRL, one after another"] / trained["ours"],
    }
    for name, ratio in ratios.items():
        console.print(f"{name:40} {ratio:6.2f}", highlight=False)
    packages = {name: version(name) for name in ("torch", "transformers", "peft", "trl")}
    load = os.getloadavg()[0]
    console.print(f"{cpu_model()}, one thread, load {load:.1f}; {packages}", highlight=False)
    if arguments.json:
        seconds = {"generation": rows, "mixed_lengths": mixed, "judging": judged, "dpo": trained}
        report = {"ratios": ratios, "cpu_seconds": seconds, "repeats": repeats, "versions": packages}
        write_json(arguments.json, report | {"cpu": cpu_model(), "threads": 1, "load": load})


if __name__ == "__main__":
    main()
