"""Who computes: Triton's kernels where a card can run them, else plain torch."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Literal, TypeVar

import torch
from torch import Tensor
from torch.utils import checkpoint

Kind = Literal["triton", "torch"]
Delta = Literal["fla", "torch"]

_AMPERE = (8, 0)  # Triton's compute capability; bf16 on older cards aborts the process inside its compiler

# What CUDA, cuBLAS and torch's allocator on a CPU say where they do not raise torch.OutOfMemoryError.
_TELLTALE = ("out of memory", "can't allocate memory", "not enough memory", "ALLOC_FAILED")

_Result = TypeVar("_Result")

_chosen: dict[tuple[str, torch.dtype], tuple[Kind, str]] = {}
_chosen_delta: dict[tuple[str, torch.dtype], tuple[Delta, str]] = {}
_failed: str | None = None
"""Why Triton is not used any more in this process."""
_told = False


def choose_kernels(device: torch.device, dtype: torch.dtype) -> tuple[Kind, str]:
    """Who computes grouped LoRA and token log-probabilities on ``device`` in ``dtype``, and why.

    The first time that all conditions for Triton are met its kernels are compiled and tried.
    """
    if _failed is not None:
        return "torch", _failed
    if device.type != "cuda":
        return "torch", f"Triton's kernels need a CUDA device, this is {device.type}"
    key = (device.type, dtype)
    if key not in _chosen:
        _chosen[key] = _choose(device, dtype)
    return _chosen[key]


def choose_delta(device: torch.device, dtype: torch.dtype) -> tuple[Delta, str]:
    """Who computes the gated delta rule on ``device`` in ``dtype``, and why.

    The first time that flash-linear-attention could, its kernels are compiled and tried.
    """
    if device.type != "cuda":
        return "torch", f"flash-linear-attention needs a CUDA device, this is {device.type}"
    key = (device.type, dtype)
    if key not in _chosen_delta:
        _chosen_delta[key] = _choose_delta(device, dtype)
    return _chosen_delta[key]


def use_triton(x: Tensor) -> bool:
    """Whether a call whose input is ``x`` goes to Triton."""
    return choose_kernels(x.device, x.dtype)[0] == "triton"


def attempt(triton: Callable[[], _Result], plain: Callable[[], _Result]) -> _Result:
    """``triton()``, or ``plain()`` should it fail, and no Triton from then on in this process.

    A kernel fails to compile or to launch before it has written anything, and ``triton`` launches one that
    overwrites its inputs last, all at once: ``plain`` finds its inputs whole. Three errors are raised as they
    are: one of memory, for whoever called can do the same in smaller batches; any while a CUDA graph is
    recorded, for then it may be the recording that failed; and those of torch's checkpointing, which ends
    with one whatever it computes again.
    """
    try:
        return triton()
    except Exception as error:  # compiler, linker and driver raise anything
        if is_out_of_memory(error) or _recording() or type(error).__module__ == checkpoint.__name__:
            raise
        _give_up(error)
    return plain()


def again(work: Callable[[], _Result]) -> _Result:
    """``work()``, once more where an error has come of Triton being given up in the middle of it.

    What a backward pass computes again must be what the forward pass has kept: halves of the two kinds do
    not fit together.
    """
    before = _failed
    try:
        return work()
    except Exception:
        if _failed == before:
            raise
    return work()


def failure() -> str | None:
    """Why Triton has been given up in this process; None: it has not, or this was asked before."""
    global _told
    if _failed is None or _told:
        return None
    _told = True
    return _failed


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory ran out, on a GPU or on the host."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _TELLTALE)


def _recording() -> bool:
    return torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing()


def _choose(device: torch.device, dtype: torch.dtype) -> tuple[Kind, str]:
    if torch.cuda.get_device_capability(device) < _AMPERE:
        return "torch", "Triton's kernels need a card of compute capability 8.0"
    if find_spec("triton") is None:
        return "torch", "Triton is not installed"
    return attempt(lambda: _tried(device, dtype), lambda: ("torch", str(_failed)))


def _tried(device: torch.device, dtype: torch.dtype) -> tuple[Kind, str]:
    from triton import knobs

    from sparta_lite.kernels.probe import require_sound
    from sparta_lite.kernels.triton_product import DTYPES

    if knobs.runtime.interpret:
        return "torch", "TRITON_INTERPRET is set: Triton's kernels would run interpreted"
    if dtype not in DTYPES:
        return "torch", f"Triton's kernels do not compute in {str(dtype).removeprefix('torch.')}"
    require_sound(device, dtype)
    return "triton", "its kernels compile here and agree with torch"


def _choose_delta(device: torch.device, dtype: torch.dtype) -> tuple[Delta, str]:
    if find_spec("fla") is None:
        return "torch", "flash-linear-attention is not installed"
    try:
        from sparta_lite.kernels.probe import require_sound_delta

        require_sound_delta(device, dtype)
    except Exception as error:  # made for another torch or Triton: anything can come out of it
        if is_out_of_memory(error):
            raise
        return "torch", f"flash-linear-attention failed, {_about(error)}"
    return "fla", "it is installed and agrees with torch"


def _about(error: Exception) -> str:
    said = str(error).strip().splitlines()
    return f"{type(error).__name__}: {said[-1]}"[:200] if said else type(error).__name__


def _give_up(error: Exception) -> None:
    global _failed
    _failed = _failed or f"a Triton kernel failed, {_about(error)}"
