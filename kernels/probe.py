"""Triton's kernels tried once on the device at hand: a run learns at its start whether it can use them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from sparta_lite.kernels import delta, elementwise, logprob, lora, reference

# Blocks of the kernels grow up to these sizes and no further; the input is wide enough to be cut in parts.
_ROWS, _RANK, _WIDTH, _VOCABULARY = 130, 128, 1024, 300
_CACHED = 300  # positions: more than one program of the attention reads


def require_sound(device: torch.device, dtype: torch.dtype) -> None:
    """Run every kernel, forward and backward, in its largest blocks, and compare with plain torch.

    Args:
        device: where the kernels are wanted.
        dtype: of the base; the adapters are float32.

    Raises:
        RuntimeError: results or gradients are not those of torch. Compiler and driver raise others.
    """
    from sparta_lite.kernels.triton_attention import newest_attention as attention
    from sparta_lite.kernels.triton_rotary import rotate_and_keep

    generator = torch.Generator().manual_seed(0)

    def normal(kind: torch.dtype, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).div_(math.sqrt(shape[-1])).to(device, kind)

    slots = [None, *[row % 2 for row in range(_ROWS - 1)]]
    routing = lora.Routing(tuple(slots), (0.5, 2.0), device)
    x, a = normal(dtype, _ROWS, 1, _WIDTH), normal(torch.float32, 2, 2 * _RANK, _WIDTH)
    outputs = [normal(dtype, _ROWS, 1, width) for width in (150, 40)]
    b = [normal(torch.float32, 2, each.shape[2], _RANK) for each in outputs]
    gain = torch.rand(2, 2 * _RANK, generator=generator).to(device)
    hidden, head = normal(dtype, _ROWS, _WIDTH), 30 * normal(dtype, _VOCABULARY, _WIDTH)
    targets = torch.arange(_ROWS, device=device)

    def decoding(add: Callable[..., list[Tensor]]) -> list[Tensor]:
        return add([each.clone() for each in outputs], x, a, b, routing)

    def training(add: Callable[..., list[Tensor]]) -> list[Tensor]:
        leaves = [each.clone().requires_grad_() for each in (x, a, *b)]
        results = add(outputs, leaves[0], leaves[1], leaves[2:], routing, gain)
        return [*results, *torch.autograd.grad(results, leaves, outputs)]

    def scoring(logprobs: Callable[..., Tensor]) -> list[Tensor]:
        leaf = hidden.clone().requires_grad_()
        values = logprobs(leaf, head, targets, 256, None)
        return [values, *torch.autograd.grad(values.sum(), leaf)]

    def between(triton: bool) -> list[Tensor]:
        leaves = [each.clone().requires_grad_() for each in (outputs[0][:9], outputs[0][9:18], *few)]
        first, second, *turned = leaves
        if triton:
            total, normed = elementwise.add_norm_by_triton(first, second, weight, 1e-6)
            results = [total, normed, elementwise.swiglu_by_triton(total, normed)]
            results += elementwise.rotate_both_by_triton(turned[0], turned[1], (cos, sin))
        else:
            total, normed = reference.add_norm(first, second, weight, 1e-6)
            results = [total, normed, reference.swiglu(total, normed)]
            results += [reference.rotate(each, cos, sin) for each in turned]
        slopes = [each.detach() for each in results]
        return [*results, *torch.autograd.grad(results, leaves, slopes)]

    def keeping(triton: bool) -> list[Tensor]:
        newest = q[:, :, 4:5], keys[:, :, 4:5], values[:, :, 4:5]
        caches, at = (keys.clone(), values.clone()), [7, _CACHED - 1, _CACHED]
        angles = cos[:, :, 4:5].contiguous(), sin[:, :, 4:5].contiguous()
        if not triton:
            return list(reference.rotate_and_keep(*newest, *angles, *caches, at))
        lengths = torch.tensor(at, device=device)
        return [rotate_and_keep(*newest, *angles, *caches, lengths), *caches]

    q, keys, values = (normal(dtype, 3, heads, _CACHED, 128) for heads in (8, 2, 2))
    few = q[:, :, :5], keys[:, :, :5]
    weight, (cos, sin) = normal(dtype, outputs[0].shape[2]), normal(dtype, 2, 3, 1, 5, 128)
    counts = [1, 70, _CACHED]

    with torch.no_grad(), torch.autocast(device.type, enabled=False):
        found = attention(q[:, :, 0], keys, values, torch.tensor(counts, dtype=torch.int32, device=device))
        expected = reference.newest_attention(q[:, :, 0], keys, values, counts)
        _compare("attention of a step", [found], [expected], dtype)
        sinks = normal(dtype, 8)
        at = torch.tensor(counts, dtype=torch.int32, device=device)
        found = attention(q[:, :, 0], keys, values, at, 5.0, sinks)
        expected = reference.newest_attention(q[:, :, 0], keys, values, counts, 5.0, sinks)
        _compare("attention of a step with a cap and sinks", [found], [expected], dtype)
        _compare("rotary embedding into the cache", keeping(True), keeping(False), dtype)
        _compare("grouped LoRA", decoding(lora.by_triton), decoding(lora.by_torch), dtype)
    with torch.enable_grad(), torch.autocast(device.type, enabled=False):
        _compare("grouped LoRA in training", training(lora.by_triton), training(lora.by_torch), dtype)
        _compare("what stands between products", between(True), between(False), dtype)
        ours, theirs = scoring(logprob.by_triton), scoring(logprob.by_torch)
        _compare("token log-probabilities", ours, theirs, dtype)


def require_sound_delta(device: torch.device, dtype: torch.dtype) -> None:
    """Run flash-linear-attention's gated delta rule, forward, backward and by one token, against torch's.

    Raises:
        RuntimeError: results or gradients are not those of torch. Compiler and driver raise others.
    """
    generator = torch.Generator().manual_seed(0)
    rows, length, heads, width = 2, 100, 2, 64

    def normal(kind: torch.dtype, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(device, kind)

    q, k = (normal(dtype, rows, length, heads, width) for _ in range(2))
    v = normal(dtype, rows, length, 2 * heads, width)
    decay, beta = (normal(torch.float32, rows, length, 2 * heads) for _ in range(2))
    inputs = [q, k, v, -0.2 * decay.exp(), beta.sigmoid().to(dtype)]
    state = 0.1 * normal(torch.float32, rows, 2 * heads, width, width)

    def training(rule: Callable[..., tuple[Tensor, Tensor]]) -> list[Tensor]:
        leaves = [each.clone().requires_grad_() for each in (*inputs, state)]
        results = rule(*leaves)
        return [*results, *torch.autograd.grad(results[0], leaves, v)]

    def decoding(step: Callable[..., Tensor]) -> list[Tensor]:
        after = state.clone()
        return [step(*(each[:, 0] for each in inputs), after), after]

    with torch.enable_grad(), torch.autocast(device.type, enabled=False):
        _compare("delta rule", training(delta.by_fla), training(delta.by_torch), dtype)
    with torch.no_grad(), torch.autocast(device.type, enabled=False):
        ours, theirs = decoding(delta.step_by_fla), decoding(delta.step_by_torch)
        _compare("delta rule of a step", ours, theirs, dtype)


def _compare(what: str, ours: Sequence[Tensor], theirs: Sequence[Tensor], dtype: torch.dtype) -> None:
    most = 1e-4 if dtype == torch.float32 else 3e-2
    for each, other in zip(ours, theirs, strict=True):
        expected = other.detach().float()
        apart = float((each.detach().float() - expected).norm() / expected.norm())
        if not apart <= most:
            raise RuntimeError(f"{what} differs from torch's by {apart:.1e}")
