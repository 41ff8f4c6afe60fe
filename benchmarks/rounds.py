"""Sampled rounds of one prompt that share the pass over it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from sparta_lite.engine.bank import Bank
from sparta_lite.engine.base import Base
from sparta_lite.engine.cache import Cache
from sparta_lite.engine.step import Steps
from sparta_lite.kernels.sampling import Sampling

_PASS = 384
"""Tokens in one pass over prompts; as in ``generate`` on a CPU."""

Tokens = tuple[int, ...]


@dataclass(frozen=True)
class Rounds:
    texts: list[list[str]]
    """Per prompt, round after round."""
    reading: float
    """CPU seconds of the passes over the prompts, once for all rounds."""
    writing: float
    """CPU seconds of all rounds' replies."""


@torch.no_grad()
def sampled_rounds(
    base: Base,
    bank: Bank,
    prompts: Sequence[Tokens],
    keys: Sequence[Sequence[int]],
    sampling: Sampling,
    max_new_tokens: int,
    places: int,
) -> Rounds:
    """What the bare base replies to every prompt, round after round: the tokens that ``generate`` draws.

    Args:
        base: the resident base.
        bank: adapters that stay unused.
        prompts: at least two tokens each.
        keys: per prompt the key of each round, as many for all.
        sampling: how tokens are drawn.
        max_new_tokens: where a round is cut off.
        places: rows that are worked on together.
    """
    rounds = len(keys[0])
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    texts: list[list[str]] = [[] for _ in prompts]
    reading = writing = 0.0
    for members in _chunks(order, max(1, places // rounds)):
        start = time.process_time()
        longest = max(len(prompts[index]) for index in members)
        rows = [(index, number) for index in members for number in range(rounds)]
        cache = Cache(base.decoder, len(rows), longest + max_new_tokens)
        steps = Steps(base.decoder, bank, cache, sampling)
        _read(steps, cache, [prompts[index] for index in members], [keys[index] for index in members])
        read = time.process_time()
        replies = _write(base, steps, [len(prompts[index]) - 1 for index, _ in rows], max_new_tokens)
        reading, writing = reading + read - start, writing + time.process_time() - read
        for (index, _), reply in zip(rows, replies, strict=True):
            texts[index].append(base.ending.cut(base.tokenizer.decode(reply, skip_special_tokens=True)))
    return Rounds(texts, reading, writing)


def _read(steps: Steps, cache: Cache, prompts: Sequence[Tokens], keys: Sequence[Sequence[int]]) -> None:
    """Fill the cache with all of each prompt but its last token, which every round begins with."""
    rounds = len(keys[0])
    for numbers in _chunks(range(len(prompts)), max(1, _PASS // max(map(len, prompts)))):
        heads = [prompts[number][:-1] for number in numbers]
        steps.begin([number * rounds for number in numbers], heads, [0] * len(heads), None)
    for number, prompt in enumerate(prompts):
        for following in range(1, rounds):
            cache.move(number * rounds, number * rounds + following, len(prompt) - 1)
    table = [
        [prompt[-1] for prompt in prompts for _ in range(rounds)],
        [len(prompt) - 1 for prompt in prompts for _ in range(rounds)],
        [each for own in keys for each in own],
        [0] * len(prompts) * rounds,
    ]
    steps._table.copy_(torch.tensor(table))


def _write(base: Base, steps: Steps, lengths: Sequence[int], max_new_tokens: int) -> list[list[int]]:
    """Every row's tokens; rows that are over leave, and the last one takes their place."""
    replies: list[list[int]] = [[] for _ in lengths]
    rows = list(range(len(lengths)))  # which reply stands in each place
    for step in range(max_new_tokens):
        drawn, logprobs = steps.advance([None] * len(rows), max(lengths[row] for row in rows) + step + 1)
        if not logprobs.isfinite().all():
            raise SystemExit("error: the base gives NaN or infinite logits")
        for row, token in zip(rows, drawn.long().tolist(), strict=True):
            replies[row].append(token)
        for place in reversed(range(len(rows))):
            reply = replies[rows[place]]
            if reply[-1] in base.stops or base.ending.reached(base.tokenizer, reply):
                steps.move(len(rows) - 1, place, lengths[rows[-1]] + step + 1)
                rows[place] = rows[-1]
                rows.pop()
        if not rows:
            break
    return replies


def _chunks(items: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    return (items[start : start + size] for start in range(0, len(items), size))
