"""The steps of ``first_minutes.py`` that measure the engine: products, decoding, judging, DPO, memory."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from card_base import four_bit_layer
from card_tools import Card, Found, Live, Sizes
from counting import Work
from limits import packed
from torch import Tensor

from sparta_lite.campaign.config import load_config
from sparta_lite.campaign.planning import planned
from sparta_lite.campaign.resident import choose
from sparta_lite.campaign.settings import Config
from sparta_lite.campaign.warming import foreseen, warm_up
from sparta_lite.engine import nf4
from sparta_lite.engine.cache import Cache
from sparta_lite.engine.chat import Chat
from sparta_lite.engine.decode import Prompt
from sparta_lite.engine.memory import is_out_of_memory
from sparta_lite.engine.plan import Plan
from sparta_lite.engine.score import expected_scores
from sparta_lite.engine.step import Steps
from sparta_lite.kernels.nf4 import Nf4
from sparta_lite.kernels.sampling import Sampling
from sparta_lite.training.dpo import train
from sparta_lite.training.packing import TokenizedPair
from sparta_lite.training.phase import DpoSettings, DpoState, DpoStep

_COLD = 2 << 27  # bytes of copies that take turns: more than any second cache holds
_BEGIN = 8  # rows whose prompts are read in one pass
UPDATES = 3  # of DPO: the first one compiles


def nf4_products(card: Card) -> Found:
    """Microseconds by ours, bitsandbytes and in 16 bits, over copies that take turns in a graph."""
    from sparta_lite.kernels.triton_nf4 import nf4_linear

    found: Found = {}
    rate, bandwidth = card.rates
    shapes = {(each.outputs, each.inputs) for each in card.shape.linears}
    for outputs, inputs in sorted(shapes):
        weighs = outputs * inputs // 2, outputs * inputs * card.dtype.itemsize
        many, few = (1 + _COLD // size if card.on_gpu else 2 for size in weighs)
        layers = [four_bit_layer(_matrix(card, outputs, inputs, seed)) for seed in range(many)]
        weights = [weight for layer in layers if (weight := nf4.read(layer)) is not None]
        whole = [_matrix(card, outputs, inputs, seed) for seed in range(few)]
        rows: dict[str, Found] = {}
        for tokens in card.sizes.nf4_tokens:
            x = _matrix(card, tokens, inputs, 99)
            ours = [partial(nf4_linear, x, weight) for weight in weights]
            sides: dict[str, list[Callable[[], Tensor]]] = {
                "ours": [*ours],
                "bitsandbytes": [partial(layer, x) for layer in layers],
                "16 bits": [partial(F.linear, x, matrix) for matrix in whole],
            }
            rows[str(tokens)] = {
                name: 1e6 * card.replayed(partial(_each, runs)) / len(runs) for name, runs in sides.items()
            } | {"floor": 1e6 * _floor(weights[0], tokens, rate, bandwidth)}
        found[f"{outputs} x {inputs}"] = rows
    return {"microseconds": found, "copies_take_turns": True}


def _matrix(card: Card, outputs: int, inputs: int, seed: int) -> Tensor:
    generator = torch.Generator(card.device).manual_seed(seed)
    return torch.randn(outputs, inputs, generator=generator, device=card.device).to(card.dtype)


@torch.no_grad()
def _each(runs: list[Callable[[], Tensor]]) -> None:
    for run in runs:
        run()


def _floor(weight: Nf4, tokens: int, rate: float, bandwidth: float) -> float:
    """Seconds of what is the larger: bytes of matrix, scales, inputs and outputs, or operations."""
    scales = weight.absmax.nbytes + (0 if weight.eight_bit is None else weight.eight_bit.absmax.nbytes)
    states = 2 * tokens * (weight.width + weight.outputs)
    operations = 2 * tokens * weight.width * weight.outputs
    return max((weight.packed.nbytes + scales + states) / bandwidth, operations / rate)


def decode(card: Card) -> Found:
    """Steps of so many rows, with LoRA and bare, as a graph and launch by launch, and what one is made of."""
    found: Found = {}
    for rows in card.sizes.rows:
        for bare in (False, True):
            for graph in (True, False):
                name = f"{rows} rows, {'bare' if bare else 'LoRA'}, {'graph' if graph else 'eager'}"
                profiled = rows == card.sizes.rows[0] and not bare
                found[name] = _decoded(card, rows, bare, graph, profiled)
                card.empty()
    return {"decode": found}


@torch.no_grad()
def _decoded(card: Card, rows: int, bare: bool, graph: bool, profiled: bool) -> Found:
    sizes, base, bank = card.sizes, card.base, card.bank
    warm = 3  # as it is, recorded, and once from there
    capacity = sizes.prompt + warm + sizes.steps + 8
    steps = Steps(base.decoder, bank, Cache(base.decoder, rows, capacity), Sampling())
    recordable = steps._graphs is not None
    if not graph:
        steps._graphs = None
    names = [None if bare else bank.adapters[row % len(bank.adapters)].name for row in range(rows)]
    rng = random.Random(1)
    start = card.clock()
    for first in range(0, rows, _BEGIN):
        places = range(first, min(first + _BEGIN, rows))
        prompts = [_tokens(rng, sizes.prompt, card.shape.vocabulary) for _ in places]
        steps.begin(list(places), prompts, list(places), bank.lora([names[place] for place in places]))
    prefill = card.clock() - start
    for step in range(warm):
        steps.advance(names, sizes.prompt + 1 + step)

    def go(count: int, first: int) -> None:
        for step in range(first, first + count):
            steps.advance(names, sizes.prompt + 1 + step)

    seconds = card.seconds(lambda: go(sizes.steps, warm)) / sizes.steps
    reach = round(rows * (sizes.prompt + warm + (sizes.steps + 1) / 2))
    adapters = 0 if bare else min(rows, len(bank.adapters))
    made = {
        "ms": 1e3 * seconds,
        "tokens_a_second": rows / seconds,
        "prompt_tokens_a_second": rows * sizes.prompt / prefill,
        "recorded": graph and recordable and steps._graphs is not None and steps._graphs.usable,
        **card.floors(Work(rows, rows, rows, reach, reach, adapters), seconds),
    }
    if profiled:
        made["profile_of_a_step"] = card.profiled(lambda: go(1, warm + sizes.steps))
    steps.close()
    return made


def _tokens(rng: random.Random, count: int, vocabulary: int) -> tuple[int, ...]:
    return tuple(rng.randrange(2, vocabulary) for _ in range(count))


def judging(card: Card) -> Found:
    """Passes of so many tokens by one judge: both answers of a duel behind their question."""
    sizes, rng = card.sizes, random.Random(2)
    row = sizes.question + 2 * sizes.answer
    duels = max(1, sizes.judged // (row + 20))  # the forced beginning of a score stands behind each answer
    judge = card.bank.adapters[0].name
    vocabulary = card.shape.vocabulary
    papers = [
        Prompt(judge, (*question, side, *_tokens(rng, sizes.answer - 1, vocabulary)))
        for question in (_tokens(rng, sizes.question, vocabulary) for _ in range(duels))
        for side in range(2)
    ]
    tokens = Chat(card.base.tokenizer, None, "turns", "").score_tokens

    def run(adapter: str | None = judge) -> None:
        asked = [replace(paper, adapter=adapter) for paper in papers]
        expected_scores(card.base, card.bank, asked, tokens, 0.0, sizes.judged)

    seconds, bare = card.best(run, 2), card.best(lambda: run(None), 2)
    written = len(tokens.prefix) + 1
    length, pairs = packed(sizes.question, sizes.answer + written)
    read = 2 * duels * (written + 1)
    work = Work(duels * length, read, read, duels * pairs, 0, 1)
    return {
        "ms": 1e3 * seconds,
        "prompts_a_second": len(papers) / seconds,
        "tokens_a_second": duels * length / seconds,
        "share_of_bare_speed": bare / seconds,
        **card.floors(work, seconds),
        "profile": card.profiled(run),
    }


def dpo(card: Card) -> Found:
    """Three updates of all adapters: the reference pass, then the updates behind the one that compiles."""
    sizes, answer = card.sizes, card.sizes.answer
    made, _ = plan_of(card, sizes.caps[0])
    settings = replace(
        dpo_settings(sizes),
        micro_batch=min(made.sizes.micro_batch, sizes.pairs),
        adapters_at_once=made.sizes.adapters_at_once,
        checkpointing=made.sizes.checkpointing,
    )
    pairs = dpo_pairs(sizes, card.shape.vocabulary)
    marks = [card.clock()]

    def saved(state: DpoState) -> None:
        if state.done == 0:
            marks.append(card.clock())

    def stepped(step: DpoStep) -> None:
        if step.adapter == card.bank.adapters[-1].name:
            marks.append(card.clock())

    def run() -> None:
        more: dict[str, Any] = {"seed": 0, "iteration": 0, "pad": 0, "on_step": stepped, "save": saved}
        train(card.base.decoder, card.bank, pairs, settings, **more)

    before = card.bank.snapshot()
    run()
    reference, _, *updates = (after - begun for begun, after in pairwise(marks))
    update = min(updates)
    adapters = len(card.bank.adapters)
    length, cells = packed(sizes.question, answer - 1)
    many = adapters * sizes.pairs
    work = Work(many * length, many * (2 * answer - 1), many * 2 * answer, many * cells, 0, adapters, True)
    pairs = pairs[: sizes.pairs]  # one update is profiled
    found = {
        "reference_ms_a_batch": 1e3 * reference / UPDATES,
        "update_ms": 1e3 * update,
        "adapter_pairs_a_second": many / update,
        "adapter_pairs_a_second_with_reference": many / (update + reference / UPDATES),
        "sizes": vars(made.sizes),
        **card.floors(work, update),
        "profile": card.profiled(run),
    }
    card.bank.restore(before)
    return found


def dpo_pairs(sizes: Sizes, vocabulary: int) -> list[TokenizedPair]:
    """For three updates."""
    rng = random.Random(3)
    lengths = sizes.question, sizes.answer, sizes.answer
    return [
        TokenizedPair(*(_tokens(rng, length, vocabulary) for length in lengths))
        for _ in range(UPDATES * sizes.pairs)
    ]


def dpo_settings(sizes: Sizes) -> DpoSettings:
    return DpoSettings(
        learning_rate=1e-5,
        batch=sizes.pairs,
        max_length=sizes.question + sizes.answer,
        max_prompt=sizes.question,
    )


def plan_of(card: Card, cap: int) -> tuple[Plan, Config]:
    """The plan of a run of these sizes on this base, as if there were ``cap`` bytes."""
    sizes = card.sizes
    config = load_config(
        None,
        [
            f"base={card.folder}",
            f"tribe.adapters=fresh-{sizes.adapters}",
            f"tribe.rank={sizes.rank}",
            f"engine.unpack={str(card.unpack).lower()}",
            f"dtype={str(card.dtype).removeprefix('torch.')}",
            "data.path=pocket",
            "evaluation.items=0",
            "training.trainer=tribe",
            f"generation.max_new_tokens={sizes.answer}",
            f"generation.max_prompt_tokens={sizes.question}",
            f"judge.max_tokens={sizes.question + sizes.answer + 40}",
            f"training.max_length={sizes.question + sizes.answer}",
            f"training.max_prompt={sizes.question}",
            f"training.batch={sizes.pairs}",
            f"vram={cap / 1e9:.3f}GB",
            *([] if card.on_gpu else ["threads=1"]),
        ],
    )
    return planned(config, choose(config))


def memory(card: Card) -> Found:
    """Every phase's peak at its planned sizes beside what was planned, within 80 GB, 24 GB, ..."""
    found = {}
    for cap in card.sizes.caps:
        with _capped(card, cap):
            found[f"{cap / 1e9:g} GB"] = _within(card, cap)
    return {"within": found}


