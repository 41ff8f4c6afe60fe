"""What each phase of a run takes of a device's memory: arithmetic over a base's shape."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass

from sparta_lite.engine.shape import Shape, pair_cost, sharing_pays
from sparta_lite.engine.work import Sizes, Work

_PREFILL_TOKENS = 1024  # in a batch of fresh prompts in ``engine.decode``, or one prompt of every adapter
_HEAD_CHUNK = 256  # rows whose logits ``kernels.logprob`` holds at once
_SHORTEST_JUDGED = 64  # tokens of a row for each judgment in it, where two responses share their question
_OWN = 3  # tokens that two judge prompts differ in at least: of a response, and a score's forced beginning


@dataclass(frozen=True)
class Phase:
    name: str
    parts: Mapping[str, int]
    """What it takes beyond the base's weights, in bytes."""

    @property
    def memory(self) -> int:
        return sum(self.parts.values())


def phases_of(shape: Shape, work: Work, sizes: Sizes, card: bool) -> list[Phase]:
    """``card``: whether it is for a GPU, where attention under a mask repeats keys and values."""
    judging = (
        Phase("judge", _generating(shape, work, sizes.places, work.judge_prompt, work.judge_answer))
        if work.judge_answer
        else Phase("judge", _scoring(shape, work, sizes.batch_tokens, card))
    )
    found = [
        Phase("generate", _generating(shape, work, sizes.places, work.prompt, work.answer)),
        judging,
    ]
    if work.questions:
        answers = _generating(shape, work, sizes.places, work.prompt, work.evaluation_answer)
        found.append(Phase("evaluate", answers))
    bank = min(sizes.resident, work.adapters) * work.adapter * 4
    found = [Phase(phase.name, {"adapters": bank, **phase.parts}) for phase in found]
    return [*found[:2], Phase("train", _training(shape, work, sizes, card)), *found[2:]]


def kv_bytes(shape: Shape, number: int) -> int:
    """Keys and values of one token in all layers."""
    return 2 * shape.attention_layers * shape.kv_heads * shape.head_dim * number


def cache_bytes(shape: Shape, number: int, length: int) -> int:
    """What one sequence of so many tokens keeps: keys and values, no more of them than a layer's window has
    tokens, and the states of the delta rule."""
    states = shape.delta.sequence_bytes(number) if shape.delta else 0
    length = min(length, shape.context)
    unseen = sum(max(0, length - window) for window in shape.windows)  # tokens, over all layers
    token = 2 * shape.kv_heads * shape.head_dim * number
    return (shape.attention_layers * length - unseen) * token + states


def _generating(shape: Shape, work: Work, places: int, prompt: int, answer: int) -> dict[str, int]:
    fresh = max(_PREFILL_TOKENS, min(work.adapters, places) * prompt)
    prefill = _forward(shape, work, min(fresh, places * prompt), moved=True)
    # Logits as they come, in fp32, and divided by the temperature; sorted where nothing cuts them off.
    logits = places * shape.vocabulary * (work.number + (48 if work.uncut else 12))
    length = min(prompt + answer, shape.context)
    prefill += min(fresh, places * prompt) * prompt * _scores(shape)
    step = _forward(shape, work, places, moved=True) + places * length * _scores(shape)
    return {
        "KV cache": places * cache_bytes(shape, work.number, length),
        "activations": max(prefill, logits, step),
    }


