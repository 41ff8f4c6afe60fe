"""Batched generation: rows of all adapters in one batch, freed places refilled at once."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from sparta_lite.engine.bank import Bank
from sparta_lite.engine.base import Base
from sparta_lite.engine.model import Decoder, Lora
from sparta_lite.errors import SpartaError
from sparta_lite.kernels.sampling import Sampling, choose

_PREFILL_TOKENS = 1024  # enough to keep a processor busy, few enough that activations stay small

Stop = Literal["end-of-turn", "length", "context"]
Progress = Callable[[int, int], None]
"""Called with (items finished, tokens processed) since the last call."""


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
        self.keys = [decoder.embedding.new_zeros(shape) for _ in decoder.layers]
        self.values = [decoder.embedding.new_zeros(shape) for _ in decoder.layers]

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
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=q.shape[1] != k.shape[1])


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
        return out.view_as(q)


@torch.no_grad()
def generate(
    base: Base,
    bank: Bank,
    prompts: Sequence[Prompt],
    sampling: Sampling,
    max_new_tokens: int,
    places: int,
    progress: Progress | None = None,
) -> list[Response]:
    """Continue every prompt under its own adapter.

    At most ``places`` rows are worked on together. A finished row leaves at once and the next
    waiting prompt takes its place, one of the same adapter if there is any.

    Args:
        base: the resident base.
        bank: the adapters.
        prompts: at least one token each.
        sampling: how tokens are drawn.
        max_new_tokens: where a row is cut off.
        places: rows in one batch.
        progress: told after every step.

    Returns:
        One response per prompt, in the order of ``prompts``.

    Raises:
        SpartaError: a prompt is empty or leaves no room in the model's context, or an adapter gives
            NaN.
    """
    for number, prompt in enumerate(prompts):
        if not prompt.ids or len(prompt.ids) >= base.context:
            raise SpartaError(
                f"prompt {number} has {len(prompt.ids)} tokens; the base takes 1 to {base.context - 1}"
            )
    if not prompts:
        return []
    return _Batch(base, bank, prompts, sampling, max_new_tokens, places).run(progress)


class _Batch:
    """The state of one call of ``generate``."""

    def __init__(
        self,
        base: Base,
        bank: Bank,
        prompts: Sequence[Prompt],
        sampling: Sampling,
        max_new_tokens: int,
        places: int,
    ) -> None:
        self.base, self.bank, self.prompts, self.sampling = base, bank, prompts, sampling
        self.limits = [min(max_new_tokens, base.context - len(prompt.ids)) for prompt in prompts]
        self.max_new_tokens = max_new_tokens
        self.responses: list[Response | None] = [None] * len(prompts)
        self.waiting: dict[str | None, deque[int]] = {}
        for index in sorted(range(len(prompts)), key=lambda index: self._slot(prompts[index].adapter)):
            self.waiting.setdefault(prompts[index].adapter, deque()).append(index)
        self.places = min(places, len(prompts))
        longest = max(len(prompt.ids) + limit for prompt, limit in zip(prompts, self.limits, strict=True))
        self.cache = _Cache(base.decoder, self.places, longest)
        self.rows: list[_Row] = []
        self.routed: tuple[list[str | None], Lora | None] = ([], None)

    def run(self, progress: Progress | None) -> list[Response]:
        fresh = [self._place(adapter) for adapter in self._first_rows()]
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
        return [response for response in self.responses if response is not None]

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
        for place in sorted(done, reverse=True):
            adapter = self.rows[place].adapter
            if not self.waiting[adapter]:
                adapter = max(self.waiting, key=lambda name: len(self.waiting[name]))
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
        return sorted(fresh)

    def _length(self, row: _Row) -> int:
        """Positions that stand in the cache: the newest token enters it with the next step."""
        return len(self.prompts[row.prompt].ids) + max(len(row.produced) - 1, 0)

    def _finish(self, row: _Row) -> bool:
        stop: Stop
        if row.produced[-1] in self.base.stops:
            stop = "end-of-turn"
        elif len(row.produced) == self.limits[row.prompt]:
            stop = "length" if len(row.produced) == self.max_new_tokens else "context"
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
        lora = self.bank.lora([prompt.adapter for prompt in prompts])
        attend = _Prefill(self.cache, self._tensor(places))
        last = self._tensor([[len(prompt.ids) - 1] for prompt in prompts])
        return self.base.decoder.logits(self.base.decoder.hidden(ids, positions, attend, lora, last)[:, 0])

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