def _within(card: Card, cap: int) -> Found:
    base, bank = card.base, card.bank  # before anything is counted
    made, config = plan_of(card, cap)
    expected = foreseen(made)
    names = [name for name in ("generate", "judge", "train") if name in expected]
    standing = made.weights + made.phases[0].parts["adapters"]
    peaks: list[int | None] = []
    seconds: list[float] = []

    def meter(work: Callable[[], object]) -> int | None:
        card.empty()
        live = None if card.on_gpu else Live()
        if live is None:
            torch.cuda.reset_peak_memory_stats()
        start = card.clock()
        try:
            with live or nullcontext():
                work()
            peaks.append(torch.cuda.max_memory_allocated() if live is None else standing + live.peak)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            peaks.append(None)
        seconds.append(card.clock() - start)
        return peaks[-1]

    after, _ = warm_up(base, bank, config, made, meter)
    rows = {
        name: {
            "planned": expected[name],
            "peak": peak,
            "peak / planned": None if peak is None else peak / expected[name],
            "seconds": taken,
        }
        for name, peak, taken in zip(names, peaks, seconds, strict=True)
    }
    return {"sizes": vars(made.sizes), "sizes_after_warm_up": vars(after.sizes), "phases": rows}


@contextmanager
def _capped(card: Card, cap: int) -> Iterator[None]:
    """The process may allocate no more than ``cap`` bytes of the card."""
    if not card.on_gpu:
        yield
        return
    whole = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, cap / whole))
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def unpacked(card: Card) -> Found:
    """Decoding, judging and DPO over the same values in 16 bits: what ``engine.unpack`` gives."""
    card.unpack = True
    try:
        made = {"decode": decode(card)["decode"], "judging": judging(card), "dpo": dpo(card)}
    finally:
        card.unpack = False
        card.release()
    return {"setting": "engine.unpack", **made}
