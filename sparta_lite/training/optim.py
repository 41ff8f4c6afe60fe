"""One AdamW for the adapters of a bank: schedule, clipping per adapter, and guards."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from sparta_lite.engine.bank import Bank
from sparta_lite.errors import SpartaError

Kind = Literal["adamw", "adamw-8bit"]
"""``adamw-8bit`` keeps its moments in 8 bits with a scale per 256 elements (Dettmers et al. 2022)."""

BETAS, EPSILON = (0.9, 0.999), 1e-8


def rise(steps: int, warmup: float) -> int:
    """Updates of ``steps`` over which the learning rate rises from 0, which the first of them has.

    ceil(warmup * steps), as transformers has it, but where rounding up would take half of them or all: of one
    update none is warm-up, and of two only where at least half of them are asked for.
    """
    if steps < 2 or (steps == 2 and warmup < 0.5):
        return 0
    return math.ceil(warmup * steps)


def cosine(step: int, steps: int, warmup: float) -> float:
    """Share of the peak learning rate at update ``step`` of ``steps``, counted from 0.

    Linear from 0 over the first ``rise`` updates, then half a cosine towards 0: the ``cosine`` schedule of
    transformers.
    """
    rising = rise(steps, warmup)
    if step < rising:
        return step / rising
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising)))


def trainable(bank: Bank) -> Bank:
    """The same adapters in the same memory, as leaves that collect gradients."""
    leaves = bank.part(0, len(bank.adapters))
    for _, tensor in leaves.tensors():
        tensor.requires_grad_()
    return leaves


def distances(bank: Bank, start: dict[str, Tensor]) -> Tensor:
    """How far each adapter's weights are from ``start``, a snapshot of the bank: L2 norm, [adapters]."""
    return _norms([tensor.detach() - start[name].to(tensor.device) for name, tensor in bank.tensors()])


class Optimizer:
    """AdamW over the stacked tensors of a bank, made for one phase of ``steps`` updates.

    Adapters share the calls and nothing else: AdamW works element by element, and norms are taken
    adapter by adapter. In 8 bits that holds where an adapter's tensors divide by 256 elements, as those
    of real models do.
    """

    def __init__(
        self,
        bank: Bank,
        *,
        steps: int,
        learning_rate: float,
        weight_decay: float,
        warmup: float,
        max_grad_norm: float,
        kind: Kind = "adamw",
    ) -> None:
        """``bank``: from ``trainable``.

        Raises:
            SpartaError: 8 bits need bitsandbytes, and it cannot be imported.
        """
        self._bank = bank
        self._steps = steps
        self._peak = learning_rate
        self._warmup = warmup
        self._max_norm = max_grad_norm
        self._tensors = dict(bank.tensors())
        self._adamw = _adamw(
            kind,
            list(self._tensors.values()),
            len(bank.adapters),
            lr=learning_rate,
            weight_decay=weight_decay,
        )

    def learning_rate(self, step: int) -> float:
        """At update ``step``, counted from 0."""
        return self._peak * cosine(step, self._steps, self._warmup)

    def update(self, step: int, losses: Tensor) -> list[float]:
        """Clip the gradients that stand in the bank, apply them and clear them.

        Args:
            step: the number of this update, from 0.
            losses: this update's loss of every adapter, [adapters].

        Returns:
            Gradient norm of every adapter before clipping.

        Raises:
            SpartaError: a loss, gradient or new weight is NaN or infinite, or an adapter did not move
                although the learning rate is not 0. The bank is as it was before this update.
        """
        gradients = [tensor.grad for tensor in self._tensors.values() if tensor.grad is not None]
        norms = _norms(gradients) if gradients else torch.zeros_like(losses)
        self._require(step, losses.isfinite(), "its loss is NaN or infinite; lower the learning rate")
        self._require(step, norms.isfinite(), "its gradient is NaN or infinite; lower the learning rate")
        factors = (self._max_norm / (norms + 1e-6)).clamp(max=1.0)
        for gradient in gradients:
            gradient.mul_(factors.view(-1, 1, 1))

        before = self._bank.snapshot()
        rate = self._adamw.param_groups[0]["lr"] = self.learning_rate(step)
        self._adamw.step()
        self._adamw.zero_grad()
        moved = distances(self._bank, before)
        try:
            self._require(step, moved.isfinite(), "its weights became infinite; lower the learning rate")
            if rate > 0:
                self._require(
                    step, moved > 0, f"its weights did not move at learning rate {rate:.3g}; raise it"
                )
        except SpartaError:
            self._bank.restore(before)
            raise
        return [float(norm) for norm in norms]

    def moments(self) -> dict[str, Tensor]:
        """AdamW's state by name, as ``restore`` takes it back; no copies of tensors."""
        return {
            f"{name}.{key}": value if isinstance(value, Tensor) else torch.tensor(value)
            for name, tensor in self._tensors.items()
            for key, value in self._adamw.state[tensor].items()
            if key not in _TABLES
        }

    def restore(self, moments: dict[str, Tensor]) -> None:
        states: dict[str, dict[str, Any]] = {name: {} for name in self._tensors}
        for label, value in moments.items():
            name, _, key = label.rpartition(".")
            states[name][key] = value.to(self._tensors[name].device, copy=True)
        for name, state in states.items():
            if "state1" in state:  # bitsandbytes counts in a plain number
                state["step"] = int(state["step"])
            if "absmax1" in state:
                self._adamw.fill_qmap()
                for key, table in _TABLES.items():
                    state[key] = self._adamw.name2qmap[table].to(self._tensors[name].device)
            self._adamw.state[self._tensors[name]] = state

    def _require(self, step: int, sound: Tensor, complaint: str) -> None:
        for adapter, fine in zip(self._bank.adapters, sound.tolist(), strict=True):
            if not fine:
                raise SpartaError(f"training: adapter {adapter.name!r}, step {step}: {complaint}")


_SMALL = 4096
"""Tensors of fewer elements keep fp32 moments, as bitsandbytes advises."""
_TABLES = {"qmap1": "dynamic", "qmap2": "udynamic"}
"""What bitsandbytes' 8 bits stand for: the same constants in every state, kept in none."""


def _adamw(kind: Kind, tensors: Sequence[Tensor], adapters: int, **settings: Any) -> Any:
    if kind == "adamw":
        return torch.optim.AdamW(tensors, betas=BETAS, eps=EPSILON, fused=True, **settings)
    try:
        from bitsandbytes.optim import AdamW8bit
    except ImportError as error:
        raise SpartaError(
            "training.optimizer: adamw-8bit needs bitsandbytes, which cannot be imported; install it, or "
            "set training.optimizer to adamw"
        ) from error
    # What counts as small must not depend on how many adapters a stack holds.
    return AdamW8bit(tensors, betas=BETAS, eps=EPSILON, min_8bit_size=_SMALL * adapters, **settings)


def _norms(tensors: list[Tensor]) -> Tensor:
    """L2 norm of each adapter over all tensors, each [adapters, ...]: [adapters]."""
    norms = torch.stack([tensor.flatten(1).norm(dim=1) for tensor in tensors])  # [tensors, adapters]
    total: Tensor = norms.norm(dim=0)
    return total
