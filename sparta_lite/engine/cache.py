"""Keys and values of the rows that are being continued, and attention over them."""

from __future__ import annotations

from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from sparta_lite.engine.attention import causal
from sparta_lite.engine.model import Decoder
from sparta_lite.kernels import choice


class Cache:
    """Keys and values, [places, kv_heads, capacity, head_dim] per layer, allocated once."""

    def __init__(self, decoder: Decoder, places: int, capacity: int) -> None:
        self.places, self.capacity = places, capacity
        shape = (places, decoder.kv_heads, capacity, decoder.head_dim)
        like = torch.empty(0, dtype=decoder.dtype, device=decoder.device)
        # Zeros: torch's attention multiplies what lies behind a row's end by 0, which NaN survives.
        self.keys = [like.new_zeros(shape) for _ in decoder.layers]
        self.values = [like.new_zeros(shape) for _ in decoder.layers]

    def move(self, source: int, target: int, length: int) -> None:
        """Give ``source``'s first ``length`` positions to ``target``."""
        for tensor in (*self.keys, *self.values):
            tensor[target, :, :length] = tensor[source, :, :length]


class Prefill:
    """Attention over fresh prompts, padded on the right; their keys and values enter the cache."""

    def __init__(self, cache: Cache, places: Tensor) -> None:
        self.cache, self.places = cache, places

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        self.cache.keys[layer][self.places, :, : k.shape[2]] = k
        self.cache.values[layer][self.places, :, : v.shape[2]] = v
        return causal(layer, q, k, v)


class Step:
    """Attention of one new token per row over everything that its row has cached.

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
        kv_heads = cache.keys[0].shape[1]
        heads = torch.arange(len(lengths) * kv_heads, device=lengths.device).view(-1, kv_heads)
        self.entries = (heads * cache.capacity + lengths[:, None]).view(-1)  # of [entries, head_dim]

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        keys, values = self.cache.keys[layer], self.cache.values[layer]
        for cached, new in ((keys, k), (values, v)):
            cached.view(-1, q.shape[-1]).index_copy_(0, self.entries, new.reshape(-1, q.shape[-1]))
        if not choice.use_triton(q):
            return self._by_torch(q, keys, values)
        return choice.attempt(
            lambda: self._by_triton(q, keys, values), lambda: self._by_torch(q, keys, values)
        )

    @cached_property
    def counts(self) -> Tensor:
        """Positions that each row looks at, int32 [rows]."""
        return (self.lengths + 1).int()

    @cached_property
    def mask(self) -> Tensor:
        """0 where a row may look and minus infinity elsewhere, [rows, 1, 1, longest]."""
        reach = torch.arange(self.longest, device=self.lengths.device) <= self.lengths[:, None]
        like = self.cache.keys[0].new_zeros(reach.shape)
        return like.masked_fill_(~reach, -torch.inf)[:, None, None]

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
