"""The forward pass of a decoder, written over the resident base's own weights and the adapter bank."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint as recompute

from sparta_lite.engine import nf4
from sparta_lite.engine.mixing import AttentionSpec, Mixers, Mixing
from sparta_lite.errors import SpartaError
from sparta_lite.kernels import choice
from sparta_lite.kernels.logprob import token_logprobs
from sparta_lite.kernels.lora import Routing, add_lora

_ARCHITECTURES = ("qwen2", "qwen3", "llama", "mistral")

Linear = Callable[[Tensor], Tensor]
"""[..., in] -> [..., out]: a plain matrix, or one in 4 bits (see ``engine/nf4.py``)."""


@dataclass(frozen=True)
class Matrix:
    """A linear layer over plain weights."""

    weight: Tensor
    """[out, in]"""
    bias: Tensor | None

    def __call__(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)


@dataclass(frozen=True)
class Site:
    """Linear layers that share one input: q, k, v; o; gate, up; down."""

    names: tuple[str, ...]
    """Module names inside the decoder layer, such as ``self_attn.q_proj``."""
    inputs: int
    widths: tuple[int, ...]
    """Outputs of each module."""
    parts: tuple[Linear, ...]
    """The modules, one by one: matrices, or what serves a module in 4 bits."""
    whole: Matrix | None
    """All of them as one matrix, whose memory the parts are views of; None where they are in 4 bits:
    blocks of one 4-bit tensor share scales, which another tensor's do not fit."""


@dataclass(frozen=True)
class SiteLora:
    """The bank's tensors for one site of one layer."""

    a: Tensor
    """[slots, projections * rank, in]"""
    b: tuple[Tensor, ...]
    """projections x [slots, width, rank]"""
    gain: Tensor | None = None
    """float32 [slots, projections * rank]: a module's scale over its adapter's, where some differ."""


Lora = tuple[Sequence[dict[str, SiteLora]], Routing]
"""The bank's tensors, layer by layer, and the routing of the rows at hand."""


@dataclass(frozen=True)
class Layer:
    attention_norm: Tensor
    mlp_norm: Tensor
    q_norm: Tensor | None
    k_norm: Tensor | None
    sites: dict[str, Site]
    """``qkv``, ``o``, ``gate_up`` and ``down``."""


