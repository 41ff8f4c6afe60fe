"""The forward pass of a decoder, written over the resident base's own weights and the adapter bank."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sparta_lite.errors import SpartaError
from sparta_lite.kernels.lora import Routing, add_lora

SUPPORTED = ("qwen2", "qwen3", "llama", "mistral")

Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]
"""Attention of one layer: (layer, q, k, v) -> output, q and output [rows, heads, length, head_dim],
k and v [rows, kv_heads, length, head_dim]."""


@dataclass(frozen=True)
class Site:
    """Linear layers that share one input, held as one matrix: q, k, v; o; gate, up; down."""

    names: tuple[str, ...]
    """Module names inside the decoder layer, such as ``self_attn.q_proj``."""
    weight: Tensor
    """[sum of widths, in]"""
    bias: Tensor | None
    widths: tuple[int, ...]
    parts: tuple[tuple[Tensor, Tensor | None], ...]
    """Weight and bias of each module: views of the matrix."""


@dataclass(frozen=True)
class SiteLora:
    """The bank's tensors for one site of one layer."""

    a: Tensor
    """[slots, projections * rank, in]"""
    b: tuple[Tensor, ...]
    """projections x [slots, width, rank]"""


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


class Decoder:
    """A pre-norm decoder with rotary positions and a gated MLP (Qwen2, Qwen3, Llama, Mistral).

    It reads the weights of a loaded transformers model. Projections of one input are fused into
    one matrix, and the model's own parameters become views of it: the weights exist once.
    """

    def __init__(self, model: Any) -> None:
        config = model.config
        _check(model)
        self.heads: int = config.num_attention_heads
        self.kv_heads: int = config.num_key_value_heads
        self.head_dim: int = getattr(config, "head_dim", None) or config.hidden_size // self.heads
        self.eps: float = config.rms_norm_eps
        self.embedding: Tensor = model.model.embed_tokens.weight  # [vocabulary, hidden]
        self.head: Tensor = model.lm_head.weight  # [vocabulary, hidden]
        self.norm: Tensor = model.model.norm.weight
        self.layers = [_read_layer(layer) for layer in model.model.layers]
        rotary = model.model.rotary_emb
        self._frequencies: Tensor = rotary.inv_freq.float()  # [head_dim / 2]
        self._rotary_scaling: float = rotary.attention_scaling

    @property
    def device(self) -> torch.device:
        return self.embedding.device

    def hidden(
        self,
        ids: Tensor,
        positions: Tensor,
        attend: Attend,
        lora: Lora | None,
        keep: Tensor | None = None,
    ) -> Tensor:
        """Final hidden states, after the last norm.

        Args:
            ids: int64 [rows, length].
            positions: int64 [rows, length], the rotary position of every token.
            attend: attention of one layer; it owns mask and cache.
            lora: None for the bare base in every row.
            keep: int64 [rows, kept], where in its row the states stand that are wanted; None: all.

        Returns:
            [rows, length or kept, hidden] in the base's dtype.
        """
        x = F.embedding(ids, self.embedding)
        cos, sin = self.rotary(positions)
        for number, layer in enumerate(self.layers):
            bank, routing = (lora[0][number], lora[1]) if lora else ({}, None)
            q, k, v = self._project(layer, "qkv", self._rms(x, layer.attention_norm), bank, routing)
            q, k = self._heads(q, layer.q_norm), self._heads(k, layer.k_norm)
            out = attend(number, _rotate(q, cos, sin), _rotate(k, cos, sin), self._heads(v, None))
            out = out.transpose(1, 2).flatten(2)  # [rows, length, heads * head_dim]
            if keep is not None and number == len(self.layers) - 1:
                # No later layer attends to the other positions: they need nothing more.
                rows = torch.arange(len(keep), device=keep.device)[:, None]
                x, out = x[rows, keep], out[rows, keep]
            (out,) = self._project(layer, "o", out, bank, routing)
            x = x + out
            gate, up = self._project(layer, "gate_up", self._rms(x, layer.mlp_norm), bank, routing)
            (out,) = self._project(layer, "down", F.silu(gate) * up, bank, routing)
            x = x + out
        return self._rms(x, self.norm)

    def logits(self, hidden: Tensor) -> Tensor:
        """[..., hidden] -> [..., vocabulary]."""
        return F.linear(hidden, self.head)

    def rotary(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Cosine and sine of every position, both [rows, 1, length, head_dim / 2]."""
        angles = positions[:, None, :, None].float() * self._frequencies
        scale, dtype = self._rotary_scaling, self.embedding.dtype
        return (angles.cos() * scale).to(dtype), (angles.sin() * scale).to(dtype)

    def _rms(self, x: Tensor, weight: Tensor) -> Tensor:
        return F.rms_norm(x, weight.shape, weight, self.eps)

    def _heads(self, x: Tensor, norm: Tensor | None) -> Tensor:
        x = x.unflatten(-1, (-1, self.head_dim))  # [rows, length, heads, head_dim]
        return (x if norm is None else self._rms(x, norm)).transpose(1, 2)

    def _project(
        self, layer: Layer, site: str, x: Tensor, bank: dict[str, SiteLora], routing: Routing | None
    ) -> Sequence[Tensor]:
        linear = layer.sites[site]
        if routing is None or site not in bank:
            return tuple(F.linear(x, linear.weight, linear.bias).split(linear.widths, dim=-1))
        # Module by module, for only a contiguous output takes an update without being copied.
        outputs = [F.linear(x, weight, bias) for weight, bias in linear.parts]
        return add_lora(outputs, x, bank[site].a, bank[site].b, routing)


def _check(model: Any) -> None:
    """Refuse what ``Decoder.hidden`` would compute otherwise than the model itself."""
    config = model.config
    if config.model_type not in SUPPORTED:
        raise SpartaError(f"base: no support for {config.model_type!r}; use one of {', '.join(SUPPORTED)}")
    kinds = getattr(config, "layer_types", None)
    window = None if kinds else getattr(config, "sliding_window", None)
    if set(kinds or ()) - {"full_attention"} or (window and window < config.max_position_embeddings):
        raise SpartaError("base: sliding-window attention is not supported; use a base with full attention")
    if config.hidden_act != "silu":
        raise SpartaError(
            f"base: the activation {config.hidden_act!r} is not supported; use a base with silu"
        )
    rotary = model.model.rotary_emb
    if "dynamic" in rotary.rope_type or rotary.rope_type == "longrope":
        raise SpartaError(
            f"base: rotary positions of type {rotary.rope_type!r} are not supported, they change with the "
            "length; use a base with default, linear, yarn or llama3 ones"
        )


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


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
        (module.weight.detach(), None if module.bias is None else module.bias.detach()) for module in modules
    )
    return Site(names, weight, None if bias is None else bias.detach(), widths, parts)