def _scoring(shape: Shape, work: Work, batch_tokens: int, card: bool) -> dict[str, int]:
    tokens = max(batch_tokens, work.judge_prompt)
    shared, tail = longest_shared(shape, work, batch_tokens)
    mask = tokens * (shared + 2 * tail)
    judgments = max(-(-tokens // _SHORTEST_JUDGED), _HEAD_CHUNK)
    logits = judgments * shape.vocabulary * 12  # softmax in fp32, then in fp64
    # States of the responses' tokens, whose probability is taken: beside others, and by themselves.
    kept = 2 * tokens * shape.hidden * work.number
    forward = _forward(shape, work, tokens, moved=False, mask=mask, repeated=card and mask > 0)
    return {"activations": max(forward, kept + logits)}


def longest_shared(shape: Shape, work: Work, batch_tokens: int) -> tuple[int, int]:
    """The longest row in which two judge prompts share their beginning: tokens that they share, and that each
    has of its own; 0, 0 where it never pays that they share one.

    Prompts as long as they may be make it: of two shorter ones in as many tokens less is shared.
    """
    linear = sum(each.inputs * each.outputs for each in shape.linears) / shape.layers
    cost = pair_cost(shape.hidden, linear, shape.attention_share)
    length = min(work.judge_prompt, batch_tokens - _OWN)
    tails = range(_OWN, min(length, batch_tokens - length + 1))
    # The longer the tails, the less is shared and the more attention it takes.
    paying = bisect_left(tails, True, key=lambda tail: not sharing_pays(length - tail, [length] * 2, cost))
    tail = tails[paying - 1] if paying else 0
    return (length - tail, tail) if tail else (0, 0)


def _forward(
    shape: Shape, work: Work, tokens: int, moved: bool, mask: int = 0, repeated: bool = False
) -> int:
    """Live at most within a layer when no gradient is wanted.

    ``moved``: rows of several adapters. ``mask``: cells of attention's mask, which it takes in numbers.
    ``repeated``: keys and values stand beside it for every query head.
    """
    query, key = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    mlp = 6 * shape.inner + 4 * shape.hidden + 2 * key if moved else 4 * shape.inner + 3 * shape.hidden
    attention = (4 if moved else 3) * (query + 2 * key) + 2 * shape.hidden
    attention += 2 * query if repeated and query > key and not shape.spelt_out else 0
    live = max(tokens * mlp * work.number, tokens * attention * work.number + mask * _scores(shape))
    if shape.delta:
        live = max(live, tokens * (shape.delta.live_bytes(work.number) + 2 * shape.hidden * work.number))
    return live + mask * _mask(shape, work.number) + _unpacked(shape, work)


def _mask(shape: Shape, number: int) -> int:
    """Of a cell of attention's mask: as it is laid out and in numbers, and once more behind windows."""
    return 1 + (2 if shape.windows else 1) * number


def _scores(shape: Shape) -> int:
    """Of a cell of attention's mask, where scores stand in memory: before and after each step."""
    return 2 * 4 * shape.heads if shape.spelt_out else 0


def _unpacked(shape: Shape, work: Work) -> int:
    """A 4-bit matrix is unpacked for as long as it is used."""
    return shape.widest * work.number if work.four_bit else 0


def _training(shape: Shape, work: Work, sizes: Sizes, card: bool) -> dict[str, int]:
    one = work.trainer != "tribe"
    together = 1 if one else min(sizes.adapters_at_once, sizes.resident, work.adapters)
    trained = together * work.adapter
    rows = 2 * sizes.micro_batch if one else together * sizes.micro_batch
    length = work.length if one else work.packed
    tokens = rows * length
    number = work.number

    query, key = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    # Per token and layer: both norms' inputs and outputs; queries, keys, values, attention's output as it
    # comes and as the next product wants it; gate, silu(gate), up and their product. On a card our own
    # training, which has a mask, keeps keys and values as they were repeated for every query head.
    keys = query if card and not one and not shape.spelt_out else key
    attention = shape.attention_share * (3 * query + 2 * keys) * number
    delta = 0.0
    if shape.delta:  # transformers' own rule, which trainers of one adapter run, computes nothing again
        again = shape.delta.again_bytes() if one else 0
        delta = (1 - shape.attention_share) * (shape.delta.kept_bytes(number) + again)
    # The mean of all layers; the norms of those with the delta rule are taken in fp32.
    norms = 4 * shape.hidden * (number if shape.delta is None else max(number, 4))
    kept = int(norms + attention + delta + 4 * shape.inner * number)
    flowing = 2 * shape.inner * number  # gradients, while what is kept is given back
    if shape.delta:  # by when its turn comes the MLP's are given back
        prompt, answers = work.prompt_and_answers
        share = 1.0 if one else max(prompt, answers) / work.packed  # of a fork, one part after the other
        flowing = max(flowing, int(share * shape.delta.again_bytes()) - 4 * shape.inner * number)
    cells = rows * length * length
    mask = cells * _mask(shape, number)
    # Of a layer: what is kept of its tokens and, where scores stand in memory, of these: as the cap and as
    # the mask left them, and as weights, in fp32 and in the base's dtype.
    scores = (3 * 4 + number % 4) * shape.heads if shape.spelt_out else 0
    layer = tokens * kept + cells * scores
    layers = tokens * shape.hidden * number * shape.layers + layer
    if not sizes.checkpointing:
        layers = layer * shape.layers
    if work.trainer == "trl":
        head = 2 * tokens * shape.vocabulary * number  # all logits and their gradient
    else:
        head = _HEAD_CHUNK * shape.vocabulary * 12 + 3 * tokens * shape.hidden * number
    casts = trained * number if number < 4 else 0
    backward = (
        layers + mask + max(tokens * flowing, cells * _scores(shape), head) + _unpacked(shape, work) + casts
    )

    # Training is in the bank itself or, where that waits in host memory, in a copy of the trained part that
    # the window makes room for. A trainer of one has a view of its own and the reference beside it.
    standing = work.adapters * work.adapter if sizes.resident >= work.adapters else trained
    return {
        "adapters": 4 * standing + (8 * trained if one else 0),
        "gradients": 4 * trained,
        "optimizer": int(work.moments * trained),
        # An update needs no activations, but the weights as they were before it.
        "activations": max(backward, 4 * trained),
    }
