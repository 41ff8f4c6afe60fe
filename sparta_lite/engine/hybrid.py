"""Decoders that mix most layers by the gated delta rule and some by attention: Qwen3.5, Qwen3-Next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sparta_lite.engine.mixing import AttentionSpec, DeltaSpec, Mixer, Mixing, delta_spec
from sparta_lite.engine.model import FusedDecoder, Layer
from sparta_lite.engine.sites import Adapters, Site, fuse, project
from sparta_lite.engine.support import HYBRIDS
from sparta_lite.kernels.elementwise import Rotary, rotate


@dataclass(frozen=True)
class DeltaGates:
    """The small weights of a layer with the delta rule, float32."""

    rate: Tensor
    """[value_heads]: how fast a state decays."""
    offset: Tensor
    """[value_heads], added before that is scaled by the token."""
    norm: Tensor
    """[value_dim], of the output before its gate."""


@dataclass(frozen=True)
class HybridLayer(Layer):
    """``sites`` has ``qkv`` or, with the delta rule, ``in``; the outputs that are mixed go through ``o``."""

    gates: DeltaGates | None
    """None: the layer has attention."""
    experts: Any
    """transformers' module of a sparse MLP, whose shared expert alone takes adapters; None: a dense one."""


class HybridDecoder(FusedDecoder):
    """Qwen3.5 and Qwen3-Next over the weights of a loaded transformers model.

    Its norms scale by one more than their weights. Attention rotates a part of every head, and its output
    passes a gate that ``q_proj`` gives beside the queries.
    """

    layers: Sequence[HybridLayer]

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self.norm = _one_more(model.model.norm)
        attention = AttentionSpec(model.config.num_key_value_heads, self.head_dim)
        self.mixers: Sequence[Mixer] = [
            _delta_spec(layer.linear_attn) if hasattr(layer, "linear_attn") else attention
            for layer in model.model.layers
        ]

    @property
    def recordable(self) -> bool:
        """See ``FusedDecoder``: experts are chosen by what the tokens are."""
        return all(layer.experts is None for layer in self.layers)

    def _read(self, model: Any) -> Sequence[HybridLayer]:
        return [_read_layer(layer) for layer in model.model.layers]

    def _rms(self, x: Tensor, weight: Tensor) -> Tensor:
        return F.rms_norm(x.float(), weight.shape, weight, self.eps).to(x.dtype)

    def _mix(
        self,
        number: int,
        x: Tensor,
        rotary: Rotary,
        mixing: Mixing,
        adapters: Adapters | None,
    ) -> Tensor:
        layer = self.layers[number]
        if layer.gates is not None:
            return self._delta(number, layer, layer.gates, x, mixing, adapters)
        q, k, v = project(layer, "qkv", x, adapters)
        # Every head's queries are followed by the gate of its output, [rows, length, heads, head_dim] each.
        q, gate = q.unflatten(-1, (self.heads, 2 * self.head_dim)).chunk(2, dim=-1)
        q, k = self._heads(q.flatten(2), layer.q_norm), self._heads(k, layer.k_norm)
        out = mixing.attend(number, _rotate(q, *rotary), _rotate(k, *rotary), self._heads(v, None))
        gated: Tensor = out.transpose(1, 2) * gate.sigmoid()
        return gated.flatten(2)

    def _delta(
        self,
        number: int,
        layer: HybridLayer,
        gates: DeltaGates,
        x: Tensor,
        mixing: Mixing,
        adapters: Adapters | None,
    ) -> Tensor:
        spec = delta_spec(self.mixers[number])
        qkv, z, b, a = _unmix(spec, project(layer, "in", x, adapters))
        decay = -gates.rate * F.softplus(a.float() + gates.offset)  # [rows, length, value_heads]
        out = mixing.delta(number, qkv, decay, b.sigmoid())  # [rows, length, value_heads, value_dim]
        out = F.rms_norm(out.float(), gates.norm.shape, gates.norm, self.eps)
        return (out.flatten(2) * F.silu(z.float())).to(x.dtype)

    def _mlp(self, layer: Layer, x: Tensor, adapters: Adapters | None) -> Tensor:
        assert isinstance(layer, HybridLayer)
        if layer.experts is None:
            return super()._mlp(layer, x, adapters)
        flat = x.flatten(0, 1)
        _, weights, chosen = layer.experts.gate(flat)
        routed: Tensor = layer.experts.experts(flat, chosen, weights)
        (share,) = project(layer, "shared_gate", x, adapters)
        return routed.view_as(x) + share.sigmoid() * super()._mlp(layer, x, adapters)


