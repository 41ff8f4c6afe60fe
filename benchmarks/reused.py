"""Whether DPO may take its reference from generating and judging where a base computes in 16 bits.

    python benchmarks/reused.py --model MODEL --data test.jsonl --json reused.json

MODEL is a directory in transformers' form or a GGUF file; the data is the published test file of GSM8K
(openai/grade-school-math), of which questions alone are read. Four adapters with random B answer in bf16, two
a question in turn, the two others judge in ``turns``; what both leave of log p(answer) stands beside the
reference that training would compute, in bf16 and, of the same tokens, in fp32. From each of the three DPO
goes on for one epoch at the published learning rate. Told are, per adapter and as a mean over adapters,

- how far the terms are apart, in nats of a whole answer;
- loss, and how far the gradient is from that with bf16's own reference, at the start and at the end of the
  epoch: relative norm and cosine. The same between bf16 and fp32 says how much of a gradient bf16 rounds
  away as it is;
- the same of the step that the epoch makes.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from side_by_side import circumstances, command_line, one_thread, print_circumstances
from torch import Tensor

from sparta_lite.campaign.wording import JUDGE_REQUESTS
from sparta_lite.engine.bank import Bank
from sparta_lite.engine.base import Base, load_base
from sparta_lite.engine.chat import Chat
from sparta_lite.engine.decode import Prompt, generate
from sparta_lite.engine.peft_io import load_bank, new_adapter
from sparta_lite.engine.response import Response
from sparta_lite.engine.score import Span, expected_scores
from sparta_lite.errors import SpartaError
from sparta_lite.files import write_json
from sparta_lite.kernels.sampling import Sampling
from sparta_lite.randomness import key
from sparta_lite.training.dpo import backward, train
from sparta_lite.training.optim import trainable
from sparta_lite.training.packing import TokenizedPair
from sparta_lite.training.phase import DpoSettings, DpoState

NAMES = ("one", "two", "three", "four")
RANK, ALPHA = 8, 16.0
SAMPLING = Sampling(temperature=0.7, top_k=50, top_p=0.95)
LIMIT = 512
"""Tokens of a prompt."""
BATCH_TOKENS = 1024

Weights = Mapping[str, Tensor]
"""Of a bank, or gradients of them."""


@dataclass(frozen=True)
class Duel:
    fighters: tuple[int, int]
    """Slots."""
    question: tuple[int, ...]
    text: str
    answers: tuple[Response, Response]

    @property
    def pair(self) -> TokenizedPair:
        """The first answer stands for the chosen one: which it is makes no difference to rounding."""
        return TokenizedPair(self.question, *(answer.ids for answer in self.answers))


@dataclass(frozen=True)
class Trained:
    """A phase of DPO."""

    reference: Tensor
    """float32 [adapters, pairs, 2]"""
    weights: Weights
    """At its end."""


def make_bank(base: Base, b: float) -> Bank:
    """Adapters of this base, the same numbers in every dtype; ``b``: standard deviation of B."""
    bank = load_bank(base.decoder, [new_adapter(name, base.decoder, RANK, ALPHA, 0, "") for name in NAMES])
    dice = torch.Generator().manual_seed(0)
    for name, tensor in bank.tensors():
        if ".b" in name:
            tensor.normal_(std=b, generator=dice)
    return bank


def fight(base: Base, bank: Bank, chat: Chat, questions: Sequence[str], new_tokens: int) -> list[Duel]:
    fighters = [(number % 4, (number + 1 + number // 4 % 3) % 4) for number in range(len(questions))]
    asked = [chat.question(question, LIMIT).ids for question in questions]
    prompts = [
        Prompt(NAMES[slot], ids, key("reused", number, side))
        for number, (ids, slots) in enumerate(zip(asked, fighters, strict=True))
        for side, slot in enumerate(slots)
    ]
    answers = generate(base, bank, prompts, SAMPLING, new_tokens, len(prompts))
    return [
        Duel(slots, ids, text, (answers[2 * number], answers[2 * number + 1]))
        for number, (text, ids, slots) in enumerate(zip(questions, asked, fighters, strict=True))
    ]


def left(base: Base, bank: Bank, chat: Chat, duels: Sequence[Duel]) -> Tensor:
    """What generating and judging leave of log p(answer), as in a run: float32 [adapters, duels, 2]."""
    known = torch.full((len(NAMES), len(duels), 2), torch.nan)
    prompts: list[Prompt] = []
    spans: list[Span | None] = []
    places: list[tuple[int, int, int]] = []
    for number, duel in enumerate(duels):
        for side, answer in enumerate(duel.answers):
            if answer.logprob is not None:
                known[duel.fighters[side], number, side] = answer.logprob
            paper = chat.judge(duel.text, answer.ids, LIMIT + len(answer.ids) + 100)
            end = len(duel.question) + len(answer.ids)
            if paper is None or paper.ids[:end] != duel.question + answer.ids:
                continue
            for slot in set(range(len(NAMES))) - set(duel.fighters):
                prompts.append(Prompt(NAMES[slot], paper.ids))
                spans.append((len(duel.question), end))
                places.append((slot, number, side))
    scores = expected_scores(base, bank, prompts, chat.score_tokens, 0.0, BATCH_TOKENS, responses=spans)
    for place, score in zip(places, scores, strict=True):
        if score.logprob is not None:
            known[place] = score.logprob
    return known


def trained(
    base: Base, bank: Bank, pairs: Sequence[TokenizedPair], settings: DpoSettings, known: Tensor | None
) -> Trained:
    """One epoch; the bank is put back."""
    start, states = bank.snapshot(), list[DpoState]()
    more: dict[str, Any] = {"seed": 0, "iteration": 0, "pad": 0, "known": known}
    train(base.decoder, bank, pairs, settings, on_step=lambda step: None, save=states.append, **more)
    end = bank.snapshot()
    bank.restore(dict(start))
    return Trained(states[0].reference, end)


def gradient(
    base: Base, bank: Bank, pairs: Sequence[TokenizedPair], settings: DpoSettings, reference: Tensor
) -> tuple[Tensor, Weights]:
    """Of all pairs as one batch: loss of every adapter, [adapters], and the gradients."""
    leaves = trainable(bank)
    for _, tensor in leaves.tensors():
        tensor.grad = None
    measured = backward(base.decoder, leaves, pairs, reference, settings, 0)
    return measured[0], {name: tensor.grad for name, tensor in leaves.tensors() if tensor.grad is not None}


def apart(one: Weights, other: Weights) -> dict[str, float]:
    """Mean over adapters: |one - other| / |other|, and the cosine between them."""
    flat = [
        torch.cat([tensor.detach().double().flatten(1) for tensor in each.values()], dim=1)
        for each in (one, {name: other[name] for name in one})
    ]  # [adapters, numbers]
    far = (flat[0] - flat[1]).norm(dim=1) / flat[1].norm(dim=1)
    cosine = torch.nn.functional.cosine_similarity(flat[0], flat[1], dim=1)
    return {"relative": float(far.mean()), "cosine": float(cosine.mean())}


def step_of(found: Trained, start: Weights) -> Weights:
    return {name: found.weights[name] - start[name] for name in start}


def spread(difference: Tensor) -> dict[str, float]:
    """Of terms of one kind; NaN where there are none."""
    found = difference[~difference.isnan()].double()
    return {"rms": float(found.square().mean().sqrt()), "mean": float(found.mean()), "terms": len(found)}


def measure(
    exact: Base, base: Base, questions: Sequence[str], settings: DpoSettings, new_tokens: int, b: float
) -> dict[str, Any]:
    """All figures.

    Args:
        exact: in fp32.
        base: the same in 16 bits.
        questions: one a pair.
        settings: of DPO.
        new_tokens: of an answer, at most.
        b: see ``make_bank``.
    """
    chat = Chat(base.tokenizer, None, "turns", JUDGE_REQUESTS["turns"], ending=base.ending)
    bank, exact_bank = make_bank(base, b), make_bank(exact, b)
    started = time.process_time()
    duels = fight(base, bank, chat, questions, new_tokens)
    pairs = [duel.pair for duel in duels]
    known = left(base, bank, chat, duels)
    ways = {
        "fresh": trained(base, bank, pairs, settings, None),
        "reused": trained(base, bank, pairs, settings, known),
        "fp32": trained(exact, exact_bank, pairs, settings, None),
    }
    start = bank.snapshot()
    own = torch.zeros_like(known, dtype=torch.bool)
    for number, duel in enumerate(duels):
        own[duel.fighters[0], number, 0] = own[duel.fighters[1], number, 1] = True
    truth, fresh = ways["fp32"].reference, ways["fresh"].reference
    lengths = [len(answer.ids) for duel in duels for answer in duel.answers]
    report: dict[str, Any] = {
        "pairs": len(pairs),
        "answer_tokens": sum(lengths) / len(lengths),
        "known": float(known.isfinite().float().mean()),
        "terms": {
            "fresh less fp32": spread(fresh - truth),
            "of generation, less fp32": spread((known - truth).where(own, torch.nan)),
            "of judging, less fp32": spread((known - truth).where(~own, torch.nan)),
            "left less fresh": spread(known - fresh),
        },
        "gradient": {},
        "step": {
            "reused against fresh": apart(step_of(ways["reused"], start), step_of(ways["fresh"], start)),
            "fresh against fp32": apart(step_of(ways["fresh"], start), step_of(ways["fp32"], start)),
        },
    }
    for when, weights in {"start": start, "end": ways["fresh"].weights}.items():
        bank.restore(dict(weights))
        exact_bank.restore(dict(weights))
        losses, gradients = {}, {}
        for way, (model, adapters) in {
            "fresh": (base, bank),
            "reused": (base, bank),
            "fp32": (exact, exact_bank),
        }.items():
            losses[way], gradients[way] = gradient(model, adapters, pairs, settings, ways[way].reference)
        report["gradient"][when] = {
            "loss": {way: float(loss.mean()) for way, loss in losses.items()},
            "reused against fresh": apart(gradients["reused"], gradients["fresh"]),
            "fresh against fp32": apart(gradients["fresh"], gradients["fp32"]),
            "reused against fp32": apart(gradients["reused"], gradients["fp32"]),
        }
    return report | {"cpu_seconds": time.process_time() - started}


def show(console: Console, report: Mapping[str, Any]) -> None:
    sizes = f"{report['pairs']} pairs, {report['answer_tokens']:.0f} tokens an answer"
    title = f"{sizes}, {report['known']:.0%} of the terms left"
    table = Table(title=title, title_justify="left")
    for column in ("terms of the reference, nats", "root mean square", "mean", "terms"):
        table.add_column(column, justify="left" if column.startswith("terms of") else "right")
    for name, each in report["terms"].items():
        table.add_row(name, f"{each['rms']:.3f}", f"{each['mean']:+.3f}", str(each["terms"]))
    console.print(table)
    table = Table()
    for column in ("", "relative norm", "cosine"):
        table.add_column(column, justify="right" if column else "left")
    rows = {f"gradient at the {when}": each for when, each in report["gradient"].items()}
    for what, found in {**rows, "step of the epoch": report["step"]}.items():
        for name, each in found.items():
            if name != "loss":
                table.add_row(f"{what}, {name}", f"{each['relative']:.4f}", f"{each['cosine']:.5f}")
    console.print(table)
    for when, each in report["gradient"].items():
        losses = ", ".join(f"{way} {loss:.5f}" for way, loss in each["loss"].items())
        console.print(f"loss at the {when}: {losses}", highlight=False)


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--model", required=True, help="a directory in transformers' form, or a .gguf file")
    parser.add_argument("--data", type=Path, required=True, help="GSM8K's published test.jsonl")
    parser.add_argument("--questions", type=int, default=8)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--learning-rate", type=float, default=DpoSettings.learning_rate)
    parser.add_argument("--b", type=float, default=0.02, help="standard deviation of the adapters' B")
    arguments = parser.parse_args()
    one_thread()
    lines = arguments.data.read_text(encoding="utf-8").splitlines()[: arguments.questions]
    questions = [json.loads(line)["question"] for line in lines]
    settings = DpoSettings(
        learning_rate=arguments.learning_rate, batch=4, micro_batch=2, warmup=0.0, max_length=1024
    )
    try:
        exact, base = (
            load_base(arguments.model, torch.device("cpu"), dtype)
            for dtype in (torch.float32, torch.bfloat16)
        )
        report = measure(exact, base, questions, settings, arguments.new_tokens, arguments.b)
    except SpartaError as error:
        sys.exit(f"error: {error}")
    facts = {
        "model": Path(arguments.model).name,
        "learning_rate": settings.learning_rate,
        "b": arguments.b,
        "date": date.today().isoformat(),
    } | circumstances()
    console = Console(width=max(Console().width, 120))
    show(console, report)
    print_circumstances(console, facts)
    if arguments.json:
        write_json(arguments.json, facts | report)


if __name__ == "__main__":
    main()
