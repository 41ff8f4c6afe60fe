"""Which trainer a run uses, and why."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.util import find_spec
from typing import Literal

import torch

from sparta_lite.errors import SpartaError
from sparta_lite.training.unsloth import ARCHITECTURES, fast_language_model

Trainer = Literal["tribe", "unsloth", "trl"]
TrainerSetting = Literal["auto", "tribe", "unsloth", "trl"]

_ABSENT = "unsloth is not installed or cannot be imported"


def choose_trainer(
    setting: TrainerSetting,
    device: torch.device,
    architecture: str | None = None,
    dtype: torch.dtype | None = None,
    compare: Callable[[], tuple[Trainer, str]] | None = None,
) -> tuple[Trainer, str]:
    """The trainer that a setting means, and why.

    Asking for Unsloth imports it, which patches transformers: ask before the base is loaded.

    Args:
        setting: of the configuration.
        device: where the base computes.
        architecture: the base's ``model_type`` in transformers.
        dtype: what the base computes in.
        compare: which of tribe and Unsloth ``auto`` takes where both can train, and why; None: Unsloth.

    Raises:
        SpartaError: Unsloth or TRL is asked for and cannot train here.
    """
    if setting in ("tribe", "trl"):
        if setting == "trl" and device.type == "cpu":
            require_interpreter()
        return setting, "as the settings say"
    obstacle = _obstacle(device, architecture, dtype)
    if setting == "unsloth":
        if obstacle:
            raise SpartaError(f"training.trainer: {obstacle}; set the trainer to tribe, or to auto")
        fast_language_model()
        return "unsloth", "as the settings say"
    if obstacle:
        return "tribe", obstacle
    if "unsloth" not in sys.modules and find_spec("unsloth") is None:
        return "tribe", _ABSENT
    found, why = compare() if compare else ("unsloth", "a GPU, and unsloth can be imported")
    if found != "unsloth":
        return found, why
    try:
        fast_language_model()
    except SpartaError:
        return "tribe", _ABSENT
    return "unsloth", why


def require_interpreter() -> None:
    """TRL takes log-probabilities in a Triton kernel alone; on a CPU that has to be interpreted.

    Raises:
        SpartaError: it would not be.
    """
    if find_spec("triton"):
        import triton

        if triton.knobs.runtime.interpret:
            return
    raise SpartaError(
        "training.trainer: TRL computes on a GPU; set the trainer to tribe, or have its kernels "
        "interpreted, slowly, with Triton installed and TRITON_INTERPRET=1 in the environment"
    )


def _obstacle(device: torch.device, architecture: str | None, dtype: torch.dtype | None) -> str | None:
    """Why Unsloth cannot be the trainer, as far as can be said without importing it."""
    if device.type != "cuda":
        return f"unsloth needs a GPU, and the base computes on {device.type}"
    if architecture is not None and architecture not in ARCHITECTURES:
        return f"unsloth's fast path is not used for {architecture!r}"
    if dtype == torch.float16:
        return "unsloth would scale gradients in float16, which the guards do not read"
    return None
