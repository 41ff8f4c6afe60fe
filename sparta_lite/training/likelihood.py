"""Log-probabilities of packed completions under adapters of the bank."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from sparta_lite.engine.model import Decoder
from sparta_lite.engine.sites import Lora
from sparta_lite.training.packing import Packed

Precision = Literal["fp32", "bf16"]
"""``fp32``: compute in the dtype of the base. ``bf16``: its matrix products in bf16."""


def completion_logprobs(
    decoder: Decoder,
    lora: Lora | None,
    packed: Packed,
    copies: int,
    dtype: Precision,
    checkpoint: bool = False,
) -> Tensor:
    """Log-probability of every token of every completion.

    Args:
        decoder: the base.
        lora: routing for copies * rows rows: the packed rows once for every copy, copy after copy.
        packed: on the decoder's device.
        copies: how many adapters read the same rows.
        dtype: see ``Precision``; the head and everything after it are not affected.
        checkpoint: see ``Decoder.hidden``.

    Returns:
        float32 [copies, rows, completions, longest], 0 beyond a completion's end.
    """
    with _autocast(decoder.device, dtype):
        hidden = decoder.hidden(
            packed.layout.ids.repeat(copies, 1),
            packed.layout.positions.repeat(copies, 1),
            packed.layout.mixing(decoder.mixers, copies),
            lora,
            checkpoint=checkpoint,
        )
    hidden = hidden.view(copies, -1, hidden.shape[-1])  # [copies, rows * length, hidden]
    states = hidden.index_select(1, packed.sources).flatten(0, 1)  # [copies * tokens, hidden]
    logprobs = decoder.logprobs(states, packed.targets.repeat(copies))
    return F.pad(logprobs.view(copies, -1), (0, 1))[:, packed.cells]


def _autocast(device: torch.device, dtype: Precision) -> AbstractContextManager[object]:
    return torch.autocast(device.type, torch.bfloat16) if dtype == "bf16" else nullcontext()
