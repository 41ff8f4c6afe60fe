"""Batched generation: rows of all adapters in one batch, freed places refilled at once."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from sparta_lite.engine.bank import Bank
from sparta_lite.engine.base import Base
from sparta_lite.engine.memory import OnShrink, shrink_to_fit
from sparta_lite.engine.places import Places, Row
from sparta_lite.engine.response import Response, Stop
from sparta_lite.engine.step import smallest
from sparta_lite.engine.transfer import Reading, read_later
from sparta_lite.errors import SpartaError
from sparta_lite.kernels.sampling import Sampling

"""``reference``: it was not generated at all, but came with the data."""
Progress = Callable[[int, int], None]
"""Called with (items finished, tokens processed) since the last call."""
Until = Callable[[Sequence[int]], bool]
"""Told a response's tokens so far; True ends it there."""


@dataclass(frozen=True)
class Prompt:
    """One row to continue."""

    adapter: str | None
    """None: the bare base."""
    ids: tuple[int, ...]
    key: int = 0
    """Key of the row's random numbers; the position in the response is the counter."""


@dataclass(frozen=True)
class _Pace:
    """How far the device may be ahead of the host; no result depends on it."""

    lag: int
    """Rounds of work that the device has been given when the oldest one's tokens are looked at."""
    patience: float
    """Steps that all places together may lose to rows that are over before others take their places; 0: they
    take them at once."""
    prefill: int
    """Tokens, padding included, in one pass over fresh prompts, unless one of every adapter is more."""


def _pace(device: torch.device) -> _Pace:
    """A processor that computes is done when it says so, and a pass over fresh prompts costs it as much as
    there are tokens in it: small passes have little padding, and their activations stay near.

    A GPU must not wait for the host, and beside its own operations a pass costs it about half a step of all
    places however few prompts are in it: it is due once the empty places have lost about as much.
    """
    return _Pace(1, 0.4, 1024) if device.type == "cuda" else _Pace(0, 0.0, 384)


@torch.no_grad()
def generate(
    base: Base,
    bank: Bank,
    prompts: Sequence[Prompt],
    sampling: Sampling,
    max_new_tokens: int,
    places: int,
    progress: Progress | None = None,
    until: Until | None = None,
    on_shrink: OnShrink | None = None,
) -> list[Response]:
    """Continue every prompt under its own adapter.

    At most ``places`` rows are worked on together. A finished row leaves (on a GPU as soon as a pass
    over fresh prompts is worth it, see ``_pace``) and the next waiting prompt takes its place, one of the
    same adapter if there is any. When memory runs out the
    rows that were being worked on begin anew in half the places; their tokens are the same.

    Args:
        base: the resident base.
        bank: the adapters.
        prompts: at least one token each.
        sampling: how tokens are drawn.
        max_new_tokens: where a row is cut off.
        places: rows in one batch.
        progress: told after every step.
        until: ends a response before its end-of-turn token.
        on_shrink: told when there are fewer places from now on.

    Returns:
        One response per prompt, in the order of ``prompts``.

    Raises:
        SpartaError: a prompt is empty or leaves no room in the model's context, an adapter gives
            NaN, or not even one row fits into memory.
    """
    for number, prompt in enumerate(prompts):
        if not prompt.ids or len(prompt.ids) >= base.context:
            raise SpartaError(
                f"prompt {number} has {len(prompt.ids)} tokens; the base takes 1 to {base.context - 1}"
            )
    if not prompts:
        return []
    responses: list[Response | None] = [None] * len(prompts)

    def attempt(places: int) -> None:
        batch = _Batch(base, bank, prompts, responses, sampling, max_new_tokens, places, until)
        try:
            batch.run(progress)
        except BaseException:
            batch.steps.close()
            raise
        base.warm.give_back(batch.steps)

    shrink_to_fit(
        attempt,
        min(places, len(prompts)),
        phase="generation",
        advice="not even one row fits; lower max_new_tokens, the prompts' length, or tribe.resident",
        on_shrink=on_shrink,
    )
    return [response for response in responses if response is not None]


@dataclass(frozen=True)
class _Sent:
    """Work that the device has been given."""

    rows: list[Row]
    read: Reading
    """Gives float64 [2, rows]: token, log-probability."""
    fresh: bool
    """Whether it reads prompts."""


