"""What the fast kernels compute, in plain torch: any device, any dtype, differentiable by autograd."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from sparta_lite.kernels.nf4 import BLOCK, SCALES_BLOCK, Nf4


def grouped_lora(
    outputs: Sequence[Tensor],
    x: Tensor,
    a: Tensor,
    b: Sequence[Tensor],
    scales: Sequence[float],
    bounds: Sequence[int],
    gain: Tensor | None = None,
) -> list[Tensor]:
    """Add to every row the low-rank update of its adapter, for P projections of one input.

    The rows are sorted by adapter: rows ``bounds[slot]`` to ``bounds[slot + 1]`` are those of a slot,
    none where the two are equal, and the rows from ``bounds[-1]`` on have no adapter.

    Args:
        outputs: what the base gives, P x [tokens, out_p].
        x: the common input, [tokens, in].
        a: the projections' ranks one after another, [slots, P * rank, in].
        b: P x [slots, out_p, rank].
        scales: alpha / rank, one number per slot.
        bounds: slots + 1 ascending places, the first of them 0.
        gain: what multiplies the low-rank states besides, [slots, P * rank]; None: nothing.

    Returns:
        P x [tokens, out_p], new tensors.
    """
    results = [output.clone() for output in outputs]
    rank = a.shape[1] // len(outputs)
    if gain is not None:
        a = a * gain[..., None].to(a.dtype)
    for slot, scale in enumerate(scales):
        rows = slice(bounds[slot], bounds[slot + 1])
        for result, a_p, b_p in zip(results, a[slot].split(rank), b, strict=True):
            result[rows] += scale * (x[rows] @ a_p.T @ b_p[slot].T)
    return results


def token_logprobs(
    hidden: Tensor, head: Tensor, targets: Tensor, bias: Tensor | None = None, softcap: float | None = None
) -> Tensor:
    """log softmax(hidden @ head.T + bias)[targets], row by row.

    Args:
        hidden: [tokens, hidden].
        head: [vocabulary, hidden].
        targets: int64 [tokens].
        bias: [vocabulary].
        softcap: logits go through ``softcap * tanh(logit / softcap)``; None: as they are.

    Returns:
        [tokens].
    """
    logits = F.linear(hidden, head, bias)
    if softcap is not None:
        logits = softcap * (logits / softcap).tanh()
    return logits.log_softmax(dim=-1).gather(1, targets[:, None]).squeeze(1)


def add_norm(x: Tensor, added: Tensor | None, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """x + added, and the RMSNorm of that (Zhang and Sennrich 2019): x / sqrt(mean(x^2) + eps) * weight.

    Args:
        x: [..., width].
        added: like ``x``; None: nothing.
        weight: [width].
        eps: added to the mean square.

    Returns:
        Both like ``x``.
    """
    total = x if added is None else x + added
    return total, total / (total.square().mean(-1, keepdim=True) + eps).sqrt() * weight


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """gate / (1 + exp(-gate)) * up (Shazeer 2020)."""
    return gate * gate.sigmoid() * up


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding (Su et al. 2021): a pair (x_i, x_(i + half)) times the cosine, plus
    (-x_(i + half), x_i) times the sine.

    Args:
        x: [rows, heads, length, head_dim].
        cos: [rows, 1, length, head_dim].
        sin: like ``cos``; its first half is negative already.
    """
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((second, first), dim=-1) * sin


def rotate_and_keep(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cos: Tensor,
    sin: Tensor,
    keys: Tensor,
    values: Tensor,
    lengths: Sequence[int],
) -> tuple[Tensor, Tensor, Tensor]:
    """Turn the newest token's queries and keys, and put keys and values where they belong in the cache.

    Args:
        q: [rows, heads, 1, head_dim].
        k: [rows, kv_heads, 1, head_dim].
        v: like ``k``.
        cos: see ``rotate``.
        sin: see ``rotate``.
        keys: [at least rows, kv_heads, capacity, head_dim].
        values: like ``keys``.
        lengths: the position of every row's newest token; it stands at that modulo capacity.

    Returns:
        The queries, turned, and both caches, new tensors.
    """
    keys, values = keys.clone(), values.clone()
    turned = rotate(k, cos, sin)
    for row, length in enumerate(lengths):
        keys[row, :, length % keys.shape[2]] = turned[row, :, 0]
        values[row, :, length % keys.shape[2]] = v[row, :, 0]
    return rotate(q, cos, sin), keys, values


