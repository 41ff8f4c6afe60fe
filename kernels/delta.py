"""The gated delta rule and the short convolution before it: chunk by chunk, or one token at a time."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint as recompute

from sparta_lite.kernels import choice

CHUNK = 64
"""Most tokens that are computed at once."""
EPSILON = 1e-6
"""Under the root of a squared length: queries and keys of zeros have a gradient."""


def convolve(x: Tensor, filters: Tensor, before: Tensor | None = None) -> Tensor:
    """SiLU of a causal convolution of every channel with its own filter.

    Args:
        x: [rows, length, channels].
        filters: [channels, kernel], the newest token's weight last.
        before: [rows, kernel - 1, channels], what came before ``x``; None: zeros.

    Returns:
        [rows, length, channels].
    """
    length, kernel = x.shape[1], filters.shape[1]
    whole = F.pad(x, (0, 0, kernel - 1, 0)) if before is None else torch.cat((before.to(x.dtype), x), dim=1)
    result = whole[:, :length] * filters[:, 0]
    for tap in range(1, kernel):
        result = torch.addcmul(result, whole[:, tap : tap + length], filters[:, tap])
    return F.silu(result)


def gated_delta(
    q: Tensor, k: Tensor, v: Tensor, decay: Tensor, beta: Tensor, state: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The gated delta rule over several tokens (Yang et al. 2025); see ``reference.gated_delta``.

    Args:
        q: [rows, length, key_heads, key_dim], as they are: they are brought to length 1 here.
        k: like ``q``.
        v: [rows, length, value_heads, value_dim]; value_heads / key_heads neighbours share a key head.
        decay: [rows, length, value_heads], logarithms, none above 0. A token whose decay and ``beta`` are 0
            leaves the state as it is.
        beta: [rows, length, value_heads].
        state: float32 [rows, value_heads, key_dim, value_dim], from which it goes on; None: zeros.

    Returns:
        [rows, length, value_heads, value_dim] in the dtype of ``v``, and the state behind the last token,
        float32 (float64 where ``v`` is).
    """
    if choice.choose_delta(v.device, v.dtype)[0] == "fla":
        return by_fla(q, k, v, decay, beta, state)
    with torch.autocast(v.device.type, enabled=False):
        if not torch.is_grad_enabled():
            return by_torch(q, k, v, decay, beta, state)
        # What a chunk computes is many times as much as its inputs: gradients compute it again.
        found: tuple[Tensor, Tensor] = recompute(
            by_torch, q, k, v, decay, beta, state, use_reentrant=False, preserve_rng_state=False
        )
        return found


def gated_delta_step(q: Tensor, k: Tensor, v: Tensor, decay: Tensor, beta: Tensor, state: Tensor) -> Tensor:
    """The same for one token of every row, without gradients.

    Args:
        q: [rows, key_heads, key_dim].
        k: like ``q``.
        v: [rows, value_heads, value_dim].
        decay: [rows, value_heads].
        beta: [rows, value_heads].
        state: float32 [rows, value_heads, key_dim, value_dim], overwritten.

    Returns:
        [rows, value_heads, value_dim] in the dtype of ``v``.
    """
    if choice.choose_delta(v.device, v.dtype)[0] == "fla":
        return step_by_fla(q, k, v, decay, beta, state)
    return step_by_torch(q, k, v, decay, beta, state)


