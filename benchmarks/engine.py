"""Our engine beside PEFT, transformers and TRL, in one process on one CPU thread.

    python benchmarks/engine.py --json engine.json
    python benchmarks/engine.py --family qwen3_5 --json engine-qwen3_5.json
    python benchmarks/engine.py --device cuda --json engine-cuda.json
    python benchmarks/engine.py --model SmolLM2-135M-Instruct.Q4_1.gguf --json engine-smollm2.json

The model and its ten adapters are made on the spot from a fixed seed. Every comparison checks that both
sides give the same result before it reports a time, and runs them in turns. Sampled judge rounds cannot
equal an expectation: there the same expectation is taken from PEFT's logits. Figures are CPU seconds of this
process, which other programs disturb less than the clock; with one thread the two agree on a quiet machine.

With --model the base is a real one, of transformers' form or GGUF, in fp32, with ten adapters of rank 16.
`--only` takes some of its parts.

With --family qwen3_5 three layers in four have the gated delta rule. Then judging behind a beginning whose
state is forked stands beside the same without forking, and generation's memory beside that of attention in
every layer.

On a GPU the shape is larger, seconds are the clock's, and Unsloth and vLLM come in where they can be
imported. **Not yet run there.** In fp32 sums come in another order than the peers': nine rows in ten have to
be equal. In bf16, beside Unsloth and vLLM, nine first tokens in ten have to, and DPO has to move the adapters
as far as Unsloth's: no more can be asked of it, for AdamW's first updates follow the sign of every rounding.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from beside_card import in_bf16
from datasets import Dataset  # type: ignore[import-untyped]
from forking import DUELS, OWN, SHARED, forked_judging, memory
from peers import (
    agrees,
    clock,
    continuous_batch,
    continuous_loop,
    on_gpu,
    peft_generate,
    peft_loop,
    preferences,
    random_prompts,
    same,
    stops,
)
from real_size import PARTS, measure
from rich.console import Console
from side_by_side import (
    Seconds,
    circumstances,
    command_line,
    deviation,
    medians,
    one_thread,
    print_circumstances,
    print_table,
    require,
    require_cuda,
    require_near,
    trl_trainer,
)
from tiny_tribe import HYBRID, NAMES, PAD, TINY, WIDE, Tribe, make_tribe
from transformers import AutoModelForCausalLM

from sparta_lite.engine.chat import Chat
from sparta_lite.engine.decode import Prompt, generate
from sparta_lite.engine.score import expected_scores
from sparta_lite.files import write_json
from sparta_lite.kernels.sampling import Sampling
from sparta_lite.training.dpo import train
from sparta_lite.training.phase import DpoSettings

NEW_TOKENS, LONGEST_ANSWER = 48, 256
PUBLISHED = {"do_sample": True, "temperature": 0.7, "top_k": 50, "top_p": 0.95}
JUDGE_BATCH = 24  # both responses of twelve duels, a batch of the published launch script
GREEDY = Sampling(temperature=0)
PAIRS = 32
# Of 8, 4, 2 and 1 pairs in a pass ours is fastest with 1; TRL is as fast with 8, a whole batch, as with any.
DPO = DpoSettings(learning_rate=1e-4, batch=8, micro_batch=1)
DPO_ON_GPU = replace(DPO, micro_batch=DPO.batch)  # a card wants large passes


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

    def continuous() -> list[list[int]]:
        return continuous_loop(tribe, prompts, NEW_TOKENS)

    expected = ours()
    require(same(tribe, expected, loop()), "our greedy tokens and those of PEFT's loop")
    require(same(tribe, expected, mixed()), "our greedy tokens and those of PEFT's mixed batch")
    with tribe.peft.disable_adapter():
        answers = peft_generate(tribe, bare, NEW_TOKENS)
        require(same(tribe, lora_free(), answers), "greedy tokens of the bare base")
    sides = {"ours": ours, "ours without LoRA": lora_free, "PEFT loop": loop, "PEFT mixed batch": mixed}
    if not tribe.hybrid and agrees(tribe, expected, continuous(), "adapter after adapter"):
        sides["continuous batching loop"] = continuous
    return medians(sides, repeats, clock(tribe))


def bare_mixed_lengths(tribe: Tribe, repeats: int) -> Seconds:
    """What continuous batching is made for: one model, unwrapped, and answers of all lengths."""
    prompts = [replace(prompt, adapter=None) for prompt in random_prompts(NAMES, 24, 16, 64, seed=2)]
    ends = stops(tribe)
    base = replace(tribe.base, stops=frozenset(ends))
    model = AutoModelForCausalLM.from_pretrained(tribe.path).to(tribe.peft.device).eval()

    def ours() -> list[list[int]]:
        return [list(row.ids) for row in generate(base, tribe.bank, prompts, GREEDY, LONGEST_ANSWER, 80)]

    def continuous() -> list[list[int]]:
        return continuous_batch(model, prompts, LONGEST_ANSWER, ends, persistent=True)

    sides = {"ours without LoRA": ours}
    if agrees(tribe, ours(), continuous(), "bare base, mixed lengths"):
        sides["continuous batching"] = continuous
    return medians(sides, repeats, clock(tribe))


def mixed_lengths(tribe: Tribe, repeats: int, names: list[str]) -> tuple[Seconds, list[int]]:
    prompts = random_prompts(names, 24, 16, 64, seed=2)
    ends = stops(tribe)
    base = replace(tribe.base, stops=frozenset(ends))

    def ours() -> list[list[int]]:
        return [list(row.ids) for row in generate(base, tribe.bank, prompts, GREEDY, LONGEST_ANSWER, 80)]

    def loop() -> list[list[int]]:
        return peft_loop(tribe, prompts, LONGEST_ANSWER, eos_token_id=ends)

    expected, answers = ours(), loop()  # a static batch fills up what has ended
    filled = [own + [PAD] * (len(row) - len(own)) for own, row in zip(expected, answers, strict=True)]
    require(same(tribe, filled, answers), "our greedy tokens and PEFT's at mixed lengths")
    seconds = medians({"ours": ours, "PEFT loop": loop}, repeats, clock(tribe))
    return seconds, [len(row) for row in expected]


def judging(tribe: Tribe, repeats: int) -> tuple[Seconds, float]:
    """One judge, for both sides judge model after model. Its prompts have 112 to 160 tokens: a question of
    16 to 64, which the two of a duel share, and behind it an answer of 48 and the request."""
    questions = random_prompts(NAMES[:1], JUDGE_BATCH // 2, 16, 64, seed=3)
    tails = random_prompts(NAMES[:1], JUDGE_BATCH, 96, 96, seed=4)
    prompts = [replace(tail, ids=questions[number // 2].ids + tail.ids) for number, tail in enumerate(tails)]
    tokens = Chat(tribe.base.tokenizer, None, "turns", "").score_tokens

    def ours() -> list[float]:
        scores = expected_scores(tribe.base, tribe.bank, prompts, tokens, 0.0, 4096)
        return [score.value for score in scores if score.value is not None]

    def rounds(new_tokens: int) -> None:
        for _ in range(5):
            peft_generate(tribe, prompts, new_tokens, **PUBLISHED)

    def reference(prompt: Prompt) -> float:
        """The same expectation from PEFT's logits."""
        ids = torch.tensor([[*prompt.ids, *tokens.prefix, tokens.digits[0]]], device=tribe.peft.device)
        with torch.no_grad():
            first, second = tribe.peft(input_ids=ids).logits[0, -2:].double().softmax(-1).cpu()
        chances = first[list(tokens.digits)]
        ten = chances[0] * second[tokens.ten[1]]
        chances = torch.cat([chances[:1] - ten, chances[1:], ten[None]])
        return float((chances * torch.arange(1, 11)).sum() / chances.sum())

    tribe.peft.set_adapter(NAMES[0])
    differences = [abs(own - reference(prompt)) for own, prompt in zip(ours(), prompts, strict=True)]
    limit = 1e-2 if on_gpu(tribe) else 1e-4
    apart = require_near(differences, limit, "expected scores of our engine and of PEFT")
    sides: Mapping[str, Callable[[], object]] = {
        "ours, one pass": ours,
        "PEFT 5 x 16": lambda: rounds(16),
        "PEFT 5 x 256": lambda: rounds(256),
    }
    return medians(sides, repeats, clock(tribe)), apart


