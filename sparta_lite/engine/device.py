"""Where a base computes and in what."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

import torch

from sparta_lite.engine.halving import choose_half
from sparta_lite.errors import SpartaError

DeviceSetting = Literal["auto", "cpu", "cuda"]
Dtype = Literal["auto", "float32", "bfloat16", "float16"]


def choose_device(setting: DeviceSetting) -> torch.device:
    """The device that a setting means.

    Raises:
        SpartaError: a GPU is asked for and torch sees none.
    """
    if setting == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if setting == "cuda" and not torch.cuda.is_available():
        raise SpartaError("device: torch sees no CUDA device; set device to cpu or auto")
    return torch.device(setting)


def keep_compiled(device: torch.device) -> None:
    """Have Triton keep what it compiles for a card in ``HF_HOME``, beside downloaded models.

    Compiling takes some twenty seconds of every first run, and where machines come and go it is that folder
    which stays. A user's own ``TRITON_CACHE_DIR`` or ``TRITON_HOME`` is left alone, as is Triton's own
    folder where there can be none. Call before the first kernel is launched.
    """
    if device.type != "cuda" or {"TRITON_CACHE_DIR", "TRITON_HOME"}.intersection(os.environ):
        return
    from huggingface_hub import constants

    place = Path(constants.HF_HOME) / "sparta-lite" / "triton"
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError:
        return
    if os.access(place, os.W_OK):
        os.environ["TRITON_CACHE_DIR"] = str(place)


def choose_dtype(
    setting: Dtype, device: torch.device, widths: tuple[int, int] | None = None
) -> tuple[torch.dtype, str]:
    """What the base computes in, and why.

    Args:
        setting: as the settings have it.
        device: where it computes.
        widths: of a base whose products a CPU is to be timed with, hidden and inside its MLP; None: a CPU
            computes in fp32.
    """
    if setting != "auto":
        dtype: torch.dtype = getattr(torch, setting)
        return dtype, "as the settings say"
    if device.type != "cuda":
        if widths is not None:
            return choose_half(*widths)
        return torch.float32, "16 bits change answers, and small models take longer in them on a CPU"
    if torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.bfloat16, "the card computes in it natively"
    return torch.float32, "the card does not compute in bfloat16, and float16 loses small gradients"
