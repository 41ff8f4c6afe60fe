"""A base in numbers: what its ``config.json`` alone says of its weights, layers and cache."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparta_lite.engine.experts import taken_for_experts
from sparta_lite.engine.hub import read_object
from sparta_lite.engine.loading import reason, require_config, require_few_layers
from sparta_lite.engine.support import windows
from sparta_lite.errors import SpartaError

UNPACKED = ("in_proj_a", "in_proj_b", "in_proj_ba", "shared_expert_gate")
"""Modules of bases with the delta rule that 4 bits leave alone: a thousandth of the numbers, and the dearest
(``benchmarks/nf4_by_layer.py``). The convolution is no linear layer: it is never in 4 bits."""
_TOGETHER = (
    ("q_proj", "k_proj", "v_proj"),
    ("gate_proj", "up_proj"),
    ("in_proj_qkv", "in_proj_z", "in_proj_b", "in_proj_a"),
    ("in_proj_qkvz", "in_proj_ba"),
)
"""Modules that read one input stand in one tensor of the bank: adapting one of them adapts all."""


_CHUNK = 64  # tokens in one, as in kernels/delta.py


@dataclass(frozen=True)
class Linear:
    name: str
    """Inside the decoder, such as ``layers.0.self_attn.q_proj``."""
    inputs: int
    outputs: int
    packs: bool
    """Held in 4 bits where the base is."""


@dataclass(frozen=True)
class DeltaShape:
    """The layers of a base that have the gated delta rule in place of attention."""

    layers: int
    keys: int
    """Channels of the keys, and of the queries."""
    values: int
    """Channels of the values."""
    state: int
    """Numbers in the recurrent state of one sequence and layer, float32."""
    heads: int
    """Of the values."""
    kernel: int
    """Of the convolution."""

    @property
    def channels(self) -> int:
        """Of the convolution."""
        return 2 * self.keys + self.values

    def sequence_bytes(self, number: int) -> int:
        """What all these layers keep of one sequence, however long it is."""
        return self.layers * (4 * self.state + number * (self.kernel - 1) * self.channels)

    def live_bytes(self, number: int) -> int:
        """Of a token in one such layer without gradients: projections and what the convolution makes of them;
        queries, keys, values and outputs in fp32."""
        return number * (2 * self.channels + self.values) + 4 * (3 * self.keys + 3 * self.values)

    def kept_bytes(self, number: int) -> int:
        """Of a token in one such layer kept for a backward pass, which computes the rule itself again: inputs
        and outputs of the convolution, gate, output, and in fp32 the output as it is normalised and gated."""
        return number * (3 * self.channels + 2 * self.values) + 4 * 3 * self.values

    def again_bytes(self) -> int:
        """Of a token in the one layer whose rule is computed again, in fp32: inputs and outputs with
        some of their gradients, and four numbers for each pair of tokens in a chunk."""
        return 4 * (5 * self.keys + 5 * self.values + 4 * _CHUNK * self.heads)


@dataclass(frozen=True)
class Shape:
    family: str
    """transformers' model type."""
    layers: int
    hidden: int
    inner: int
    """Width inside the MLP."""
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    context: int
    linears: tuple[Linear, ...]
    """Every linear layer but the head."""
    others: int
    """Parameters of everything else: embedding, head, norms, biases."""
    quantized: bool = False
    """The checkpoint itself is in 4 bits."""
    doubly: bool = True
    """Scales of 4-bit blocks are themselves held in 8 bits."""
    delta: DeltaShape | None = None
    """None: every layer has attention."""
    windows: tuple[int, ...] = ()
    """Tokens that each of the layers sees that do not see the whole context."""
    spelt_out: bool = False
    """Attention caps its scores or has sinks: they stand in memory."""

    @property
    def attention_layers(self) -> int:
        return self.layers - (self.delta.layers if self.delta else 0)

    @property
    def attention_share(self) -> float:
        """Of the layers."""
        return self.attention_layers / self.layers

    @property
    def parameters(self) -> int:
        return self.others + sum(each.inputs * each.outputs for each in self.linears)

    @property
    def widest(self) -> int:
        """Parameters of the largest linear layer."""
        return max(each.inputs * each.outputs for each in self.linears)


_ATTENTION = 0.8
"""How much longer an operation of masked attention takes than one of a linear layer; benchmarks/NOTES.md."""


def pair_cost(hidden: int, linear: float, share: float = 1.0) -> float:
    """What attention of one query to one key costs, a token's way through a decoder layer's linears being 1.

    Args:
        hidden: width of the layer.
        linear: numbers in its linear layers.
        share: of the layers that have attention.
    """
    return _ATTENTION * 2 * hidden * share / linear


def sharing_pays(shared: int, lengths: Sequence[int], cost: float) -> bool:
    """Whether sequences that begin alike are sooner computed in one row, their common beginning once.

    The row takes attention over all of it, masked, in place of the causal half of every sequence.

    Args:
        shared: tokens that they have in common at their beginning.
        lengths: tokens of each whole sequence.
        cost: see ``pair_cost``.
    """
    row = sum(lengths) - shared * (len(lengths) - 1)
    attention = row**2 - sum(each**2 for each in lengths) / 2
    return (len(lengths) - 1) * shared > cost * attention


