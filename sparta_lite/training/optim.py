"""One AdamW for the adapters of a bank: schedule, clipping per adapter, and guards."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sparta_lite.engine.bank import Bank
from sparta_lite.errors import SpartaError


def cosine(step: int, steps: int, warmup: float) -> float:
    """Share of the peak learning rate at update ``step`` of ``steps``, counted from 0.

    Linear from 0 over the first ceil(warmup * steps) updates, then half a cosine towards 0: the
    ``cosine`` schedule of transformers with ``warmup_steps`` as a ratio.
    """
    rise = math.ceil(warmup * steps)
    if step < rise:
        return step / rise
    return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))


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
    adapter by adapter. Betas are .9 and .999, epsilon 1e-8.
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
    ) -> None:
        """``bank``: from ``trainable``."""
        self._bank = bank
        self._steps = steps
        self._peak = learning_rate
        self._warmup = warmup
        self._max_norm = max_grad_norm
        self._tensors = dict(bank.tensors())
        self._adamw = torch.optim.AdamW(
            list(self._tensors.values()),
            lr=learning_rate,
            betas=(0.9, 0.999),
            eps=1e-8,
            weight_decay=weight_decay,
            fused=True,
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
        """AdamW's state by name, as ``restore`` takes it back; no copies."""
        return {
            f"{name}.{key}": value
            for name, tensor in self._tensors.items()
            for key, value in self._adamw.state[tensor].items()
        }

    def restore(self, moments: dict[str, Tensor]) -> None:
        for name, tensor in self._tensors.items():
            self._adamw.state[tensor] = {
                key: moments[f"{name}.{key}"].to(tensor.device, copy=True)
                for key in ("step", "exp_avg", "exp_avg_sq")
            }

    def _require(self, step: int, sound: Tensor, complaint: str) -> None:
        for adapter, fine in zip(self._bank.adapters, sound.tolist(), strict=True):
            if not fine:
                raise SpartaError(f"training: adapter {adapter.name!r}, step {step}: {complaint}")


def _norms(tensors: list[Tensor]) -> Tensor:
    """L2 norm of each adapter over all tensors, each [adapters, ...]: [adapters]."""
    norms = torch.stack([tensor.flatten(1).norm(dim=1) for tensor in tensors])  # [tensors, adapters]
    total: Tensor = norms.norm(dim=0)
    return total
