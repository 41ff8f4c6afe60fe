"""Linear layers in 4 bits: bitsandbytes' modules, and our product where it is measured to be faster.

Up to a few dozen tokens bitsandbytes multiplies with the packed matrix, above that it unpacks the matrix and
gives it to cuBLAS; where one begins to win depends on card and shape. Between the two lies a range of
tokens for a third kernel. Whether, and from where to where, is timed once per shape when a base is loaded,
without the host's time, for decoding runs in recorded graphs. That is before anything is captured, and for
the whole process, so that equal batches give equal bits. A resumed run takes the ranges that its beginning
has recorded.

Not yet run on a GPU.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from sparta_lite.engine.memory import is_out_of_memory
from sparta_lite.engine.timing import time_on_card
from sparta_lite.kernels import choice
from sparta_lite.kernels.nf4 import BLOCK, SCALES_BLOCK, EightBitScales, Nf4

COUNTS = (8, 16, 24, 32, 48, 64, 96, 128, 192, 256)
"""Numbers of tokens that are timed."""
_GAIN = 1.05  # less than that is noise
_OURS = re.compile(r"(\d+) to (\d+) tokens of ([^(;]+) \(at (\d+): ([\d.]+) us, bitsandbytes ([\d.]+) us\)")
_THEIRS = re.compile(r"none of ([^;]+)")


@dataclass(frozen=True)
class Range:
    """The numbers of tokens for which our product is the faster one."""

    least: int
    most: int
    at: int
    """Where it gains most."""
    ours: float
    """Microseconds there."""
    theirs: float


@dataclass(frozen=True)
class FourBit:
    """Linear layers of one input in NF4 for which our product has a range: one launch for all of them."""

    modules: tuple[Any, ...]
    """bitsandbytes' Linear4bit."""
    weights: tuple[Nf4, ...]
    """The modules' own tensors."""
    bias: Tensor | None
    """Of all modules, one behind the other."""
    dtype: torch.dtype
    """What the modules compute in."""
    range: Range

    def __call__(self, x: Tensor) -> Sequence[Tensor]:
        """[..., in] -> modules x [..., out]; those of our product are slices of one tensor."""
        tokens = x.numel() // x.shape[-1]
        served = self.range.least <= tokens <= self.range.most and x.dtype == self.dtype
        if not served or torch.is_grad_enabled():
            return [module(x) for module in self.modules]
        output = _multiply(x.reshape(tokens, -1), self.weights, self.bias).view(*x.shape[:-1], -1)
        parts: Sequence[Tensor] = output.split([weight.outputs for weight in self.weights], dim=-1)
        return parts


_ranges: dict[str, Range | None] = {}
"""What serves each kind of layer that was met; None: bitsandbytes alone."""
_recalled: dict[str, Range | None] = {}
"""The same as a run has recorded it."""
_failure: str | None = None
"""Why our product is not used in this process."""


def linear(modules: Sequence[Any]) -> FourBit | None:
    """What the engine calls in place of modules in 4 bits that share an input: the same with our product in
    its range.

    A kind of layer is tried and timed where it is first met. None: our kernel cannot serve one of the
    modules, or they are not on a card that Triton's kernels run on, or it is nowhere the faster one.
    """
    weights = _read_all(modules)
    if weights is None or _failure is not None:
        return None
    dtype = modules[0].compute_dtype
    if not serves(weights[0].packed.device, dtype):
        return None
    biased = modules[0].bias is not None
    bias = torch.cat([module.bias.detach() for module in modules]) if biased else None
    kind = f"{' + '.join(str(weight.outputs) for weight in weights)} x {weights[0].width} "
    kind += str(dtype).removeprefix("torch.") + (" with bias" if biased else "")
    if kind not in _ranges:
        try:
            inputs = _try(modules, weights, bias, dtype)
            known = kind in _recalled
            _ranges[kind] = _recalled[kind] if known else _measure(modules, weights, bias, inputs)
        except Exception as error:  # compiler, linker and driver raise anything
            if is_out_of_memory(error):
                raise
            _give_up(error)
            return None
    found = _ranges[kind]
    return None if found is None else FourBit(tuple(modules), weights, bias, dtype, found)


def choices() -> dict[str, str]:
    """What was measured, as an entry ``nf4`` of a run's choices; empty where there is nothing in 4 bits."""
    if _failure is not None:
        return {"nf4": f"bitsandbytes alone ({_failure})"}
    lines = []
    for kind, found in _ranges.items():
        if found is None:
            lines.append(f"none of {kind}")
        else:
            times = f"at {found.at}: {found.ours:.1f} us, bitsandbytes {found.theirs:.1f} us"
            lines.append(f"{found.least} to {found.most} tokens of {kind} ({times})")
    return {"nf4": f"our product for {'; '.join(lines)}"} if lines else {}


