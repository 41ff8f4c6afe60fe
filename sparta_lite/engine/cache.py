"""What the rows that are being continued have cached, layer by layer, and mixing with it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from sparta_lite.engine import delta
from sparta_lite.engine.attention import causal
from sparta_lite.engine.mixing import DeltaSpec, Mixers, delta_spec
from sparta_lite.engine.model import Decoder
from sparta_lite.kernels import choice


@dataclass(frozen=True)
class KeysValues:
    """What a layer with attention keeps."""

    keys: Tensor
    """[places, kv_heads, capacity, head_dim]"""
    values: Tensor

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
                shape = (places, mixer.kv_heads, capacity, mixer.head_dim)
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

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """See ``Mixing``."""
        cached = self.cache.keys_values(layer)
        cached.keys[self.places, :, : k.shape[2]] = k
        cached.values[self.places, :, : v.shape[2]] = v
        return causal(q, k, v)

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
        self._entries: dict[int, Tensor] = {}

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """See ``Mixing``."""
        cached = self.cache.keys_values(layer)
        keys, values = cached.keys, cached.values
        entries = self.entries(keys.shape[1])
        for old, new in ((keys, k), (values, v)):
            old.view(-1, q.shape[-1]).index_copy_(0, entries, new.reshape(-1, q.shape[-1]))
        if not choice.use_triton(q):
            return self._by_torch(q, keys, values)
        return choice.attempt(
            lambda: self._by_triton(q, keys, values), lambda: self._by_torch(q, keys, values)
        )

    def delta(self, layer: int, qkv: Tensor, decay: Tensor, beta: Tensor) -> Tensor:
        """See ``Mixing``."""
        state, rows = self.cache.state(layer), len(qkv)
        carried = delta.Carried(state.convolution[:rows], state.recurrent[:rows])
        return delta.advance(delta_spec(self.cache.mixers[layer]), qkv, decay, beta, carried)

    def entries(self, kv_heads: int) -> Tensor:
        """Where the new keys of all rows stand in [places * kv_heads * capacity, head_dim]."""
        if kv_heads not in self._entries:
            heads = torch.arange(len(self.lengths) * kv_heads, device=self.lengths.device).view(-1, kv_heads)
            self._entries[kv_heads] = (heads * self.cache.capacity + self.lengths[:, None]).view(-1)
        return self._entries[kv_heads]

    @cached_property
    def counts(self) -> Tensor:
        """Positions that each row looks at, int32 [rows]."""
        return (self.lengths + 1).int()

    @cached_property
    def mask(self) -> Tensor:
        """0 where a row may look and minus infinity elsewhere, [rows, 1, 1, longest]."""
        reach = torch.arange(self.longest, device=self.lengths.device) <= self.lengths[:, None]
        numbers = torch.zeros(reach.shape, dtype=self.cache.dtype, device=reach.device)
        return numbers.masked_fill_(~reach, -torch.inf)[:, None, None]

    def _by_triton(self, q: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        from sparta_lite.kernels.triton_attention import newest_attention

        return newest_attention(q[:, :, 0], keys, values, self.counts)[:, :, None]

    def _by_torch(self, q: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        rows = len(q)
        # The query heads that share a key head stand as so many queries of that head.
        grouped = q.view(rows, keys.shape[1], -1, q.shape[-1])  # [rows, kv_heads, heads / kv_heads, head_dim]
        out = F.scaled_dot_product_attention(
            grouped, keys[:rows, :, : self.longest], values[:rows, :, : self.longest], attn_mask=self.mask
        )
        return out.reshape(q.shape)  # a copy on a GPU, where `out` lies query after query
