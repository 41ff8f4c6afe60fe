"""Whether a base is the one that an adapter's initialisation has left behind.

PiSSA, OLoRA, CorDA and LoRA-GA begin with factors A0 and B0 that are not nothing, and take their product
out of the base: W - s B0 A0. What was trained from there, s B A, is right on that residual base alone. The
file does not say which base that is, but its numbers do. Of W as it is given,

    overlap = <W, s B A> / |s B A|^2

is near ``whole`` where W is whole, near ``whole - 1`` where A0 and B0 are out of it, near 0 if neither has to
do with the other; and on the residual base the columns of B, which three of the four take from W's own
column space, find next to nothing in W.

LoftQ rounds the base to 4 bits and begins with a part of what the rounding took away. Where it did so once,
the base in NF4 is the one that it made.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from sparta_lite.engine.model import Decoder
from sparta_lite.engine.peft_config import ROUNDED
from sparta_lite.errors import SpartaError

_BLOCK = 64
"""Numbers that share a scale in NF4."""


def require_residual(
    where: str,
    method: str,
    decoder: Decoder,
    weights: Mapping[str, tuple[Tensor, Tensor]],
    scales: Mapping[str, float],
) -> None:
    """Refuse an adapter whose base is not there.

    Args:
        where: the adapter, as errors name it.
        method: see ``peft_config.LoraSettings.residual``.
        decoder: the base.
        weights: module -> A [rank, in], B [out, rank].
        scales: module -> s.

    Raises:
        SpartaError: the base is not the one that ``method`` has left, or that cannot be told.
    """
    given = {
        f"layers.{number}.{name}": part
        for number, layer in enumerate(decoder.layers)
        for site in layer.sites.values()
        for name, part in zip(site.names, site.parts, strict=True)
    }
    if method.startswith("loftq"):
        if not all(_rounded(given[module], method == ROUNDED) for module in weights):
            other = ", or set quantization to nf4" if method == ROUNDED else ""
            raise SpartaError(
                f"{where}: LoftQ has rounded the base that it belongs to, and this is not that base; use the "
                f"rounded base{other} (docs/adapters.md)"
            )
    elif not _is_residual(method, given, weights, scales):
        raise SpartaError(
            f"{where}: {method} has changed the base that it belongs to, and this is not that base; use the "
            "residual base, or convert it with path_initial_model_for_weight_conversion (docs/adapters.md)"
        )


def _is_residual(
    method: str,
    given: Mapping[str, Any],
    weights: Mapping[str, tuple[Tensor, Tensor]],
    scales: Mapping[str, float],
) -> bool:
    product = square = whole = found = usual = 0.0
    for module, (a, b) in weights.items():
        weight = _matrix(given[module])  # [out, in]
        a, b = a.to(weight) * scales[module], b.to(weight)
        size = float(((b.mT @ b) * (a @ a.mT)).sum())
        product += float(((b.mT @ weight) * a).sum())
        square += size
        # OLoRA takes s Q R out for the Q R that it found.
        whole += size * {"lora_ga": 0.0, "olora": 1 / scales[module]}.get(method, 1.0)
        columns = torch.linalg.qr(b).Q  # [out, rank]
        found += float((columns.mT @ weight).square().sum())
        usual += float(weight.square().sum()) * columns.shape[1] / len(weight)
    if square == 0:
        return False
    overlap, whole = product / square, whole / square
    nearer = abs(overlap - (whole - 1)) < abs(overlap - whole)
    return nearer and (abs(overlap - (whole - 1)) < abs(overlap) or found < usual / 2)


def _rounded(part: Any, by_nf4: bool) -> bool:
    """Whether a linear layer holds no more than 4 bits can say, or ``by_nf4`` is in NF4."""
    module = getattr(part, "module", part)
    if hasattr(module.weight, "quant_state"):
        return by_nf4
    blocks = module.weight.detach().flatten()[: 64 * _BLOCK].view(-1, _BLOCK)
    return all(len(block.unique()) <= 16 for block in blocks)


def _matrix(part: Any) -> Tensor:
    """The weight of a linear layer in float32, [out, in]."""
    module = getattr(part, "module", part)
    weight: Tensor = module.weight.data
    state = getattr(module.weight, "quant_state", None)
    if state is None:
        return weight.float()
    from bitsandbytes.functional import dequantize_4bit

    matrix: Tensor = dequantize_4bit(weight, state).float()
    return matrix
