"""Causal attention over whole sequences: flash-attn where it is installed and the card can, else torch's."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from sparta_lite.engine.mixing import AttentionSpec, Mixers

Kind = Literal["flash-attn", "sdpa"]

_HALF = (torch.bfloat16, torch.float16)
_AMPERE = (8, 0)  # flash-attn 2 asks for this compute capability


def choose_attention(device: torch.device, dtype: torch.dtype) -> tuple[Kind, str]:
    """Which implementation ``causal`` takes, and why."""
    if device.type != "cuda":
        return "sdpa", f"flash-attn needs a CUDA device, this is {device.type}"
    if dtype not in _HALF:
        return "sdpa", f"flash-attn computes in 16 bits, the base in {str(dtype).removeprefix('torch.')}"
    if torch.cuda.get_device_capability(device) < _AMPERE:
        return "sdpa", "flash-attn needs a card of compute capability 8.0"
    if find_spec("flash_attn") is None:
        return "sdpa", "flash-attn is not installed"
    try:
        import_module("flash_attn")
    except Exception as error:  # built for another torch or CUDA: anything can come out of it
        return "sdpa", f"flash-attn cannot be imported ({type(error).__name__})"
    return "flash-attn", "installed, and the card can"


def choices(mixers: Mixers) -> dict[str, str]:
    """What a run records of layers that do not simply look at everything before."""
    specs = [mixer for mixer in mixers if isinstance(mixer, AttentionSpec)]
    sizes = sorted({spec.window for spec in specs if spec.window is not None})
    found = {}
    if sizes:
        count = sum(spec.window is not None for spec in specs)
        lengths = " and ".join(map(str, sizes))
        found["windows"] = f"{lengths} tokens in {count} of {len(specs)} layers (flash-attn, else masks)"
    unusual = [
        name
        for name, asked in (
            ("capped scores", any(spec.softcap is not None for spec in specs)),
            ("sinks", any(spec.sinks is not None for spec in specs)),
        )
        if asked
    ]
    if unusual:
        found["scores"] = f"in memory, by torch, but in the steps of Triton's kernels ({', '.join(unusual)})"
    return found


def needs_no_mask(q: Tensor, spec: AttentionSpec) -> bool:
    """Whether ``causal`` computes what a layer asks for queries ``q``, [rows, heads, length, head_dim]."""
    if spec.sinks is not None:
        return False
    narrow = spec.window is not None and spec.window < q.shape[2]
    return _flash(q.device, q.dtype) is not None or not (narrow or spec.softcap)


def causal(
    q: Tensor, k: Tensor, v: Tensor, window: int | None = None, softcap: float | None = None
) -> Tensor:
    """Attention of every position to itself and all before it, no mask in memory.

    Args:
        q: [rows, heads, length, head_dim].
        k: [rows, kv_heads, length, head_dim].
        v: like ``k``.
        window: see ``AttentionSpec``; for flash-attn alone, unless it is no shorter than the rows.
        softcap: see ``AttentionSpec``; for flash-attn alone.

    Returns:
        [rows, heads, length, head_dim].
    """
    flash = _flash(q.device, q.dtype)
    if flash is not None:
        more: dict[str, Any] = {} if softcap is None else {"softcap": softcap}
        if window is not None:
            more["window_size"] = (window - 1, 0)
        out: Tensor = flash(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), causal=True, **more)
        return out.transpose(1, 2)
    if q.is_cuda and not _flash_computes(q.device, q.dtype):
        k, v = _for_every_head(q, k, v)
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=q.shape[1] != k.shape[1])


def additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """A mask as ``masked`` takes it, made once for all layers: 0 where ``mask`` is True, else -inf.

    Args:
        mask: bool [..., length].
        dtype: that of the queries.

    Returns:
        [..., length]; rows begin at multiples of 8, as kernels of GPUs want them.
    """
    length = mask.shape[-1]
    numbers = torch.zeros(*mask.shape[:-1], -(-length // 8) * 8, dtype=dtype, device=mask.device)
    return numbers.narrow(-1, 0, length).masked_fill_(~mask, -torch.inf)


def masked(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """Attention to the positions that ``mask`` leaves open.

    Args:
        q: [rows, heads, length, head_dim].
        k: [rows, kv_heads, length, head_dim].
        v: like ``k``.
        mask: from ``additive``, [rows or 1, 1, length, length].

    Returns:
        [rows, heads, length, head_dim].
    """
    if q.is_cuda:
        k, v = _for_every_head(q, k, v)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=q.shape[1] != k.shape[1])


def spelt_out(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor, softcap: float | None, sinks: Tensor | None
) -> Tensor:
    """Attention with what torch's own has no place for; all scores stand in memory, in fp32.

    Args:
        q: [rows, heads, length, head_dim].
        k: [rows, kv_heads, positions, head_dim].
        v: like ``k``.
        mask: from ``additive``, [rows or 1, 1, length, positions].
        softcap: see ``AttentionSpec``.
        sinks: see ``AttentionSpec``.

    Returns:
        [rows, heads, length, head_dim].
    """
    rows, heads, length, width = q.shape
    # The query heads that share a key head stand as so many queries of that head.
    grouped = q.reshape(rows, k.shape[1], -1, width) / width**0.5  # [rows, kv_heads, shared * length, width]
    scores = (grouped @ k.mT).float().view(rows, heads, length, -1)
    if softcap is not None:
        scores = softcap * scores.div_(softcap).tanh_()
    scores.add_(mask)
    total = scores.logsumexp(-1, keepdim=True)
    if sinks is not None:
        total = torch.logaddexp(total, sinks.float()[:, None, None])
    weights = (scores - total).exp_().to(v.dtype).view(rows, k.shape[1], -1, k.shape[2])
    out: Tensor = weights @ v
    return out.view(q.shape)


def _for_every_head(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Keys and values with as many heads as ``q``.

    Of torch's kernels on a GPU flash-attention alone takes shared key heads, and it takes no mask; what
    remains otherwise is the one that writes all scores into memory.
    """
    shared = q.shape[1] // k.shape[1]
    return (k, v) if shared == 1 else (k.repeat_interleave(shared, 1), v.repeat_interleave(shared, 1))


def _flash_computes(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether flash-attention, torch's own or the package, computes in ``dtype`` on this GPU."""
    return dtype in _HALF and torch.cuda.get_device_capability(device) >= _AMPERE


_found: dict[tuple[torch.device, torch.dtype], Callable[..., Tensor] | None] = {}


def _flash(device: torch.device, dtype: torch.dtype) -> Callable[..., Tensor] | None:
    if device.type != "cuda":
        return None
    if (device, dtype) not in _found:
        kind, _ = choose_attention(device, dtype)
        _found[device, dtype] = import_module("flash_attn").flash_attn_func if kind == "flash-attn" else None
    return _found[device, dtype]