def nf4_matrix(weight: Nf4) -> Tensor:
    """The matrix that NF4 stands for, float32 [out, in]."""
    scales, absmax = weight.eight_bit, weight.absmax
    if scales is not None:
        coarse = scales.absmax.repeat_interleave(SCALES_BLOCK)[: len(absmax)]
        absmax = scales.code[absmax.long()] * coarse + scales.offset  # [out * in / 64]
    numbers = torch.stack((weight.packed >> 4, weight.packed & 15), dim=1)  # [out * in / 2, 2]
    values = weight.code[numbers.long()].view(-1, BLOCK) * absmax[:, None]
    return values.view(-1, weight.width)


def nf4_linear(x: Tensor, weight: Nf4, bias: Tensor | None = None) -> Tensor:
    """x @ weight.T + bias.

    Args:
        x: [tokens, in].
        weight: [out, in].
        bias: [out].

    Returns:
        [tokens, out] in the dtype of ``x``, to which the matrix is rounded too.
    """
    return F.linear(x, nf4_matrix(weight).to(x.dtype), bias)


def newest_attention(
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    counts: Sequence[int],
    softcap: float | None = None,
    sinks: Tensor | None = None,
) -> Tensor:
    """softmax(q . keys / sqrt(head_dim)) . values over the first positions of every row.

    Args:
        q: [rows, heads, head_dim], of one token per row.
        keys: [rows, kv_heads, capacity, head_dim]; heads / kv_heads query heads share one key head, those
            that stand together.
        values: like ``keys``.
        counts: positions that each row looks at, from 1 to capacity.
        softcap: scores go through ``softcap * tanh(score / softcap)``; None: as they are.
        sinks: [heads], one more score in each head's softmax, of a value of zeros; None: there is none.

    Returns:
        [rows, heads, head_dim].
    """
    results = []
    for query, key, value, count in zip(q, keys, values, counts, strict=True):
        grouped = query.unflatten(0, (len(key), -1))  # [kv_heads, heads / kv_heads, head_dim]
        scores = grouped @ key[:, :count].mT / q.shape[-1] ** 0.5
        if softcap is not None:
            scores = softcap * (scores / softcap).tanh()
        if sinks is not None:
            scores = torch.cat([scores, sinks.to(scores).view(len(key), -1, 1)], dim=-1)
        weights = scores.softmax(dim=-1)[..., :count]
        results.append((weights @ value[:, :count]).flatten(0, 1))
    return torch.stack(results)


def gated_delta(
    q: Tensor, k: Tensor, v: Tensor, decay: Tensor, beta: Tensor, state: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The gated delta rule (Yang et al. 2025), token by token, S being the state of one head:

        S <- exp(decay) S;  S <- S + beta k (v - S^T k)^T;  output = S^T q / sqrt(key_dim)

    q and k are divided by sqrt(|.|^2 + 1e-6) before.

    Args:
        q: [rows, length, key_heads, key_dim].
        k: like ``q``.
        v: [rows, length, value_heads, value_dim]; value_heads / key_heads neighbours share a key head.
        decay: [rows, length, value_heads].
        beta: [rows, length, value_heads].
        state: [rows, value_heads, key_dim, value_dim]; None: zeros.

    Returns:
        [rows, length, value_heads, value_dim], and the state behind the last token.
    """
    shared = v.shape[2] // k.shape[2]
    q, k = (x / (x.square().sum(-1, keepdim=True) + 1e-6).sqrt() for x in (q, k))
    q, k = (x.repeat_interleave(shared, dim=2) for x in (q, k))
    if state is None:
        state = v.new_zeros(len(v), v.shape[2], k.shape[3], v.shape[3])
    outputs = []
    for token in range(v.shape[1]):
        state = state * decay[:, token, :, None, None].exp()
        wrong = v[:, token] - torch.einsum("rhkv,rhk->rhv", state, k[:, token])
        state = state + torch.einsum("rhk,rhv->rhkv", k[:, token], beta[:, token, :, None] * wrong)
        outputs.append(torch.einsum("rhkv,rhk->rhv", state, q[:, token]) / k.shape[-1] ** 0.5)
    return torch.stack(outputs, dim=1), state


def convolve(x: Tensor, filters: Tensor, before: Tensor | None = None) -> Tensor:
    """SiLU of a causal convolution of every channel with its own filter, token by token.

    Args:
        x: [rows, length, channels].
        filters: [channels, kernel], the newest token's weight last.
        before: [rows, kernel - 1, channels], what came before ``x``; None: zeros.

    Returns:
        [rows, length, channels].
    """
    kernel = filters.shape[1]
    past = x.new_zeros(len(x), kernel - 1, x.shape[2]) if before is None else before
    whole = torch.cat((past, x), dim=1)
    sums = [(whole[:, token : token + kernel].mT * filters).sum(-1) for token in range(x.shape[1])]
    return F.silu(torch.stack(sums, dim=1))
