"""Losses of pairs against closed forms and their hand-made derivatives, in float64."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from sparta_lite.engine.bank import Bank
from sparta_lite.engine.base import Base
from sparta_lite.training.dpo import backward
from sparta_lite.training.losses import Loss, pair_losses
from sparta_lite.training.optim import trainable
from sparta_lite.training.packing import TokenizedPair
from sparta_lite.training.phase import DpoSettings

BETA = 0.25
RATIOS = [(0.0, 0.0), (1.5, -2.0), (-0.75, 3.0), (2.0, 2.0)]
WIN_RATES = [1.0, 0.75, 0.5, 0.25]


def taken(loss: Loss) -> tuple[list[float], list[tuple[float, float]]]:
    """Losses and gradients by autograd."""
    ratios = torch.tensor(RATIOS, dtype=torch.float64, requires_grad=True)
    losses = pair_losses(ratios, BETA, torch.tensor(WIN_RATES, dtype=torch.float64), loss)
    losses.sum().backward()
    assert ratios.grad is not None
    return losses.tolist(), [(chosen, rejected) for chosen, rejected in ratios.grad.tolist()]


def test_the_logistic_loss_is_spins_with_lambda_beta() -> None:
    losses, gradients = taken("dpo")
    for (chosen, rejected), loss, gradient in zip(RATIOS, losses, gradients, strict=True):
        margin = BETA * chosen - BETA * rejected
        slope = -BETA / (1 + math.exp(margin))
        assert loss == pytest.approx(math.log1p(math.exp(-margin)), abs=1e-12)
        assert gradient == pytest.approx((slope, -slope), abs=1e-12)


def test_the_squared_loss_pulls_each_answer_to_its_own_win_rate() -> None:
    losses, gradients = taken("sppo")
    for (chosen, rejected), rate, loss, gradient in zip(RATIOS, WIN_RATES, losses, gradients, strict=True):
        errors = chosen - (rate - 0.5) / BETA, rejected - ((1 - rate) - 0.5) / BETA
        assert loss == pytest.approx(errors[0] ** 2 + errors[1] ** 2, abs=1e-12)
        assert gradient == pytest.approx((2 * errors[0], 2 * errors[1]), abs=1e-12)


def test_the_squared_loss_is_0_where_the_answers_stand_as_their_win_rates_say() -> None:
    rates = torch.tensor([0.9, 0.2], dtype=torch.float64)
    ratios = torch.stack([(rates - 0.5) / BETA, (0.5 - rates) / BETA], dim=-1)
    assert pair_losses(ratios, BETA, rates, "sppo").tolist() == [0.0, 0.0]
    assert (pair_losses(ratios, BETA, 1 - rates, "sppo") > 0).all()


def gradients(base: Base, bank: Bank, pairs: list[TokenizedPair], settings: DpoSettings) -> Tensor:
    leaves = trainable(bank)
    reference = torch.linspace(-60, -20, 3 * len(pairs) * 2).view(3, len(pairs), 2)
    backward(base.decoder, leaves, pairs, reference, settings, pad=0)
    return torch.cat([leaf.grad.flatten() for _, leaf in leaves.tensors() if leaf.grad is not None])


def test_every_pair_of_a_batch_learns_by_its_own_win_rate(
    base: Base, bank: Bank, pairs: list[TokenizedPair]
) -> None:
    """Passes take pairs in another order; a batch of one pair, known to be right, says what each gives."""
    settings = DpoSettings(loss="sppo", beta=0.5, micro_batch=2)
    rated = [
        replace(pair, win_rate=rate) for pair, rate in zip(pairs[:5], (1.0, 0.0, 0.25, 0.5, 0.9), strict=True)
    ]
    together = gradients(base, bank, rated, settings)
    reference = torch.linspace(-60, -20, 30).view(3, 5, 2)
    alone = torch.zeros_like(together)
    for number, pair in enumerate(rated):
        leaves = trainable(bank)
        backward(base.decoder, leaves, [pair], reference[:, number : number + 1], settings, pad=0)
        alone += torch.cat([leaf.grad.flatten() for _, leaf in leaves.tensors() if leaf.grad is not None])
    torch.testing.assert_close(together, alone / 5, atol=1e-4, rtol=1e-4)
    even = [replace(pair, win_rate=0.5) for pair in rated]
    assert (gradients(base, bank, even, settings) - together).norm() > 0.01 * together.norm()
