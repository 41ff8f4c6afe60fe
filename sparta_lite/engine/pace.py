"""How long a planned run may take: operations over a device's rate, bytes over its bandwidth.

A rough estimate, said as a range: where it is not known what is usual every answer is taken as long as it may
be, every duel as making a pair.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sparta_lite.engine.plan import Plan
from sparta_lite.engine.shape import Shape, weight_bytes
from sparta_lite.engine.work import Machine, Usual, Work

if TYPE_CHECKING:
    import torch

    from sparta_lite.engine.processor import Speed

Span = tuple[float, float]
"""Seconds: the least and the most."""

_CARDS = {  # name in the driver: bytes, dense 16-bit operations a second, bytes a second; the makers' figures
    "RTX 3060": (12e9, 51e12, 360e9),
    "T4": (16e9, 65e12, 320e9),
    "RTX 3090": (24e9, 71e12, 936e9),
    "RTX 4090": (24e9, 165e12, 1008e9),
    "L4": (24e9, 121e12, 300e9),
    "A10": (24e9, 125e12, 600e9),
    "RTX 5090": (32e9, 209e12, 1792e9),
    "A100": (40e9, 312e12, 1555e9),
    "L40S": (48e9, 362e12, 864e9),
    "A6000": (48e9, 155e12, 768e9),
    "H100": (80e9, 989e12, 3350e9),
    "H200": (141e9, 989e12, 4800e9),
}
_LIKE = ("RTX 3060", "T4", "RTX 4090", "RTX 5090", "L40S", "H100", "H200")
"""A card of unknown name is taken for the first of these that has as much memory."""

_REACHED = 0.4  # share that such work reaches of a maker's operations
_REACHED_HERE = 0.5  # ... of a bare matrix product's on this processor
_STREAMED = 0.7  # share of the bandwidth
_CALLS = {"cuda": 2e-4, "cpu": 5e-4}  # seconds a decoder layer costs the host, however little it computes
_WITHIN = 2.0  # runs on a processor took between so much less and so much more than estimated; RESULTS.md
_BESIDE = 2.0  # a thread alone on its core may take so much less CPU time than beside another one on it
_START = 10.0  # seconds until everything is imported and loaded
_PROMPT = 0.25  # a usual question, as a share of the longest
_REQUEST = 200  # tokens that a judge reads beside question and answer


def card(name: str, memory: int) -> Machine:
    """A GPU by its driver's name, or, by its memory alone, a card like it."""
    known = next((key for key in sorted(_CARDS, key=len, reverse=True) if f" {key}" in f" {name}"), None)
    key = known or next((each for each in _LIKE if _CARDS[each][0] >= memory * 0.9), _LIKE[-1])
    _, operations, bandwidth = _CARDS[key]
    named = name if known else f"{name} (as fast as {key})"
    return Machine("cuda", named, memory, operations * _REACHED, bandwidth * _STREAMED)


def processor(memory: int, dtype: torch.dtype) -> Machine:
    """This machine's CPU, measured in a tenth of a second on torch's threads; see ``engine.processor``."""
    from sparta_lite.engine.processor import measure

    return measured(memory, measure(dtype))


def measured(memory: int, speed: Speed) -> Machine:
    """A CPU of that speed. While it is busy a run may take as long as it does now, or as it would alone."""
    alone = _BESIDE if speed.busy else 1.0
    within = max(_WITHIN, speed.apart)
    return Machine(
        "cpu",
        "CPU",
        memory,
        speed.operations * _REACHED_HERE,
        speed.bandwidth * _STREAMED,
        (1 / (within * alone), within * speed.waits),
        () if speed.busy is None else (speed.busy,),
    )


def seconds(plan: Plan) -> dict[str, float]:
    """Phase -> seconds in one iteration (``evaluate``: in one evaluation)."""
    work, usual = plan.work, _usual(plan.work)
    prompt = min(usual.question, work.prompt)
    judged = min(work.judge_prompt, prompt + usual.answer + usual.request)
    judgments = 2 * work.duels * (work.adapters - 2)
    if work.judge_answer:
        judging = _generation(plan, judgments * work.judge_rounds, judged, work.judge_answer)
    else:
        judging = _passes(plan, judgments * judged, plan.sizes.batch_tokens)
    found = {
        "generate": _generation(plan, 2 * work.duels, prompt, usual.answer),
        "judge": judging,
        "train": _training(plan, usual),
    }
    if work.questions:
        rows = work.adapters * work.questions
        answer = work.evaluation_answer if work.usual is None else usual.answer
        found["evaluate"] = _generation(plan, rows, prompt, answer)
    return found


def _usual(work: Work) -> Usual:
    return work.usual or Usual(max(1, int(work.prompt * _PROMPT)), work.answer, _REQUEST, pairs=1.0)


def whole(plan: Plan) -> float:
    """Seconds of all iterations and evaluations."""
    each = seconds(plan)
    return (
        _START
        + plan.work.iterations * (each["generate"] + each["judge"] + each["train"])
        + (plan.work.evaluations * each.get("evaluate", 0.0))
    )


def span(plan: Plan, estimated: float) -> Span:
    """An estimate as a range."""
    shortest, longest = plan.machine.margin
    return estimated * shortest, estimated * longest


def _generation(plan: Plan, rows: int, prompt: int, answer: int) -> float:
    places = min(plan.sizes.places, rows)
    steps = -(-rows // places) * answer
    cached = places * (prompt + answer / 2) * plan.kv
    head = 2 * places * plan.shape.vocabulary * plan.shape.hidden
    step = _pass(plan, places, cached) + head / plan.machine.operations
    return _passes(plan, rows * prompt, 1024) + steps * step


def _training(plan: Plan, usual: Usual) -> float:
    work = plan.work
    prompt = min(usual.question, work.prompt_in_training)
    answer = min(usual.answer, work.length - prompt)
    together = plan.sizes.adapters_at_once * plan.sizes.micro_batch
    length = prompt + 2 * answer if work.trainer == "tribe" else 2 * (prompt + answer)
    tokens = int(work.duels * usual.pairs) * work.adapters * length
    # Forward and backward, once more forward where activations are recomputed; the reference's forward.
    # The base is frozen, so that a backward pass costs as much as a forward one.
    there_and_back = work.epochs * (3 if plan.sizes.checkpointing else 2)
    return _passes(plan, tokens, together * length) * (there_and_back + 1)


def _passes(plan: Plan, tokens: int, at_once: int) -> float:
    return tokens / at_once * _pass(plan, at_once, 0)


def _pass(plan: Plan, tokens: float, cached: float) -> float:
    """One forward pass over the decoder's layers: of its operations or its bytes what takes longer."""
    machine = plan.machine
    numbers = sum(each.inputs * each.outputs for each in plan.shape.linears) + plan.work.adapter
    operations = 2 * tokens * numbers
    read = _read(plan.shape, plan.work) + cached
    waiting = plan.shape.layers * _CALLS[machine.kind]
    return max(operations / machine.operations + read / machine.bandwidth, waiting)


def _read(shape: Shape, work: Work) -> int:
    """A 4-bit weight is read, written unpacked, and read again."""
    unpacked = 2 * work.number * sum(each.inputs * each.outputs for each in shape.linears)
    return weight_bytes(shape, work.four_bit, work.number) + (unpacked if work.four_bit else 0)