def dpo(tribe: Tribe, repeats: int, names: list[str]) -> tuple[Seconds, float]:
    """One epoch of the same pairs for every adapter: TRL trains one adapter after another."""
    texts, pairs = preferences(tribe, PAIRS)
    data = Dataset.from_list(texts)
    start, bank = tribe.bank.snapshot(), tribe.bank.part(0, len(names))
    settings = DPO_ON_GPU if on_gpu(tribe) else DPO

    def ours() -> None:
        train(tribe.base.decoder, bank, pairs, settings, seed=0, iteration=0, pad=PAD, on_step=lambda _: None)

    def make(adapter: Path, scratch: Path) -> Any:
        return trl_trainer(tribe.path, adapter, scratch, data, settings, cpu=not on_gpu(tribe))

    now = clock(tribe)
    # Loading, tokenising and building trainers is left out of TRL's time.
    apart: list[float] = []
    times: dict[str, list[float]] = {"ours": [], "TRL, one after another": []}
    for _ in range(repeats):
        tribe.bank.restore(start)
        scratch = tribe.path / "trl"
        trained = [make(tribe.path / name, scratch) for name in names]
        begin = now()
        ours()
        middle = now()
        for trainer in trained:
            trainer.train()
        times["ours"].append(middle - begin)
        times["TRL, one after another"].append(now() - middle)
        apart += [deviation(bank, start, slot, each.model) for slot, each in enumerate(trained)]
    tribe.bank.restore(start)
    limit = 1e-2 if on_gpu(tribe) else 1e-3
    share = require_near(apart, limit, "weights that our DPO and TRL's end with")
    return {name: statistics.median(values) for name, values in times.items()}, share


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--family", choices=("qwen2", "qwen3_5"), default="qwen2", help="of the base")
    parser.add_argument("--repeats", type=int, default=3, help="of every side; the median counts")
    parser.add_argument("--quick", action="store_true", help="one repeat, fewer adapters: a smoke test")
    parser.add_argument("--model", help="a directory or a GGUF file: measure on this one")
    parser.add_argument("--only", nargs="+", choices=PARTS, help="parts of --model; all if not given")
    arguments = parser.parse_args()
    if arguments.only and not arguments.model:
        parser.error("--only names parts of what --model measures; give --model too")
    if arguments.model and (arguments.device == "cuda" or arguments.family != "qwen2"):
        parser.error("--model runs on the CPU, with the family that the model is of")
    repeats = 1 if arguments.quick else arguments.repeats
    if repeats < 1:
        parser.error(f"--repeats takes 1 or more, not {repeats}")
    cuda = arguments.device == "cuda"
    if cuda:
        require_cuda()
    few = NAMES[:2] if arguments.quick else NAMES
    one_thread()
    if arguments.model:
        measure(arguments, repeats)
        return
    console = Console()
    unit = "seconds" if cuda else "CPU seconds"
    seconds: dict[str, Seconds] = {}

    def show(name: str, title: str, found: Seconds, note: str) -> None:
        seconds[name] = found
        print_table(console, title, found, note, unit)

    with tempfile.TemporaryDirectory() as directory:
        hybrid = arguments.family == "qwen3_5"
        shape = HYBRID if hybrid else WIDE if cuda else TINY
        tribe = make_tribe(Path(directory) / "tribe", arguments.device, shape)
        title = "generation, 10 adapters x 8 prompts x 48 tokens"
        show("generation", title, generation(tribe, repeats), "same greedy tokens")
        mixed, lengths = mixed_lengths(tribe, repeats, few)
        note = f"same greedy tokens; mean {statistics.mean(lengths):.0f}, longest {max(lengths)}"
        show(
            "mixed_lengths",
            f"generation, {len(few)} adapters x 24 prompts, mixed answer lengths",
            mixed,
            note,
        )
        if not hybrid:
            title = "generation, the bare base x 240 prompts, mixed answer lengths"
            show("bare_mixed_lengths", title, bare_mixed_lengths(tribe, repeats), "same greedy tokens")
        judged, gap = judging(tribe, repeats)
        note = f"expected scores within {gap:.1e} of PEFT's"
        show("judging", f"judging, one judge x {JUDGE_BATCH} responses", judged, note)
        trained, share = dpo(tribe, repeats, few)
        note = f"weights apart by {share:.1e} of their movement"
        title = f"DPO, {len(few)} adapters, {PAIRS} pairs, {PAIRS // DPO.batch} updates"
        show("dpo", title, trained, note)
        if hybrid:
            forked, gap = forked_judging(tribe, repeats, clock(tribe))
            title = f"judging, one judge x {DUELS} duels, {SHARED} tokens shared and {OWN} own"
            show("forked", title, forked, f"expected scores within {gap:.1e}")
            peaks = memory(Path(directory) / "full", tribe)
        elif cuda:
            for name, found in in_bf16(tribe, repeats, few, DPO_ON_GPU).items():
                agree = "first tokens agree" if name == "generation" else "adapters move as far"
                show(f"{name}_bf16", f"{name} in bf16", found, agree)

    rows, bare = seconds["generation"], seconds.get("bare_mixed_lengths", {})
    ratios = {
        "generation_vs_peft_loop": rows["PEFT loop"] / rows["ours"],
        "generation_vs_peft_mixed": rows["PEFT mixed batch"] / rows["ours"],
        "generation_share_of_lora_free": rows["ours without LoRA"] / rows["ours"],
        "generation_mixed_lengths_vs_peft_loop": mixed["PEFT loop"] / mixed["ours"],
        "judging_vs_5x256": judged["PEFT 5 x 256"] / judged["ours, one pass"],
        "judging_vs_5x16": judged["PEFT 5 x 16"] / judged["ours, one pass"],
        "dpo_vs_trl": trained["TRL, one after another"] / trained["ours"],
    }
    if loop := rows.get("continuous batching loop"):
        ratios["generation_vs_continuous_batching_loop"] = loop / rows["ours"]
    if continuous := bare.get("continuous batching"):
        ratios["bare_mixed_lengths_vs_continuous_batching"] = continuous / bare["ours without LoRA"]
    if hybrid:
        ratios["judging_forked_vs_unforked"] = forked["ours, each by itself"] / forked["ours, forked"]
        ratios["memory_vs_attention_in_every_layer"] = peaks["hybrid"] / peaks["attention in every layer"]
    for name, ratio in ratios.items():
        console.print(f"{name:42} {ratio:6.2f}", highlight=False)
    facts = circumstances(arguments.device)
    print_circumstances(console, facts)
    if arguments.json:
        report = {
            "family": arguments.family,
            "ratios": ratios,
            unit.replace(" ", "_").lower(): seconds,
            "repeats": repeats,
        }
        write_json(arguments.json, report | facts)


if __name__ == "__main__":
    main()