def weight_bytes(shape: Shape, four_bit: bool, size: int) -> int:
    """What the base's weights take.

    Args:
        shape: of the base.
        four_bit: whether its linear layers are held in NF4.
        size: bytes of one number of everything else.
    """
    linears = sum(
        nf4_bytes(each.inputs * each.outputs, shape.doubly)
        if four_bit and each.packs
        else each.inputs * each.outputs * size
        for each in shape.linears
    )
    return linears + shape.others * size


def nf4_bytes(count: int, doubly: bool = True) -> int:
    """4 bits each and a scale per block of 64 (Dettmers et al. 2023): fp32, or when ``doubly``
    quantised 8 bits with an fp32 scale of their own per 256."""
    blocks = -(-count // 64)
    return -(-count // 2) + (blocks + -(-blocks // 256) * 4 if doubly else blocks * 4)


def adapter_parameters(shape: Shape, adapters: Sequence[tuple[int, str | Sequence[str]]]) -> int:
    """Numbers in one slot of a bank of ``adapters``, padding included.

    Args:
        shape: of the base.
        adapters: of each its largest rank, and the modules that it adapts: names inside the decoder or their
            ends, an expression for them, or "all-linear".
    """
    rank = max(rank for rank, _ in adapters)
    inside = [each for each in shape.linears if each.name.startswith("layers.")]
    others = taken_for_experts(each.name for each in inside)
    kinds = {
        each.name.split(".", 2)[2]
        for each in inside
        for _, targets in adapters
        if _is(each, targets) and not (targets == "all-linear" and each.name in others)
    }
    adapted = [each for each in inside if _company(each.name.split(".", 2)[2]) & kinds]
    return rank * sum(each.inputs + each.outputs for each in adapted)


def _is(linear: Linear, targets: str | Sequence[str]) -> bool:
    if isinstance(targets, str):
        names = (f"model.{linear.name}", f"model.language_model.{linear.name}")
        return targets == "all-linear" or any(re.fullmatch(targets, name) for name in names)
    return any(f".{linear.name}".endswith(f".{target}") for target in targets)


def _company(kind: str) -> set[str]:
    """The modules of a layer that stand in the bank together with ``kind``, itself included."""
    parent, _, name = kind.rpartition(".")
    return next(({f"{parent}.{each}" for each in group} for group in _TOGETHER if name in group), {kind})


def read_shape(path: Path, trust_remote_code: bool = False) -> Shape:
    """Count what ``path/config.json`` describes, by hand or on torch's meta device, without weights.

    Raises:
        SpartaError: there is no ``config.json``, or transformers makes no causal language model of it.
    """
    from sparta_lite.engine.described import described

    require_config(path)
    wrong = f"base: {path}/config.json makes no causal language model"
    config = read_object(path / "config.json", wrong)
    require_few_layers(path)
    return described(config) or _built(path, trust_remote_code, config.get("quantization_config"), wrong)


def _built(path: Path, trust_remote_code: bool, packing: dict[str, Any] | None, wrong: str) -> Shape:
    """Of the model that transformers makes of it."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        config = AutoConfig.from_pretrained(path, trust_remote_code=trust_remote_code)
        # Whatever the checkpoint was packed with, what is counted are the plain modules.
        config.__dict__.pop("quantization_config", None)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
        return _shape(model, packing or {})
    except Exception as error:  # a broken configuration makes transformers raise nearly anything
        raise SpartaError(f"{wrong}: {reason(error)}; get a sound copy, or another base") from error


def _shape(model: Any, packing: dict[str, Any]) -> Shape:
    import torch

    config = model.config.get_text_config()
    head = model.get_output_embeddings()
    skipped = tuple(packing.get("llm_int8_skip_modules") or (UNPACKED if _delta(config) else ()))
    linears = tuple(
        Linear(
            name.removeprefix("model."),
            module.in_features,
            module.out_features,
            not _skips(name, skipped),
        )
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and module is not head
    )
    hidden, heads = int(config.hidden_size), int(config.num_attention_heads)
    return Shape(
        family=str(model.config.model_type),
        layers=int(config.num_hidden_layers),
        hidden=hidden,
        inner=int(getattr(config, "intermediate_size", None) or 4 * hidden),
        heads=heads,
        kv_heads=int(getattr(config, "num_key_value_heads", None) or heads),
        head_dim=int(getattr(config, "head_dim", None) or hidden // heads),
        vocabulary=int(config.vocab_size),
        context=int(config.max_position_embeddings),
        linears=linears,
        others=sum(parameter.numel() for parameter in model.parameters())
        - sum(each.inputs * each.outputs for each in linears),
        quantized=bool(packing.get("load_in_4bit")),
        doubly=bool(packing.get("bnb_4bit_use_double_quant", not packing)),
        delta=_delta(config),
        windows=tuple(window for window in windows(config) if window),
        spelt_out=bool(getattr(config, "attn_logit_softcapping", None))
        or any(name.endswith(".sinks") for name, _ in model.named_parameters()),
    )


def _delta(config: Any) -> DeltaShape | None:
    layers = list(getattr(config, "layer_types", None) or ()).count("linear_attention")
    if not layers or not hasattr(config, "linear_num_value_heads"):
        return None
    keys, values = config.linear_num_key_heads, config.linear_num_value_heads
    return DeltaShape(
        layers,
        keys * config.linear_key_head_dim,
        values * config.linear_value_head_dim,
        values * config.linear_key_head_dim * config.linear_value_head_dim,
        values,
        config.linear_conv_kernel_dim,
    )


def _skips(name: str, skipped: Iterable[str]) -> bool:
    return any(f".{each}." in f".{name}." for each in skipped)