class _Batch:
    """Work on all prompts that have no response yet."""

    def __init__(
        self,
        base: Base,
        bank: Bank,
        prompts: Sequence[Prompt],
        responses: list[Response | None],
        sampling: Sampling,
        max_new_tokens: int,
        places: int,
        until: Until | None,
    ) -> None:
        """``responses``: one per prompt; what is missing is written into it, row by row."""
        self.base, self.bank, self.prompts, self.until = base, bank, prompts, until
        self.limits = [min(max_new_tokens, base.context - len(prompt.ids)) for prompt in prompts]
        self.max_new_tokens = max_new_tokens
        self.responses = responses
        missing = [index for index, response in enumerate(responses) if response is None]
        self.places = Places(
            bank,
            {index: prompts[index].adapter for index in missing},
            {index: len(prompts[index].ids) for index in missing},
            places,
        )
        capacity = max(len(prompts[index].ids) + self.limits[index] for index in missing)
        self.steps = base.warm.take(base.decoder, bank, self.places.count, capacity, sampling)
        self.pace = _pace(base.decoder.device)

    def run(self, progress: Progress | None) -> None:
        rounds: deque[list[_Sent]] = deque()
        lost = 0  # steps of a single place
        fresh = self.places.fill()
        while rows := self.places.rows:
            rounds.append([self._begin(each) for each in self._together(fresh)] if fresh else [self._step()])
            fresh = []
            if len(rounds) <= self.pace.lag:
                continue
            finished, tokens = (sum(each) for each in zip(*map(self._read, rounds.popleft()), strict=True))
            empty = sum(row.over for row in rows)
            lost += empty
            if self._due(len(rows), empty, lost):
                fresh, lost = self.places.refill(self.steps.move), 0
            if progress:
                progress(finished, tokens)

    def _due(self, rows: int, empty: int, lost: int) -> bool:
        """Whether it is time to give the places of so many rows that are over to others, or to close them."""
        if empty == rows or not self.pace.patience:
            return True
        if self.places.waiting:
            return lost >= self.pace.patience * self.places.count
        return smallest(rows - empty) < smallest(rows)  # else a step would compute as many rows as before

    def _begin(self, places: list[int]) -> _Sent:
        """Read the prompts of fresh rows."""
        rows = [self.places.rows[place] for place in places]
        prompts = [self.prompts[row.prompt] for row in rows]
        beside = [row.adapter for row in self.places.rows]
        lora = self.bank.lora([prompt.adapter for prompt in prompts], beside)
        drawn = self.steps.begin(
            places, [prompt.ids for prompt in prompts], [prompt.key for prompt in prompts], lora
        )
        self.bank.prefetch(self.places.waiting)
        return _Sent(rows, read_later(drawn), fresh=True)

    def _step(self) -> _Sent:
        rows = list(self.places.rows)
        longest = max(row.cached for row in rows) + 1
        drawn = self.steps.advance([row.adapter for row in rows], longest)
        for row in rows:
            row.cached = min(row.cached + 1, self.steps.capacity - 1)
        return _Sent(rows, read_later(drawn), fresh=False)

    def _read(self, sent: _Sent) -> tuple[int, int]:
        """Give every row its token; returns rows that ended with it, and tokens that went in."""
        tokens, logprobs = sent.read().tolist()
        finished = went_in = 0
        for row, token, logprob in zip(sent.rows, tokens, logprobs, strict=True):
            if row.over:
                continue
            if not math.isfinite(logprob):
                name = "the bare base" if row.adapter is None else f"adapter {row.adapter!r}"
                raise SpartaError(
                    f"{name} gives NaN or infinite logits on prompt {row.prompt}; get a sound copy"
                )
            row.produced.append(int(token))
            row.logprob += logprob
            self._finish(row)
            finished += row.over
            went_in += len(self.prompts[row.prompt].ids) if sent.fresh else 1
        return finished, went_in

    def _finish(self, row: Row) -> None:
        """Write the row's response if this was its last token."""
        stop: Stop
        base = self.base
        if row.produced[-1] in base.stops or base.ending.reached(base.tokenizer, row.produced):
            stop = "end-of-turn"
        elif len(row.produced) == self.limits[row.prompt]:
            stop = "length" if len(row.produced) == self.max_new_tokens else "context"
        elif self.until is not None and self.until(row.produced):
            stop = "text"
        else:
            return
        text = base.ending.cut(base.tokenizer.decode(row.produced, skip_special_tokens=True))
        self.responses[row.prompt] = Response(tuple(row.produced), text, stop, row.logprob)
        row.over = True

    def _together(self, places: list[int]) -> list[list[int]]:
        """Fresh rows of similar length together; one of every adapter at a time, as routing likes it."""

        def length(place: int) -> int:
            return self.places.rows[place].cached

        queues: dict[str | None, deque[int]] = {}
        for place in sorted(places, key=length):
            queues.setdefault(self.places.rows[place].adapter, deque()).append(place)
        batches: list[list[int]] = [[]]
        while queues:
            level = [queue.popleft() for queue in queues.values()]
            queues = {adapter: queue for adapter, queue in queues.items() if queue}
            longest = max(map(length, level))
            if batches[-1] and (len(batches[-1]) + len(level)) * longest > self.pace.prefill:
                batches.append([])
            batches[-1] += level
        return [sorted(batch) for batch in batches]