def by_torch(
    q: Tensor, k: Tensor, v: Tensor, decay: Tensor, beta: Tensor, state: Tensor | None
) -> tuple[Tensor, Tensor]:
    """``gated_delta`` in plain torch.

    What the tokens of a chunk write depends on what those before them wrote: a triangular system. Chunks are
    equally long, so that hardly any of them is filled up.
    """
    rows, length, key_heads, key_dim = k.shape
    value_heads, value_dim = v.shape[2:]
    shared = value_heads // key_heads
    chunks = max(1, -(-length // CHUNK))
    size = max(1, -(-length // chunks))
    dtype = torch.promote_types(v.dtype, torch.float32)

    def cut(x: Tensor, heads: tuple[int, ...]) -> Tensor:  # [rows, length, heads, ...] -> chunk by chunk
        x, lacking = x.to(dtype), chunks * size - length
        if lacking:
            x = F.pad(x, (0, 0) * (x.ndim - 2) + (0, lacking))
        return x.reshape(rows, chunks, size, *heads, *x.shape[3:])

    both = torch.stack((_unit(q.to(dtype)) * key_dim**-0.5, _unit(k.to(dtype))), dim=3)
    # [rows, chunks, key_heads, 2 * size, key_dim], the queries before the keys
    both = cut(both, (key_heads,)).permute(0, 1, 3, 4, 2, 5).flatten(3, 4)
    groups = (key_heads, shared)
    values = cut(v, groups).permute(0, 1, 3, 4, 2, 5)  # [rows, chunks, key_heads, shared, size, value_dim]
    # Logarithms of what is kept from a chunk's beginning on, [rows, chunks, key_heads, shared, size].
    kept = cut(decay, groups).permute(0, 1, 3, 4, 2).cumsum(-1)
    betas = cut(beta, groups).permute(0, 1, 3, 4, 2)[..., None]
    future = torch.full((size, size), -torch.inf, dtype=dtype, device=v.device).triu(1)
    if state is None:
        state = values.new_zeros(rows, value_heads, key_dim, value_dim)
    # [rows, key_heads, key_dim, shared, value_dim]: heads that share keys are multiplied with them at once.
    now = state.to(dtype).unflatten(1, groups).transpose(2, 3)
    outputs = []
    for number in range(chunks):
        at = (slice(None), number)
        output, now = _chunk(both[at], values[at], kept[at], betas[at], future, now)
        outputs.append(output.permute(0, 3, 1, 2, 4))  # [rows, size, key_heads, shared, value_dim]
    output = torch.cat(outputs, 1).flatten(2, 3)[:, :length]
    return output.to(v.dtype), now.transpose(2, 3).flatten(1, 2)


def _chunk(
    both: Tensor, values: Tensor, kept: Tensor, betas: Tensor, future: Tensor, now: Tensor
) -> tuple[Tensor, Tensor]:
    """One chunk of ``by_torch``, in the layout that its arguments have there.

    Args:
        both: [rows, key_heads, 2 * size, key_dim], queries before keys.
        values: [rows, key_heads, shared, size, value_dim].
        kept: [rows, key_heads, shared, size], logarithms of what is kept from the chunk's beginning on.
        betas: [rows, key_heads, shared, size, 1].
        future: [size, size], minus infinity above the diagonal, else 0.
        now: [rows, key_heads, key_dim, shared, value_dim], the state.

    Returns:
        [rows, key_heads, shared, size, value_dim], and the state behind the chunk.
    """
    shared, size, value_dim = values.shape[2:]
    queries, keys = both.split(size, dim=-2)
    since = kept.exp()[..., None]
    between = (kept[..., :, None] - kept[..., None, :] + future).exp()  # [..., shared, size, size]

    def read(x: Tensor) -> Tensor:
        """[rows, key_heads, size, key_dim] -> [rows, key_heads, shared, size, value_dim]."""
        found: Tensor = (x @ now.flatten(3)).unflatten(-1, (shared, value_dim)).transpose(2, 3)
        return found

    written = torch.linalg.solve_triangular(
        (keys @ keys.mT)[:, :, None] * between * betas,
        (values - since * read(keys)) * betas,
        upper=False,
        unitriangular=True,
    )
    # Nothing large keeps a name for longer than it is used: this is where generation takes most.
    output = torch.addcmul(((queries @ keys.mT)[:, :, None] * between) @ written, since, read(queries))
    del between
    last = kept[..., -1:]
    left = (written * (last - kept).exp()[..., None]).transpose(2, 3).flatten(3)
    added = (keys.mT @ left).unflatten(-1, (shared, value_dim))
    return output, torch.addcmul(added, now, last.exp()[:, :, None, :, :])


def step_by_torch(q: Tensor, k: Tensor, v: Tensor, decay: Tensor, beta: Tensor, state: Tensor) -> Tensor:
    """``gated_delta_step`` in plain torch: the state is read once, and written twice."""
    rows, value_heads, key_dim, value_dim = state.shape
    shared = value_heads // k.shape[1]
    both = torch.stack((_unit(q.float()) * key_dim**-0.5, _unit(k.float())), dim=2)
    both = (
        both[:, :, None].expand(-1, -1, shared, -1, -1).reshape(-1, 2, key_dim)
    )  # [rows * heads, 2, key_dim]
    flat, keep = state.view(-1, key_dim, value_dim), decay.float().exp().view(-1, 1, 1)
    by_query, by_key = (torch.bmm(both, flat) * keep).unbind(1)  # [rows * heads, value_dim]
    written = (v.reshape(-1, value_dim).float() - by_key) * beta.reshape(-1, 1).float()
    query, key = both.unbind(1)
    output = torch.addcmul(by_query, (query * key).sum(-1, keepdim=True), written)
    flat.mul_(keep).addcmul_(key[:, :, None], written[:, None])
    return output.view(rows, value_heads, value_dim).to(v.dtype)


def by_fla(
    q: Tensor, k: Tensor, v: Tensor, decay: Tensor, beta: Tensor, state: Tensor | None
) -> tuple[Tensor, Tensor]:
    """``gated_delta`` by flash-linear-attention, whatever the device. Not yet run on a GPU."""
    from fla.ops.gated_delta_rule import chunk_gated_delta_rule

    found: tuple[Tensor, Tensor] = chunk_gated_delta_rule(
        q.contiguous(),
        k.contiguous(),
        v.contiguous(),
        g=decay.float().contiguous(),
        beta=beta.contiguous(),
        initial_state=state,
        output_final_state=True,
        use_qk_l2norm_in_kernel=True,
    )
    return found


def step_by_fla(q: Tensor, k: Tensor, v: Tensor, decay: Tensor, beta: Tensor, state: Tensor) -> Tensor:
    """``gated_delta_step`` by flash-linear-attention, whatever the device. Not yet run on a GPU."""
    from fla.ops.gated_delta_rule import fused_recurrent_gated_delta_rule

    q, k, v, decay, beta = (each[:, None].contiguous() for each in (q, k, v, decay.float(), beta))
    output, after = fused_recurrent_gated_delta_rule(
        q,
        k,
        v,
        g=decay,
        beta=beta,
        initial_state=state,
        output_final_state=True,
        use_qk_l2norm_in_kernel=True,
    )
    state.copy_(after)
    result: Tensor = output[:, 0]
    return result


def _unit(x: Tensor) -> Tensor:
    """x / |x|, nearly: [..., width]."""
    return x * torch.rsqrt(x.square().sum(-1, keepdim=True) + EPSILON)