class HasSites(Protocol):
    @property
    def sites(self) -> dict[str, Site]:
        """What adapters can be put on in one decoder layer."""
        ...


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
    """A pre-norm decoder with rotary positions and a gated MLP (Qwen2, Qwen3, Llama, Mistral).

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
        self.layers = [_read_layer(layer) for layer in model.model.layers]
        spec = AttentionSpec(config.num_key_value_heads, self.head_dim)
        self.mixers: Mixers = [spec] * len(self.layers)
        rotary = model.model.rotary_emb
        # [head_dim / 2], wherever the loader has left them
        self._frequencies: Tensor = rotary.inv_freq.to(self.embedding.device, torch.float32)
        self._rotary_scaling: float = rotary.attention_scaling

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
        x = F.embedding(ids, self.embedding)
        rotary = self.rotary(positions)
        for number in range(len(self.layers)):
            # No later layer attends to the positions that are not kept: they need nothing more.
            kept = keep if number == len(self.layers) - 1 else None
            if checkpoint and torch.is_grad_enabled():
                x = recompute(self._layer, number, x, rotary, mixing, lora, kept, use_reentrant=False)
            else:
                x = self._layer(number, x, rotary, mixing, lora, kept)
        return self._rms(x, self.norm)

    def logits(self, hidden: Tensor) -> Tensor:
        """See ``Decoder``."""
        return F.linear(hidden, self.head, self._head_bias)

    def logprobs(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """See ``Decoder``."""
        return token_logprobs(hidden.to(self.head.dtype), self.head, targets, bias=self._head_bias)

    def _layer(
        self,
        number: int,
        x: Tensor,
        rotary: tuple[Tensor, Tensor],
        mixing: Mixing,
        lora: Lora | None,
        keep: Tensor | None,
    ) -> Tensor:
        """One decoder layer: [rows, length, hidden] -> [rows, length or kept, hidden]."""
        layer = self.layers[number]
        bank, routing = (lora[0][number], lora[1]) if lora else ({}, None)
        q, k, v = self._project(layer, "qkv", self._rms(x, layer.attention_norm), bank, routing)
        q, k = self._heads(q, layer.q_norm), self._heads(k, layer.k_norm)
        out = mixing.attend(number, _rotate(q, *rotary), _rotate(k, *rotary), self._heads(v, None))
        out = out.transpose(1, 2).flatten(2)  # [rows, length, heads * head_dim]
        if keep is not None:
            rows = torch.arange(len(keep), device=keep.device)[:, None]
            x, out = x[rows, keep], out[rows, keep]
        (out,) = self._project(layer, "o", out, bank, routing)
        x = x + out
        gate, up = self._project(layer, "gate_up", self._rms(x, layer.mlp_norm), bank, routing)
        (out,) = self._project(layer, "down", F.silu(gate) * up, bank, routing)
        return x + out

    def rotary(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """What ``_rotate`` takes of every position: cosine, and sine of alternating sign for both halves.

        Both are [rows, 1, length, head_dim].
        """
        angles = positions[:, None, :, None].float() * self._frequencies
        scale, dtype = self._rotary_scaling, self.embedding.dtype
        cos, sin = (angles.cos() * scale).to(dtype), (angles.sin() * scale).to(dtype)
        return torch.cat((cos, cos), dim=-1), torch.cat((-sin, sin), dim=-1)

    def _rms(self, x: Tensor, weight: Tensor) -> Tensor:
        return F.rms_norm(x, weight.shape, weight, self.eps)

    def _heads(self, x: Tensor, norm: Tensor | None) -> Tensor:
        x = x.unflatten(-1, (-1, self.head_dim))  # [rows, length, heads, head_dim]
        return (x if norm is None else self._rms(x, norm)).transpose(1, 2)

    def _project(
        self, layer: Layer, site: str, x: Tensor, bank: dict[str, SiteLora], routing: Routing | None
    ) -> Sequence[Tensor]:
        linear = layer.sites[site]
        adapted = routing is not None and site in bank
        # In torch only a contiguous output takes an update without being copied, and where gradients flow a
        # split has to put them together again, in as much memory.
        if linear.whole is not None and (
            not adapted or (choice.use_triton(x) and not torch.is_grad_enabled())
        ):
            outputs: Sequence[Tensor] = linear.whole(x).split(linear.widths, dim=-1)
        else:
            outputs = [part(x) for part in linear.parts]
        if routing is None or not adapted:
            return outputs
        return add_lora(outputs, x, bank[site].a, bank[site].b, routing, bank[site].gain)


def computes(config: Any) -> bool:
    """Whether ``FusedDecoder`` computes what a model with this transformers configuration does."""
    return config.model_type in _ARCHITECTURES and config.hidden_act == "silu"


def require_supported(config: Any) -> None:
    """Refuse a base whose states depend on more than the tokens before them and their positions.

    Raises:
        SpartaError: it has sliding windows, or positions that change with the length.
    """
    kinds = getattr(config, "layer_types", None)
    window = None if kinds else getattr(config, "sliding_window", None)
    if set(kinds or ()) - {"full_attention"} or (window and window < config.max_position_embeddings):
        raise SpartaError("base: sliding-window attention is not supported; use a base with full attention")
    rotary = (getattr(config, "rope_parameters", None) or {}).get("rope_type") or "default"
    if "dynamic" in rotary or rotary == "longrope":
        raise SpartaError(
            f"base: rotary positions of type {rotary!r} are not supported, they change with the "
            "length; use a base with default, linear, yarn or llama3 ones"
        )


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding (Su et al. 2021) of the pairs (i, i + head_dim / 2): [..., head_dim]."""
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, -1), sin)


def _read_layer(layer: Any) -> Layer:
    attention = layer.self_attn
    return Layer(
        layer.input_layernorm.weight,
        layer.post_attention_layernorm.weight,
        attention.q_norm.weight if hasattr(attention, "q_norm") else None,
        attention.k_norm.weight if hasattr(attention, "k_norm") else None,
        {
            "qkv": _fuse(layer, "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
            "o": _fuse(layer, "self_attn.o_proj"),
            "gate_up": _fuse(layer, "mlp.gate_proj", "mlp.up_proj"),
            "down": _fuse(layer, "mlp.down_proj"),
        },
    )


def _fuse(layer: Any, *names: str) -> Site:
    modules = [layer.get_submodule(name) for name in names]
    widths = tuple(module.out_features for module in modules)
    if any(type(module) is not torch.nn.Linear for module in modules):
        return Site(names, modules[0].in_features, widths, tuple(map(nf4.linear, modules)), None)
    biases = [module.bias for module in modules]
    weight, bias = modules[0].weight.detach(), biases[0]
    if len(modules) > 1:
        weight = torch.cat([module.weight.detach() for module in modules])
        bias = None if bias is None else torch.cat([each.detach() for each in biases])
        for module, rows in zip(modules, weight.split(widths), strict=True):
            module.weight = torch.nn.Parameter(rows, requires_grad=False)
        if bias is not None:
            for module, part in zip(modules, bias.split(widths), strict=True):
                module.bias = torch.nn.Parameter(part, requires_grad=False)
    parts = tuple(
        Matrix(module.weight.detach(), None if module.bias is None else module.bias.detach())
        for module in modules
    )
    whole = Matrix(weight, None if bias is None else bias.detach())
    return Site(names, modules[0].in_features, widths, parts, whole)
