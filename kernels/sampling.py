"""Choosing the next token, with randomness that depends on nothing but a key and a position."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_GAMMA = -7046029254386353131  # 0x9E3779B97F4A7C15, the odd step of the splitmix64 counter
_MIX = ((30, -4658895280553007687), (27, -7723592293110705685))  # 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


@dataclass(frozen=True)
class Sampling:
    """How a token is drawn. ``temperature`` 0 is greedy; ``top_k`` 0 and ``top_p`` 1 cut nothing off."""

    temperature: float = 0.7
    top_k: int = 50
    top_p: float = 0.95
    vocabulary: int = 0
    """Ids from here on are never drawn; 0: all may be."""


PLAIN = Sampling(temperature=1.0, top_k=0, top_p=1.0)
"""The model's own distribution."""


def uniforms(keys: Tensor, counters: Tensor) -> Tensor:
    """Counter-based uniform numbers in [0, 1): splitmix64's output function of key + counter * gamma.

    Args:
        keys: int64, any shape.
        counters: int64, the same shape.

    Returns:
        float64 of the same shape, a multiple of 2**-53.
    """
    x = keys + (counters + 1) * _GAMMA
    for shift, factor in _MIX:
        x = (x ^ _logical_shift(x, shift)) * factor
    x = x ^ _logical_shift(x, 31)
    return _logical_shift(x, 11).double() * 2.0**-53


def _logical_shift(x: Tensor, bits: int) -> Tensor:
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def distribution(logits: Tensor, sampling: Sampling) -> Tensor:
    """The probabilities with which ``choose`` draws each token.

    Args:
        logits: [rows, vocabulary], any floating dtype.
        sampling: all of the mass is on the most probable token when its temperature is 0.

    Returns:
        float64 [rows, vocabulary]; each row sums to 1 where its logits are finite, else it holds NaN.
    """
    if sampling.temperature == 0:
        chosen = torch.zeros(logits.shape, dtype=torch.float64, device=logits.device)
        chosen.scatter_(1, logits.argmax(dim=-1, keepdim=True), 1.0)
        return chosen.masked_fill_(logits.isnan().any(dim=-1, keepdim=True), torch.nan)
    logits = logits.float() / sampling.temperature
    vocabulary = logits.shape[-1]
    cut = 0 < sampling.top_k < vocabulary
    if not cut and sampling.top_p == 1:
        return logits.softmax(dim=-1).double()
    logits, tokens = logits.topk(sampling.top_k if cut else vocabulary, dim=-1)  # both [rows, kept]
    chances = logits.softmax(dim=-1).double()
    if sampling.top_p < 1:
        before = chances.cumsum(dim=-1) - chances
        chances = chances.masked_fill(before >= sampling.top_p, 0.0)
        chances = chances / chances.sum(dim=-1, keepdim=True)
    whole = chances.new_zeros(chances.shape[0], vocabulary)
    return whole.scatter_(1, tokens, chances)


def choose(logits: Tensor, sampling: Sampling, keys: Tensor, counters: Tensor) -> Tensor:
    """One token per row.

    Temperature comes first, then top-k, then top-p: the smallest set of most probable tokens
    whose mass reaches ``top_p``. The draw inverts the distribution function at a counter-based
    uniform number.

    Args:
        logits: [rows, vocabulary], any floating dtype.
        sampling: greedy when its temperature is 0.
        keys: int64 [rows], one key per row.
        counters: int64 [rows], the position of the token that is drawn.

    Returns:
        int64 [rows].
    """
    if sampling.vocabulary:
        logits = logits[:, : sampling.vocabulary]
    if sampling.temperature == 0:
        return logits.argmax(dim=-1)
    logits = logits.float() / sampling.temperature
    vocabulary = logits.shape[-1]
    cut = 0 < sampling.top_k < vocabulary
    if cut or sampling.top_p < 1:
        logits, tokens = logits.topk(sampling.top_k if cut else vocabulary, dim=-1)  # both [rows, kept]
    else:
        tokens = None
    mass = logits.softmax(dim=-1).double().cumsum(dim=-1)  # [rows, kept]
    total = mass[:, -1:]
    if sampling.top_p < 1:
        needed = (mass < sampling.top_p).sum(dim=-1, keepdim=True).clamp(max=mass.shape[-1] - 1)
        total = mass.gather(1, needed)
    draw = uniforms(keys, counters)[:, None] * total
    index = torch.searchsorted(mass, draw, right=True).clamp(max=mass.shape[-1] - 1)  # [rows, 1]
    return (index if tokens is None else tokens.gather(1, index)).squeeze(1)
