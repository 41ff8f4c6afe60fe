"""Batched generation: rows of all adapters in one batch, freed places refilled at once."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from sparta_lite.engine.attention import causal
from sparta_lite.engine.bank import Bank
from sparta_lite.engine.base import Base
from sparta_lite.engine.memory import OnShrink, shrink_to_fit
from sparta_lite.engine.model import Decoder, Lora
from sparta_lite.errors import SpartaError
from sparta_lite.kernels.sampling import Sampling, choose

_PREFILL_TOKENS = 1024  # enough to keep a processor busy, few enough that activations stay small

Stop = Literal["end-of-turn", "length", "context", "text"]
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
class Response:
    """What a row was continued with."""

    ids: tuple[int, ...]
    """The very tokens that were drawn, the end-of-turn token included."""
    text: str
    """The tokens as text, without special tokens."""
    stop: Stop


@dataclass
class _Row:
    """A place of the batch and what it is working on."""

    prompt: int
    adapter: str | None
    produced: list[int]


class _Cache:
    """Keys and values of the active rows, [places, kv_heads, capacity, head_dim] per layer."""

    def __init__(self, decoder: Decoder, places: int, capacity: int) -> None:
        shape = (places, decoder.kv_heads, capacity, decoder.head_dim)
        like = torch.empty(0, dtype=decoder.dtype, device=decoder.device)
        self.keys = [like.new_zeros(shape) for _ in decoder.layers]
        self.values = [like.new_zeros(shape) for _ in decoder.layers]

    def move(self, source: int, target: int, length: int) -> None:
        """Give ``source``'s first ``length`` positions to ``target``."""
        for tensor in (*self.keys, *self.values):
            tensor[target, :, :length] = tensor[source, :, :length]


class _Prefill:
    """Attention over fresh prompts, padded on the right; their keys and values enter the cache."""

    def __init__(self, cache: _Cache, places: Tensor) -> None:
        self.cache, self.places = cache, places

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        self.cache.keys[layer][self.places, :, : k.shape[2]] = k
        self.cache.values[layer][self.places, :, : v.shape[2]] = v
        return causal(layer, q, k, v)


