"""How each layer of a decoder mixes the tokens of a sequence, and what does it in a forward pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from sparta_lite.kernels.elementwise import Rotary


@dataclass(frozen=True, eq=False)
class AttentionSpec:
    """Softmax attention: a token looks at what stands before it."""

    kv_heads: int
    head_dim: int
    window: int | None = None
    """How many tokens it sees, itself included; None: all."""
    softcap: float | None = None
    """Scores go through ``softcap * tanh(score / softcap)``; None: as they are."""
    sinks: Tensor | None = None
    """[heads]: a score of nothing, which takes its share of the softmax; None: there is none."""


@dataclass(frozen=True, eq=False)
class DeltaSpec:
    """The gated delta rule (Yang et al. 2025) behind a short causal convolution: a state of fixed size."""

    key_heads: int
    value_heads: int
    """A multiple of ``key_heads``; those that share a key head stand together."""
    key_dim: int
    value_dim: int
    """Of one head each."""
    convolution: Tensor
    """[channels, kernel], one filter for each channel of queries, keys and values; SiLU follows it."""

    @property
    def widths(self) -> tuple[int, int, int]:
        """Channels of the queries, of the keys and of the values."""
        keys = self.key_heads * self.key_dim
        return keys, keys, self.value_heads * self.value_dim

    @property
    def channels(self) -> int:
        return sum(self.widths)

    @property
    def kernel(self) -> int:
        """Tokens that the convolution sees, the one at hand included."""
        return self.convolution.shape[1]


Mixer = AttentionSpec | DeltaSpec
Mixers = Sequence[Mixer]
"""One for each layer."""


def attention_spec(mixer: Mixer) -> AttentionSpec:
    """``mixer``, in a layer that has attention."""
    assert isinstance(mixer, AttentionSpec)
    return mixer


def delta_spec(mixer: Mixer) -> DeltaSpec:
    """``mixer``, in a layer that has the delta rule."""
    assert isinstance(mixer, DeltaSpec)
    return mixer


class Mixing(Protocol):
    """What a forward pass mixes its tokens with: it owns masks, caches and states.

    Rows and length are those of the token ids that the pass is over.
    """

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, rotary: Rotary | None = None) -> Tensor:
        """Attention in a layer whose mixer is an ``AttentionSpec``.

        Args:
            layer: its number.
            q: [rows, heads, length, head_dim].
            k: [rows, kv_heads, length, head_dim].
            v: like ``k``.
            rotary: what ``q`` and ``k`` are still to be turned by; None: they are.

        Returns:
            [rows, heads, length, head_dim].
        """
        ...

    def delta(self, layer: int, qkv: Tensor, decay: Tensor, beta: Tensor) -> Tensor:
        """Convolution and gated delta rule in a layer whose mixer is a ``DeltaSpec``.

        Args:
            layer: its number.
            qkv: [rows, length, channels], queries, keys and values as their projection gives them.
            decay: float32 [rows, length, value_heads], the logarithm of what is kept of the state.
            beta: [rows, length, value_heads], how much of it a token writes anew, 0 to 1.

        Returns:
            [rows, length, value_heads, value_dim].
        """
        ...
