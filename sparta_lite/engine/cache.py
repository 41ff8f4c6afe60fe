"""What the rows that are being continued have cached, layer by layer, and mixing with it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from sparta_lite.engine import delta
from sparta_lite.engine.attention import spelt_out
from sparta_lite.engine.mixing import AttentionSpec, DeltaSpec, Mixers, attention_spec, delta_spec
from sparta_lite.engine.model import Decoder
from sparta_lite.engine.sequences import WholeSequences
from sparta_lite.kernels import choice
from sparta_lite.kernels.elementwise import Rotary, rotate, rotate_both


@dataclass(frozen=True)
class KeysValues:
    """What a layer with attention keeps."""

    keys: Tensor
    """[places, kv_heads, capacity, head_dim]. With a window the capacity is no more than that, and a token at
    position p stands at p modulo the capacity, where the one that leaves the window stood."""
    values: Tensor

    @property
    def capacity(self) -> int:
        return self.keys.shape[2]

    def move(self, source: int, target: int, length: int) -> None:
        """See ``Cache``."""
        for tensor in (self.keys, self.values):
            tensor[target, :, :length] = tensor[source, :, :length]


@dataclass(frozen=True)
class State(delta.Carried):
    """What a layer with the delta rule keeps, whatever the length; its rows are places."""

    def move(self, source: int, target: int, length: int) -> None:
        """See ``Cache``."""
        for tensor in (self.convolution, self.recurrent):
            tensor[target] = tensor[source]


class Cache:
    """For every layer what its mixer needs of the tokens so far, in so many places, allocated once."""

    def __init__(self, decoder: Decoder, places: int, capacity: int) -> None:
        """
        Args:
            decoder: the base.
            places: rows.
            capacity: positions that a row may have.
        """
        self.mixers: Mixers = decoder.mixers
        self.places, self.capacity, self.dtype = places, capacity, decoder.dtype
        like = torch.empty(0, dtype=decoder.dtype, device=decoder.device)
        self.layers: list[KeysValues | State] = []
        for mixer in decoder.mixers:
            if isinstance(mixer, DeltaSpec):
                recurrent = (places, mixer.value_heads, mixer.key_dim, mixer.value_dim)
                self.layers.append(
                    State(
                        like.new_zeros(places, mixer.kernel - 1, mixer.channels),
                        like.new_zeros(recurrent, dtype=torch.float32),
                    )
                )
            else:
                shape = (places, mixer.kv_heads, min(capacity, mixer.window or capacity), mixer.head_dim)
                # Zeros: torch's attention multiplies what lies behind a row's end by 0, which NaN survives.
                self.layers.append(KeysValues(like.new_zeros(shape), like.new_zeros(shape)))

    def move(self, source: int, target: int, length: int) -> None:
        """Give ``target`` what ``source``, of ``length`` positions, has cached."""
        for layer in self.layers:
            layer.move(source, target, length)

    def keys_values(self, layer: int) -> KeysValues:
        """Of a layer with attention."""
        found = self.layers[layer]
        assert isinstance(found, KeysValues)
        return found

    def state(self, layer: int) -> State:
        """Of a layer with the delta rule."""
        found = self.layers[layer]
        assert isinstance(found, State)
        return found


class Prefill:
    """A ``Mixing`` of fresh prompts, padded on the right; what it leaves enters the cache."""

    def __init__(self, cache: Cache, places: Tensor, lengths: Tensor) -> None:
        """
        Args:
            cache: where the prompts go to.
            places: int64 [rows], of the prompts.
            lengths: int64 [rows], their tokens.
        """
        self.cache, self.places, self.lengths = cache, places, lengths
        self.prompts = WholeSequences(cache.mixers)
        self._newest: dict[int, Tensor] = {}

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, rotary: Rotary | None = None) -> Tensor:
        """See ``Mixing``."""
        if rotary is not None:
            q, k = rotate_both(q, k, rotary)
        cached = self.cache.keys_values(layer)
        for tensor, new in ((cached.keys, k), (cached.values, v)):
            if new.shape[2] > cached.capacity:
                at = self.newest(cached.capacity)[:, None, :, None]
                new = new.gather(2, at.expand(-1, new.shape[1], -1, new.shape[3]))
            tensor[self.places, :, : new.shape[2]] = new
        return self.prompts.attend(layer, q, k, v)

    def newest(self, capacity: int) -> Tensor:
        """For each entry of a window which token of the prompt stands there, int64 [rows, capacity]; any
        where there is none."""
        if capacity not in self._newest:
            last = self.lengths[:, None] - 1
            entry = torch.arange(capacity, device=last.device)
            self._newest[capacity] = (last - (last - entry) % capacity).clamp_(min=0)
        return self._newest[capacity]

    def delta(self, layer: int, qkv: Tensor, decay: Tensor, beta: Tensor) -> Tensor:
        """See ``Mixing``."""
        output, carried = delta.run(delta_spec(self.cache.mixers[layer]), qkv, decay, beta, self.lengths)
        state = self.cache.state(layer)
        state.convolution[self.places] = carried.convolution
        state.recurrent[self.places] = carried.recurrent
        return output


class Step:
    """A ``Mixing`` of one new token per row with everything that its row has cached.

    The rows stand in the first places. Triton's kernel reads how far each of them reaches on the device
    and needs no mask; torch's reads all of them as far as the longest.
    """

    def __init__(self, cache: Cache, lengths: Tensor, longest: int) -> None:
        """
        Args:
            cache: of at least as many places as rows.
            lengths: int64 [rows], where the new token stands.
            longest: more than any of ``lengths``; Triton's kernel does not look at it.
        """
        self.cache, self.lengths, self.longest = cache, lengths, longest
        self._entries: dict[tuple[int, int], Tensor] = {}
        self._counts: dict[int, Tensor] = {}
        self._masks: dict[int, Tensor] = {}

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, rotary: Rotary | None = None) -> Tensor:
        """See ``Mixing``."""
        spec = attention_spec(self.cache.mixers[layer])
        cached = self.cache.keys_values(layer)
        if not choice.use_triton(q):
            return self._by_torch(q, k, v, rotary, cached, spec)
        return choice.attempt(
            lambda: self._by_triton(q, k, v, rotary, cached, spec),
            lambda: self._by_torch(q, k, v, rotary, cached, spec),
        )

    def delta(self, layer: int, qkv: Tensor, decay: Tensor, beta: Tensor) -> Tensor:
        """See ``Mixing``."""
        state, rows = self.cache.state(layer), len(qkv)
        carried = delta.Carried(state.convolution[:rows], state.recurrent[:rows])
        return delta.advance(delta_spec(self.cache.mixers[layer]), qkv, decay, beta, carried)

    def entries(self, kv_heads: int, capacity: int) -> Tensor:
        """Where the new keys of all rows stand in [places * kv_heads * capacity, head_dim]."""
        key = kv_heads, capacity
        if key not in self._entries:
            heads = torch.arange(len(self.lengths) * kv_heads, device=self.lengths.device).view(-1, kv_heads)
            at = self.lengths if capacity == self.cache.capacity else self.lengths % capacity
            self._entries[key] = (heads * capacity + at[:, None]).view(-1)
        return self._entries[key]

    def counts(self, capacity: int) -> Tensor:
        """Entries that each row looks at, from the first one on, int32 [rows]."""
        if capacity not in self._counts:
            self._counts[capacity] = (self.lengths + 1).clamp_(max=capacity).int()
        return self._counts[capacity]

    def mask(self, capacity: int) -> Tensor:
        """0 where a row may look and minus infinity elsewhere, [rows, 1, 1, longest or capacity]."""
        if capacity not in self._masks:
            reach = torch.arange(min(self.longest, capacity), device=self.lengths.device)
            numbers = torch.zeros(len(self.lengths), len(reach), dtype=self.cache.dtype, device=reach.device)
            numbers.masked_fill_(reach > self.lengths[:, None], -torch.inf)
            self._masks[capacity] = numbers[:, None, None]
        return self._masks[capacity]

    def _keep(self, k: Tensor, v: Tensor, cached: KeysValues, spec: AttentionSpec) -> None:
        """Write the new keys and values into the cache."""
        entries = self.entries(spec.kv_heads, cached.capacity)
        for old, new in ((cached.keys, k), (cached.values, v)):
            old.view(-1, spec.head_dim).index_copy_(0, entries, new.reshape(-1, spec.head_dim))

    def _by_triton(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        rotary: Rotary | None,
        cached: KeysValues,
        spec: AttentionSpec,
    ) -> Tensor:
        from sparta_lite.kernels.triton_attention import newest_attention
        from sparta_lite.kernels.triton_rotary import rotate_and_keep

        if rotary is None:
            self._keep(k, v, cached, spec)
        else:
            q = rotate_and_keep(q, k, v, *rotary, cached.keys, cached.values, self.lengths)
        counts = self.counts(cached.capacity)
        return newest_attention(q[:, :, 0], cached.keys, cached.values, counts, spec.softcap, spec.sinks)[
            :, :, None
        ]

    def _by_torch(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        rotary: Rotary | None,
        cached: KeysValues,
        spec: AttentionSpec,
    ) -> Tensor:
        if rotary is not None:
            q, k = rotate(q, *rotary), rotate(k, *rotary)
        self._keep(k, v, cached, spec)
        rows, mask = len(q), self.mask(cached.capacity)
        keys, values = (each[:rows, :, : mask.shape[-1]] for each in (cached.keys, cached.values))
        if spec.softcap is not None or spec.sinks is not None:
            return spelt_out(q, keys, values, mask, spec.softcap, spec.sinks)
        # The query heads that share a key head stand as so many queries of that head.
        grouped = q.view(rows, keys.shape[1], -1, q.shape[-1])  # [rows, kv_heads, heads / kv_heads, head_dim]
        out = F.scaled_dot_product_attention(grouped, keys, values, attn_mask=mask)
        return out.reshape(q.shape)  # a copy on a GPU, where `out` lies query after query