class _Step:
    """Attention of one new token per row over everything that its row has cached."""

    def __init__(self, cache: _Cache, rows: Tensor, lengths: Tensor, longest: int) -> None:
        self.cache, self.rows, self.lengths, self.longest = cache, rows, lengths, longest
        reach = torch.arange(longest, device=lengths.device)
        self.mask = (reach <= lengths[:, None])[:, None, None]  # [rows, 1, 1, longest]

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        rows = len(self.rows)
        keys, values = self.cache.keys[layer], self.cache.values[layer]
        keys[self.rows, :, self.lengths] = k[:, :, 0]
        values[self.rows, :, self.lengths] = v[:, :, 0]
        # The query heads that share a key head stand as so many queries of that head.
        grouped = q.view(rows, k.shape[1], -1, q.shape[-1])  # [rows, kv_heads, heads / kv_heads, head_dim]
        out = F.scaled_dot_product_attention(
            grouped, keys[:rows, :, : self.longest], values[:rows, :, : self.longest], attn_mask=self.mask
        )
        return out.reshape(q.shape)  # a copy on a GPU, where `out` lies query after query


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

    At most ``places`` rows are worked on together. A finished row leaves at once and the next
    waiting prompt takes its place, one of the same adapter if there is any. When memory runs out the
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
        _Batch(base, bank, prompts, responses, sampling, max_new_tokens, places, until).run(progress)

    shrink_to_fit(
        attempt,
        min(places, len(prompts)),
        phase="generation",
        advice="not even one row fits; lower max_new_tokens, the prompts' length, or tribe.resident",
        on_shrink=on_shrink,
    )
    return [response for response in responses if response is not None]


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
        self.base, self.bank, self.prompts, self.sampling = base, bank, prompts, sampling
        self.until = until
        self.limits = [min(max_new_tokens, base.context - len(prompt.ids)) for prompt in prompts]
        self.max_new_tokens = max_new_tokens
        self.responses = responses
        missing = [index for index, response in enumerate(responses) if response is None]
        self.waiting: dict[str | None, deque[int]] = {}
        for index in sorted(missing, key=lambda index: self._slot(prompts[index].adapter)):
            self.waiting.setdefault(prompts[index].adapter, deque()).append(index)
        self.crowded = sum(adapter is not None for adapter in self.waiting) > bank.limit
        self.places = min(places, len(missing))
        longest = max(len(prompts[index].ids) + self.limits[index] for index in missing)
        self.cache = _Cache(base.decoder, self.places, longest)
        self.rows: list[_Row] = []
        self.routed: tuple[list[str | None], Lora | None] = ([], None)

    def run(self, progress: Progress | None) -> None:
        fresh = self._refill([]) if self.crowded else [self._place(name) for name in self._first_rows()]
        while self.rows:
            finished, tokens = 0, len(self.rows)
            if fresh:
                tokens = sum(len(self.prompts[self.rows[place].prompt].ids) for place in fresh)
                for batch in self._prefill_batches(fresh):
                    self._extend(batch, self._prefill(batch))
                candidates = fresh
            else:
                everyone = list(range(len(self.rows)))
                self._extend(everyone, self._step())
                candidates = everyone
            done = [place for place in candidates if self._finish(self.rows[place])]
            finished = len(done)
            fresh = self._refill(done)
            if progress:
                progress(finished, tokens)

    def _slot(self, adapter: str | None) -> int:
        return -1 if adapter is None else self.bank.slot(adapter)

    def _first_rows(self) -> list[str | None]:
        """The adapters of the first batch: as even as the waiting prompts allow, sorted as in the bank."""
        shares = dict.fromkeys(self.waiting, 0)
        free = self.places
        while free:
            for adapter, queue in self.waiting.items():
                if free and shares[adapter] < len(queue):
                    shares[adapter] += 1
                    free -= 1
        return [adapter for adapter, share in shares.items() for _ in range(share)]

    def _place(self, adapter: str | None) -> int:
        self.rows.append(_Row(self.waiting[adapter].popleft(), adapter, []))
        return len(self.rows) - 1

    def _refill(self, done: list[int]) -> list[int]:
        """Give every finished row's place to a waiting prompt; close the gaps that remain."""
        fresh = []
        leaving = sorted(done)
        while leaving:
            adapter = self._successor(leaving)
            place = leaving.pop()
            if self.waiting[adapter]:
                self.rows[place] = _Row(self.waiting[adapter].popleft(), adapter, [])
                fresh.append(place)
                continue
            last = self.rows.pop()
            if place < len(self.rows):
                self.rows[place] = last
                self.cache.move(len(self.rows), place, self._length(last))
                if len(self.rows) in fresh:
                    fresh[fresh.index(len(self.rows))] = place
        # Places that closed while no adapter with a waiting prompt could enter the batch.
        while self.crowded and len(self.rows) < self.places and self.waiting[adapter := self._entrant([])]:
            fresh.append(self._place(adapter))
        return sorted(fresh)

    def _successor(self, leaving: Sequence[int]) -> str | None:
        """The adapter that gets the last of the places ``leaving``; it may have no prompt waiting."""
        adapter = self.rows[leaving[-1]].adapter
        if self.waiting[adapter]:
            return adapter
        if self.crowded:
            return self._entrant(leaving)
        return max(self.waiting, key=lambda name: len(self.waiting[name]))

    def _entrant(self, leaving: Sequence[int]) -> str | None:
        """The same where the bank's limit keeps some adapters waiting.

        The first in the order of the bank of those in the batch, then of the others if one more is
        allowed: adapters end one after another, and the rows of one fill the places that another's
        last rows do not need.
        """
        empty = {place for place in leaving if not self.waiting[self.rows[place].adapter]}
        inside = {row.adapter for place, row in enumerate(self.rows) if place not in empty} | {None}
        full = len(inside) - 1 == self.bank.limit  # the bare base does not count
        allowed = [name for name in self.waiting if name in inside or not full]
        return max(allowed, key=lambda name: (bool(self.waiting[name]), name in inside))

    def _length(self, row: _Row) -> int:
        """Positions that stand in the cache: the newest token enters it with the next step."""
        return len(self.prompts[row.prompt].ids) + max(len(row.produced) - 1, 0)

    def _finish(self, row: _Row) -> bool:
        stop: Stop
        if row.produced[-1] in self.base.stops:
            stop = "end-of-turn"
        elif len(row.produced) == self.limits[row.prompt]:
            stop = "length" if len(row.produced) == self.max_new_tokens else "context"
        elif self.until is not None and self.until(row.produced):
            stop = "text"
        else:
            return False
        text = self.base.tokenizer.decode(row.produced, skip_special_tokens=True)
        self.responses[row.prompt] = Response(tuple(row.produced), text, stop)
        return True

    def _extend(self, places: list[int], logits: Tensor) -> None:
        rows = [self.rows[place] for place in places]
        for row, sound in zip(rows, logits.amax(-1).isfinite().tolist(), strict=True):
            if not sound:
                name = "the bare base" if row.adapter is None else f"adapter {row.adapter!r}"
                raise SpartaError(
                    f"{name} gives NaN or infinite logits on prompt {row.prompt}; get a sound copy"
                )
        keys = self._tensor([self.prompts[row.prompt].key for row in rows])
        counters = self._tensor([len(row.produced) for row in rows])
        for row, token in zip(rows, choose(logits, self.sampling, keys, counters).tolist(), strict=True):
            row.produced.append(token)

    def _prefill_batches(self, places: list[int]) -> list[list[int]]:
        """Fresh rows of similar length together; one of every adapter at a time, as routing likes it."""

        def length(place: int) -> int:
            return len(self.prompts[self.rows[place].prompt].ids)

        queues: dict[str | None, deque[int]] = {}
        for place in sorted(places, key=length):
            queues.setdefault(self.rows[place].adapter, deque()).append(place)
        batches: list[list[int]] = [[]]
        while queues:
            level = [queue.popleft() for queue in queues.values()]
            queues = {adapter: queue for adapter, queue in queues.items() if queue}
            longest = max(map(length, level))
            if batches[-1] and (len(batches[-1]) + len(level)) * longest > _PREFILL_TOKENS:
                batches.append([])
            batches[-1] += level
        return [sorted(batch) for batch in batches]

    def _prefill(self, places: list[int]) -> Tensor:
        """Logits after the prompts of fresh rows, [fresh, vocabulary]."""
        prompts = [self.prompts[self.rows[place].prompt] for place in places]
        longest = max(len(prompt.ids) for prompt in prompts)
        ids = self._tensor([[*prompt.ids, *[0] * (longest - len(prompt.ids))] for prompt in prompts])
        positions = torch.arange(longest, device=ids.device).expand_as(ids)
        everyone = [row.adapter for row in self.rows]
        lora = self.bank.lora([prompt.adapter for prompt in prompts], beside=everyone)
        attend = _Prefill(self.cache, self._tensor(places))
        last = self._tensor([[len(prompt.ids) - 1] for prompt in prompts])
        hidden = self.base.decoder.hidden(ids, positions, attend, lora, last)
        self.bank.prefetch([adapter for adapter, queue in self.waiting.items() if queue])
        return self.base.decoder.logits(hidden[:, 0])

    def _step(self) -> Tensor:
        """Logits after every row's newest token, [rows, vocabulary]."""
        names = [row.adapter for row in self.rows]
        if names != self.routed[0]:
            self.routed = (names, self.bank.lora(names))
        counts = [self._length(row) for row in self.rows]
        lengths = self._tensor(counts)
        attend = _Step(self.cache, torch.arange(len(counts), device=lengths.device), lengths, max(counts) + 1)
        ids = self._tensor([[row.produced[-1]] for row in self.rows])
        hidden = self.base.decoder.hidden(ids, lengths[:, None], attend, self.routed[1])
        return self.base.decoder.logits(hidden[:, 0])

    def _tensor(self, values: Sequence[object]) -> Tensor:
        return torch.tensor(values, dtype=torch.int64, device=self.base.decoder.device)