def recall(text: str) -> None:
    """Take over what ``choices`` said when a run began, in place of measuring."""
    recorded: dict[str, Range | None] = dict.fromkeys(_THEIRS.findall(text))
    for least, most, kind, at, ours, theirs in _OURS.findall(text):
        recorded[kind] = Range(int(least), int(most), int(at), float(ours), float(theirs))
    for kind, each in recorded.items():
        _recalled[kind] = each
        _ranges.pop(kind, None)


def read(module: Any) -> Nf4 | None:
    """A module's matrix, in the module's own memory; None: it is none that our kernel can read."""
    packed = getattr(module, "weight", None)
    state = getattr(packed, "quant_state", None)
    if packed is None or state is None or state.quant_type != "nf4" or state.blocksize != BLOCK:
        return None
    outputs, width = state.shape
    if width % BLOCK or (outputs, width) != (module.out_features, module.in_features):
        return None
    scales = None
    if state.nested:
        if state.state2.blocksize != SCALES_BLOCK:
            return None
        scales = EightBitScales(state.state2.code, state.state2.absmax, state.offset)
    return Nf4(packed.data.view(-1).view(torch.uint8), state.code, state.absmax, scales, width)


def _read_all(modules: Sequence[Any]) -> tuple[Nf4, ...] | None:
    """The matrices of modules that one launch can serve; None: it cannot."""
    weights = [read(module) for module in modules]
    found = tuple(weight for weight in weights if weight is not None)
    kinds = {
        (getattr(module, "compute_dtype", None), module.bias is None, weight.eight_bit is None, weight.width)
        for module, weight in zip(modules, found, strict=False)
    }
    alike = len(found) == len(modules) and len(kinds) == 1
    return found if alike and modules[0].compute_dtype is not None else None


def serves(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether our product can run there."""
    return choice.choose_kernels(device, dtype)[0] == "triton"


def crossover(times: Sequence[tuple[float, float]]) -> Range | None:
    """The range of tokens that our product serves: the longest run of ``COUNTS`` that it clearly wins.

    It begins behind the count before. A tile of ours takes as long half empty as full.

    Args:
        times: microseconds of ours and of bitsandbytes for each of ``COUNTS``.
    """
    won = [ours * _GAIN <= theirs for ours, theirs in times]
    start, end = 0, 0
    for first in range(len(won)):
        last = next((place for place in range(first, len(won)) if not won[place]), len(won))
        if last - first > end - start:
            start, end = first, last
    if start == end:
        return None
    best = max(range(start, end), key=lambda place: times[place][1] / times[place][0])
    least = COUNTS[start - 1] + 1 if start else COUNTS[0]
    return Range(least, COUNTS[end - 1], COUNTS[best], *times[best])


@torch.no_grad()
def _try(
    modules: Sequence[Any], weights: Sequence[Nf4], bias: Tensor | None, dtype: torch.dtype
) -> Sequence[Tensor]:
    """Compile our product for each of ``COUNTS`` and compare it with the modules.

    Returns:
        What it was tried on, each [count, in].

    Raises:
        RuntimeError: the results differ. Compiler and driver raise others.
    """
    device = weights[0].packed.device
    generator = torch.Generator(device).manual_seed(0)
    x = torch.randn(COUNTS[-1], weights[0].width, generator=generator, device=device).to(dtype)
    inputs = [x[:count] for count in COUNTS]
    for each in inputs:
        found, expected = (
            _multiply(each, weights, bias).float(),
            torch.cat(_theirs(modules, each), -1).float(),
        )
        apart = float((found - expected).norm() / expected.norm())
        if not apart <= (1e-4 if dtype == torch.float32 else 1e-2):
            raise RuntimeError(f"results differ from bitsandbytes' by {apart:.1e}")
    return inputs


@torch.no_grad()
def _measure(
    modules: Sequence[Any], weights: Sequence[Nf4], bias: Tensor | None, inputs: Sequence[Tensor]
) -> Range | None:
    """On what ``_try`` has run both on."""
    times = [
        time_on_card([partial(_multiply, x, weights, bias), partial(_theirs, modules, x)]) for x in inputs
    ]
    return crossover([(ours, theirs) for ours, theirs in times])


def _theirs(modules: Sequence[Any], x: Tensor) -> list[Tensor]:
    return [module(x) for module in modules]


def _multiply(x: Tensor, weights: Sequence[Nf4], bias: Tensor | None) -> Tensor:
    from sparta_lite.kernels.triton_nf4 import nf4_linear

    return nf4_linear(x, weights, bias)


def _give_up(error: Exception) -> None:
    global _failure
    said = str(error).strip().splitlines()
    about = f"{type(error).__name__}: {said[-1]}" if said else type(error).__name__
    _failure = f"our product failed, {about[:200]}"
    warnings.warn(f"4-bit layers: {_failure}; bitsandbytes' modules serve all of them", stacklevel=2)
