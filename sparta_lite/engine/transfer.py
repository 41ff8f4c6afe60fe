"""To the device and back without waiting for what it is doing; on a CPU nothing moves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Reading = Callable[[], Tensor]
"""Waits for a result and gives it, on the CPU."""


def send(values: Any, device: torch.device) -> Tensor:
    """Integers, nested lists of one shape or a tensor on the CPU, as int64 on ``device``."""
    host = torch.as_tensor(values, dtype=torch.int64)
    return host.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else host


def read_later(found: Tensor) -> Reading:
    """Ask for a result, which the device may still be computing.

    It may go on meanwhile, and write over ``found``.
    """
    if found.device.type != "cuda":
        here = found.clone()
        return lambda: here
    host = torch.empty(found.shape, dtype=found.dtype, pin_memory=True).copy_(found, non_blocking=True)
    arrived = torch.cuda.current_stream(found.device).record_event()

    def read() -> Tensor:
        arrived.synchronize()
        return host

    return read
