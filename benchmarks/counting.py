"""Operations and bytes of one pass through a decoder with adapters: arithmetic, and what torch says of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, bmm_flop, sdpa_backward_flop_count, sdpa_flop_count

from sparta_lite.engine.base import Base
from sparta_lite.engine.shape import Shape, weight_bytes

_READS_STREAM = ("q_proj", "k_proj", "v_proj")  # needed of every token, even where few states are kept
_SHARES_INPUT = ("k_proj", "v_proj", "up_proj")  # read what the module before them has read


@dataclass(frozen=True)
class Model:
    """What the arithmetic has to know of a base and its bank."""

    shape: Shape
    rank: int
    """Of adapters on all linear layers; 0: none."""
    weights: int
    """Bytes that a pass has to read: everything but an embedding that is not the head as well."""
    adapter: int
    """Bytes of one adapter."""
    number: int
    """Bytes of one number in an activation and in the cache."""

    @property
    def kv(self) -> int:
        """Bytes of one token's keys and values in all layers."""
        return 2 * self.shape.layers * self.shape.kv_heads * self.shape.head_dim * self.number


@dataclass(frozen=True)
class Work:
    """One pass: of a decode step, a batch of judge prompts, or a batch of pairs there and back."""

    tokens: int
    """That enter the first layer."""
    kept: int
    """That leave the last layer: no more is computed of the others there than keys and values need."""
    heads: int
    """States whose logits are wanted."""
    pairs: int
    """Query and key positions that meet in one layer's attention, for one head."""
    cached: int
    """Tokens whose keys and values are read from the cache."""
    adapters: int
    """Different ones in the batch; 0: the bare base."""
    backward: bool = False
    """And back, into the adapters: the base is frozen."""


def model_of(base: Base, shape: Shape, rank: int) -> Model:
    """
    Args:
        base: as it is loaded.
        shape: of that base.
        rank: of every adapter; they are in fp32.
    """
    number = base.decoder.dtype.itemsize
    weights = weight_bytes(shape, base.four_bit, number)
    if not base.model.config.tie_word_embeddings:
        weights -= shape.vocabulary * shape.hidden * number
    numbers = rank * sum(each.inputs + each.outputs for each in shape.linears)
    return Model(shape, rank, weights, 4 * numbers, number)


def operations(model: Model, work: Work) -> int:
    """Multiplications and additions of all matrix products.

    Back through a product costs as much as forth towards its input and, for A and B alone, as much again
    towards its weights. Nothing goes back into the embedding. Attention goes back in five products for
    two, for its scores are computed again. The head's slope is taken in the forward pass.
    """
    total = 0
    rank = model.rank if work.adapters else 0
    for each in model.shape.linears:
        tokens = _tokens(model, work, each.name)
        plain, shrink, expand = each.inputs * each.outputs, rank * each.inputs, rank * each.outputs
        there = plain + shrink + expand
        first = each.name.startswith("layers.0.") and each.name.endswith(_READS_STREAM)
        back = 2 * expand + shrink + (0 if first else plain + shrink)
        total += 2 * tokens * (there + (back if work.backward else 0))
    attention = 4 * work.pairs * model.shape.heads * model.shape.head_dim * model.shape.layers
    head = 2 * work.heads * model.shape.vocabulary * model.shape.hidden
    if work.backward:
        return total + attention * 7 // 2 + 2 * head
    return total + attention + head


def moved(model: Model, work: Work) -> int:
    """Bytes that move at the least where every linear layer reads its inputs and writes its outputs.

    Weights once (once more on the way back), adapters once (on the way back once more, and their gradients
    written), the cache's keys and values, inputs and outputs of every linear layer (on the way back
    their gradients, and the inputs once more), logits.
    """
    weights = model.weights * (2 if work.backward else 1)
    adapters = work.adapters * model.adapter * (3 if work.backward else 1)
    streams = work.heads * (model.shape.hidden + model.shape.vocabulary)
    for each in model.shape.linears:
        inputs = 0 if each.name.endswith(_SHARES_INPUT) else each.inputs
        passes = 3 * inputs + 2 * each.outputs if work.backward else inputs + each.outputs
        streams += _tokens(model, work, each.name) * passes
    return weights + adapters + work.cached * model.kv + streams * model.number


def _tokens(model: Model, work: Work, name: str) -> int:
    last = name.startswith(f"layers.{model.shape.layers - 1}.")
    return work.kept if last and not name.endswith(_READS_STREAM) else work.tokens


def counted(run: Callable[[], object]) -> int:
    """The same operations as torch counts them, product by product, padding included; on a CPU."""
    aten = torch.ops.aten

    def there(q: Any, k: Any, v: Any, *_: object, **__: object) -> int:
        return int(sdpa_flop_count(q, k, v))

    def back(gradient: Any, q: Any, k: Any, v: Any, *_: object, **__: object) -> int:
        return int(sdpa_backward_flop_count(gradient, q, k, v))

    def added(_: Any, a: Any, b: Any, **__: object) -> int:
        return bmm_flop(a, b)

    def multiplied(x: Any, weight: Any, *_: object, **__: object) -> int:
        return int(2 * prod(x) * weight[0])

    own = {  # what torch's table lacks
        aten._scaled_dot_product_flash_attention_for_cpu: there,
        aten._scaled_dot_product_flash_attention_for_cpu_backward: back,
        aten.baddbmm_: added,
        torch.ops.mkldnn._linear_pointwise: multiplied,
    }
    with FlopCounterMode(display=False, custom_mapping=own) as counter:
        run()
    return int(counter.get_total_flops())