def computes(config: Any) -> bool:
    """Whether ``HybridDecoder`` computes what a model with this transformers configuration does."""
    return config.model_type in HYBRIDS and config.hidden_act == "silu"


def _unmix(spec: DeltaSpec, outputs: Sequence[Tensor]) -> Sequence[Tensor]:
    """qkv [rows, length, channels], z [rows, length, values], b and a [rows, length, value_heads]."""
    if len(outputs) == 4:
        return outputs
    # Qwen3-Next has all that belongs to one key head together.
    shared = spec.value_heads // spec.key_heads
    wide, narrow = (each.unflatten(-1, (spec.key_heads, -1)) for each in outputs)
    values = shared * spec.value_dim
    q, k, v, z = wide.split((spec.key_dim, spec.key_dim, values, values), dim=-1)
    b, a = narrow.chunk(2, dim=-1)
    return (
        torch.cat([each.flatten(2) for each in (q, k, v)], dim=-1),
        z.flatten(2),
        b.flatten(2),
        a.flatten(2),
    )


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding of the first numbers of every head, as many as ``cos`` has."""
    width = cos.shape[-1]
    turned = rotate(x[..., :width], cos, sin)
    return turned if width == x.shape[-1] else torch.cat((turned, x[..., width:]), dim=-1)


def _read_layer(layer: Any) -> HybridLayer:
    experts = layer.mlp if hasattr(layer.mlp, "experts") else None
    mlp = "mlp" if experts is None else "mlp.shared_expert"
    sites = {
        "gate_up": fuse(layer, f"{mlp}.gate_proj", f"{mlp}.up_proj"),
        "down": fuse(layer, f"{mlp}.down_proj"),
    }
    if experts is not None:
        sites["shared_gate"] = fuse(layer, "mlp.shared_expert_gate")
    norms = _one_more(layer.input_layernorm), _one_more(layer.post_attention_layernorm)
    if not hasattr(layer, "linear_attn"):
        names = (f"self_attn.{each}_proj" for each in "qkv")
        attention = {"qkv": fuse(layer, *names), "o": fuse(layer, "self_attn.o_proj")}
        heads = _one_more(layer.self_attn.q_norm), _one_more(layer.self_attn.k_norm)
        return HybridLayer(*norms, *heads, {**attention, **sites}, None, experts)
    delta = layer.linear_attn
    gates = DeltaGates(
        delta.A_log.detach().float().exp(), delta.dt_bias.detach().float(), delta.norm.weight.detach().float()
    )
    return HybridLayer(*norms, None, None, {**_delta_sites(layer), **sites}, gates, experts)


def _delta_sites(layer: Any) -> dict[str, Site]:
    names: tuple[str, ...] = ("in_proj_qkv", "in_proj_z", "in_proj_b", "in_proj_a")
    if not hasattr(layer.linear_attn, names[0]):
        names = ("in_proj_qkvz", "in_proj_ba")
    return {
        "in": fuse(layer, *(f"linear_attn.{each}" for each in names)),
        "o": fuse(layer, "linear_attn.out_proj"),
    }


def _delta_spec(delta: Any) -> DeltaSpec:
    return DeltaSpec(
        delta.num_k_heads,
        delta.num_v_heads,
        delta.head_k_dim,
        delta.head_v_dim,
        delta.conv1d.weight.detach().squeeze(1),
    )


def _one_more(norm: Any) -> Tensor:
    """What a norm scales by, float32."""
    weight: Tensor = norm.weight.detach()
    return 1.0 + weight.float()
