"""The forward pass of a decoder, written over the resident base's own weights and the adapter bank."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint as recompute

from sparta_lite.engine.mixing import AttentionSpec, Mixers, Mixing
from sparta_lite.engine.sites import Adapters, HasSites, Lora, Site, fuse, project
from sparta_lite.engine.support import windows
from sparta_lite.kernels import choice
from sparta_lite.kernels.elementwise import Rotary, add_norm_by_triton, swiglu
from sparta_lite.kernels.logprob import token_logprobs
from sparta_lite.kernels.product import linear

_ARCHITECTURES = ("qwen2", "qwen3", "llama", "mistral", "ministral")


@dataclass(frozen=True)
class Layer:
    attention_norm: Tensor
    mlp_norm: Tensor
    q_norm: Tensor | None
    k_norm: Tensor | None
    sites: dict[str, Site]
    """``qkv``, ``o``, ``gate_up`` and ``down``."""


class Decoder(Protocol):
    """The resident base as engine and training see it."""

    @property
    def device(self) -> torch.device: ...

    @property
    def dtype(self) -> torch.dtype:
        """What it computes in."""
        ...

    @property
    def layers(self) -> Sequence[HasSites]: ...

    @property
    def mixers(self) -> Mixers:
        """How each layer mixes the tokens of a sequence."""
        ...

    @property
    def head(self) -> Tensor:
        """[vocabulary, hidden]"""
        ...

    def hidden(
        self,
        ids: Tensor,
        positions: Tensor,
        mixing: Mixing,
        lora: Lora | None,
        keep: Tensor | None = None,
        checkpoint: bool = False,
    ) -> Tensor:
        """Final hidden states, after the last norm.

        Args:
            ids: int64 [rows, length].
            positions: int64 [rows, length], the rotary position of every token.
            mixing: what mixes the tokens of a sequence; it owns mask and cache.
            lora: None for the bare base in every row.
            keep: int64 [rows, kept], where in its row the states stand that are wanted; None: all.
            checkpoint: keep only each layer's input for the backward pass and compute the rest again there.

        Returns:
            [rows, length or kept, hidden] in the base's dtype.
        """
        ...

    def logits(self, hidden: Tensor) -> Tensor:
        """[..., hidden] -> [..., vocabulary]."""
        ...

    def logprobs(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """log p(target) after each of the hidden states, without all logits at once.

        Args:
            hidden: [tokens, hidden], as ``hidden`` gives them.
            targets: int64 [tokens].

        Returns:
            float32 [tokens].
        """
        ...


class FusedDecoder:
    """A pre-norm decoder with rotary positions and a gated MLP (Qwen2, Qwen3, Llama, Mistral, Ministral).

    It reads the weights of a loaded transformers model. Projections of one input are fused into
    one matrix, and the model's own parameters become views of it: the weights exist once.
    """

    def __init__(self, model: Any) -> None:
        config = model.config
        self.dtype: torch.dtype = model.model.embed_tokens.weight.dtype
        """What it computes in."""
        self.heads: int = config.num_attention_heads
        self.head_dim: int = getattr(config, "head_dim", None) or config.hidden_size // self.heads
        self.eps: float = config.rms_norm_eps
        self.embedding: Tensor = model.model.embed_tokens.weight  # [vocabulary, hidden]
        self.head: Tensor = model.lm_head.weight  # [vocabulary, hidden]
        self._head_bias: Tensor | None = model.lm_head.bias
        self.norm: Tensor = model.model.norm.weight
        self.layers: Sequence[Layer] = self._read(model)
        self.mixers: Mixers = [
            AttentionSpec(config.num_key_value_heads, self.head_dim, window) for window in windows(config)
        ]
        rotary = model.model.rotary_emb
        # [head_dim / 2], wherever the loader has left them
        self._frequencies: Tensor = rotary.inv_freq.to(self.embedding.device, torch.float32)
        self._rotary_scaling: float = rotary.attention_scaling

    @property
    def recordable(self) -> bool:
        """Whether a pass launches the same work whatever its tokens are."""
        return True

    def _read(self, model: Any) -> Sequence[Layer]:
        return [_read_layer(layer) for layer in model.model.layers]

    @property
    def device(self) -> torch.device:
        return self.embedding.device

    def hidden(
        self,
        ids: Tensor,
        positions: Tensor,
        mixing: Mixing,
        lora: Lora | None,
        keep: Tensor | None = None,
        checkpoint: bool = False,
    ) -> Tensor:
        """See ``Decoder``."""
        x, added = F.embedding(ids, self.embedding), None
        rotary = self.rotary(positions)
        for number in range(len(self.layers)):
            # No later layer attends to the positions that are not kept: they need nothing more.
            kept = keep if number == len(self.layers) - 1 else None
            if checkpoint and torch.is_grad_enabled():
                x = recompute(self._whole_layer, number, x, rotary, mixing, lora, kept, use_reentrant=False)
            else:
                x, added = self._layer(number, x, added, rotary, mixing, lora, kept)
        return self._add_norm(x, added, self.norm)[1]

    def logits(self, hidden: Tensor) -> Tensor:
        """See ``Decoder``."""
        return linear(hidden, self.head, self._head_bias)

    def logprobs(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """See ``Decoder``."""
        return token_logprobs(hidden.to(self.head.dtype), self.head, targets, bias=self._head_bias)

    def _layer(
        self,
        number: int,
        x: Tensor,
        added: Tensor | None,
        rotary: Rotary,
        mixing: Mixing,
        lora: Lora | None,
        keep: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """One decoder layer: [rows, length, hidden] -> [rows, length or kept, hidden].

        ``added`` is still to be added to ``x``, and the second result to the first: on a card a sum and the
        norm behind it are one kernel.
        """
        layer = self.layers[number]
        adapters = (lora[0][number], lora[1]) if lora else None
        x, normed = self._add_norm(x, added, layer.attention_norm)
        out = self._mix(number, normed, rotary, mixing, adapters)
        if keep is not None:
            rows = torch.arange(len(keep), device=keep.device)[:, None]
            x, out = x[rows, keep], out[rows, keep]
        (out,) = project(layer, "o", out, adapters)
        x, normed = self._add_norm(x, out, layer.mlp_norm)
        return x, self._mlp(layer, normed, adapters)

    def _whole_layer(self, number: int, x: Tensor, *others: Any) -> Tensor:
        """The same where layers are computed again one by one, each from one tensor."""
        x, added = self._layer(number, x, None, *others)
        return x + added

    def _mix(
        self,
        number: int,
        x: Tensor,
        rotary: Rotary,
        mixing: Mixing,
        adapters: Adapters | None,
    ) -> Tensor:
        """What tokens learn of those before them: [rows, length, hidden] -> [rows, length, in of ``o``]."""
        layer = self.layers[number]
        q, k, v = project(layer, "qkv", x, adapters)
        q, k = self._heads(q, layer.q_norm), self._heads(k, layer.k_norm)
        out = mixing.attend(number, q, k, self._heads(v, None), rotary)
        return out.transpose(1, 2).flatten(2)

    def _mlp(self, layer: Layer, x: Tensor, adapters: Adapters | None) -> Tensor:
        gate, up = project(layer, "gate_up", x, adapters)
        (out,) = project(layer, "down", swiglu(gate, up), adapters)
        return out

    def rotary(self, positions: Tensor) -> Rotary:
        """Of every position, int64 [rows, length]."""
        angles = positions[:, None, :, None].float() * self._frequencies
        scale, dtype = self._rotary_scaling, self.embedding.dtype
        cos, sin = (angles.cos() * scale).to(dtype), (angles.sin() * scale).to(dtype)
        return torch.cat((cos, cos), dim=-1), torch.cat((-sin, sin), dim=-1)

    def _add_norm(self, x: Tensor, added: Tensor | None, weight: Tensor) -> tuple[Tensor, Tensor]:
        """x + added, and its norm."""

        def plain() -> tuple[Tensor, Tensor]:
            total = x if added is None else x + added
            return total, self._rms(total, weight)

        if not choice.use_triton(x):
            return plain()
        return choice.attempt(lambda: add_norm_by_triton(x, added, weight, self.eps), plain)

    def _rms(self, x: Tensor, weight: Tensor) -> Tensor:
        return F.rms_norm(x, weight.shape, weight, self.eps)

    def _heads(self, x: Tensor, norm: Tensor | None) -> Tensor:
        x = x.unflatten(-1, (-1, self.head_dim))  # [rows, length, heads, head_dim]
        return (x if norm is None else self._rms(x, norm)).transpose(1, 2)


def computes(config: Any) -> bool:
    """Whether ``FusedDecoder`` computes what a model with this transformers configuration does."""
    return config.model_type in _ARCHITECTURES and config.hidden_act == "silu"


def _read_layer(layer: Any) -> Layer:
    attention = layer.self_attn
    return Layer(
        layer.input_layernorm.weight,
        layer.post_attention_layernorm.weight,
        attention.q_norm.weight if hasattr(attention, "q_norm") else None,
        attention.k_norm.weight if hasattr(attention, "k_norm") else None,
        {
            "qkv": fuse(layer, "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
            "o": fuse(layer, "self_attn.o_proj"),
            "gate_up": fuse(layer, "mlp.gate_proj", "mlp.up_proj"),
            "down": fuse(layer, "mlp.down_proj"),
        },
    )
