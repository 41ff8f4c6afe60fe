"""Every Triton kernel in 16 bits, at the sizes of the base, beside torch in 16 and in 32 bits."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from card_base import four_bit_layer
from card_tools import Card, Found
from torch import Tensor

from sparta_lite.engine import nf4
from sparta_lite.kernels import logprob, lora, reference

_WORST = 3e-2  # as kernels/probe.py allows in 16 bits
_SLACK = 2.0  # times torch's own error
Results = Sequence[Tensor]


def soundness(card: Card) -> Found:
    """Errors relative to float32, ours and torch's; ``sound``: ours is small, or as small as torch's."""
    made: dict[str, Found] = {}
    for name, outputs, inputs in _sites(card):
        made[f"lora {name}, decoding"] = _lora(card, outputs, inputs, card.sizes.rows[0], 1, False)
        made[f"lora {name}, training"] = _lora(card, outputs, inputs, card.sizes.adapters, 64, True)
    made["logprobs"] = _logprobs(card)
    made["attention of a step"] = _attention(card)
    for name, width, inputs in _matrices(card):
        for tokens in (card.sizes.nf4_tokens[0], card.sizes.nf4_tokens[-1]):
            made[f"nf4 {name}, {tokens} tokens"] = _nf4(card, width, inputs, tokens)
    return {"kernels": made, "all_sound": all(each["sound"] for each in made.values())}


def _sites(card: Card) -> list[tuple[str, tuple[int, ...], int]]:
    """Sites of a decoder layer: outputs of the projections that share an input, and its width."""
    shape = card.shape
    query, key = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    return [
        ("qkv", (query, key, key), shape.hidden),
        ("o", (shape.hidden,), query),
        ("gate_up", (shape.inner, shape.inner), shape.hidden),
        ("down", (shape.hidden,), shape.inner),
    ]


def _matrices(card: Card) -> list[tuple[str, int, int]]:
    """Names, outputs and inputs of the different matrices of a layer."""
    return [(f"{outputs[-1]} x {width}", outputs[-1], width) for _, outputs, width in _sites(card)]


def _normal(card: Card, *shape: int, dtype: torch.dtype | None = None, seed: int = 0) -> Tensor:
    generator = torch.Generator(card.device).manual_seed(seed + sum(shape))
    made = torch.randn(*shape, generator=generator, device=card.device) / shape[-1] ** 0.5
    normal: Tensor = made.to(dtype or card.dtype)
    return normal


def _lora(card: Card, outputs: Sequence[int], inputs: int, rows: int, length: int, learning: bool) -> Found:
    adapters, rank = card.sizes.adapters, card.sizes.rank
    routing = lora.Routing(tuple(row % adapters for row in range(rows)), (2.0,) * adapters, card.device)
    a = _normal(card, adapters, len(outputs) * rank, inputs, dtype=torch.float32)
    b = [_normal(card, adapters, width, rank, dtype=torch.float32, seed=1) for width in outputs]
    x = _normal(card, rows, length, inputs)
    before = [_normal(card, rows, length, width, seed=2) for width in outputs]

    def run(add: Callable[..., list[Tensor]], dtype: torch.dtype) -> list[Tensor]:
        if not learning:
            with torch.no_grad():
                return add([each.to(dtype, copy=True) for each in before], x.to(dtype), a, b, routing)
        leaves = [x.to(dtype, copy=True), a.clone(), *(each.clone() for each in b)]
        for leaf in leaves:
            leaf.requires_grad_()
        found = add([each.to(dtype) for each in before], leaves[0], leaves[1], leaves[2:], routing)
        return [*found, *torch.autograd.grad(found, leaves, [each.to(dtype) for each in before])]

    return _compared(card, lambda dtype: run(lora.by_triton, dtype), lambda dtype: run(lora.by_torch, dtype))


def _logprobs(card: Card) -> Found:
    tokens = 4 * card.sizes.prompt
    hidden = _normal(card, tokens, card.shape.hidden)
    head = 30 * _normal(card, card.shape.vocabulary, card.shape.hidden, seed=1)
    targets = torch.arange(tokens, device=card.device) % card.shape.vocabulary

    def run(take: Callable[..., Tensor], dtype: torch.dtype) -> list[Tensor]:
        leaf = hidden.to(dtype, copy=True).requires_grad_()
        values = take(leaf, head.to(dtype), targets, 256, None)
        return [values, *torch.autograd.grad(values.sum(), leaf)]

    return _compared(
        card, lambda dtype: run(logprob.by_triton, dtype), lambda dtype: run(logprob.by_torch, dtype)
    )


def _attention(card: Card) -> Found:
    from sparta_lite.kernels.triton_attention import newest_attention

    shape, rows, capacity = card.shape, card.sizes.rows[0], card.sizes.prompt + 3 * card.sizes.steps
    q = shape.head_dim**0.5 * _normal(card, rows, shape.heads, shape.head_dim)
    keys, values = (
        shape.head_dim**0.5 * _normal(card, rows, shape.kv_heads, capacity, shape.head_dim, seed=seed)
        for seed in (1, 2)
    )
    counts = [1 + (37 * row) % capacity for row in range(rows)]
    at = torch.tensor(counts, dtype=torch.int32, device=card.device)

    def plain(dtype: torch.dtype) -> list[Tensor]:
        return [reference.newest_attention(q.to(dtype), keys.to(dtype), values.to(dtype), counts)]

    with torch.no_grad():
        return _compared(card, lambda _: [newest_attention(q, keys, values, at)], plain)


@torch.no_grad()
def _nf4(card: Card, outputs: int, inputs: int, tokens: int) -> Found:
    from sparta_lite.kernels.triton_nf4 import nf4_linear

    layer = four_bit_layer(_normal(card, outputs, inputs))
    weight = nf4.read(layer)
    assert weight is not None
    x = _normal(card, tokens, inputs, seed=3) * inputs**0.5
    exact = F.linear(x.float(), reference.nf4_matrix(weight).to(card.dtype).float())
    return _judged([nf4_linear(x, weight)], [layer(x)], [exact])


def _compared(
    card: Card, ours: Callable[[torch.dtype], Results], theirs: Callable[[torch.dtype], Results]
) -> Found:
    with torch.autocast(card.device.type, enabled=False):
        return _judged(ours(card.dtype), theirs(card.dtype), theirs(torch.float32))


def _judged(ours: Results, theirs: Results, exact: Results) -> Found:
    """The largest of the results' errors, each relative to the whole of it; None where one is not finite."""
    mine, torchs = _worst(ours, exact), _worst(theirs, exact)
    sound = mine is not None and torchs is not None and mine <= max(_WORST, _SLACK * torchs)
    return {"ours": mine, "torch": torchs, "sound": sound}


def _worst(found: Results, exact: Results) -> float | None:
    pairs = [(one.detach().float(), whole.detach().float()) for one, whole in zip(found, exact, strict=True)]
    errors = torch.stack([(one - whole).norm() / whole.norm() for one, whole in pairs])
    return float(errors.max()) if errors.isfinite().all() else None
