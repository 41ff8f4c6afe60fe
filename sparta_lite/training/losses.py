"""What a preference pair costs: arithmetic alone."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor

Loss = Literal["dpo", "sppo"]


def pair_losses(ratios: Tensor, beta: float, win_rates: Tensor, loss: Loss) -> Tensor:
    """The loss of every pair from r = log(pi / pi_ref) of its chosen and its rejected answer.

    ``dpo``: -log sigmoid(beta (r_chosen - r_rejected)), Rafailov et al. 2023, equation 7. Of a reference
    answer and the model's own it is the logistic loss of SPIN (Chen et al. 2024, lambda = beta).

    ``sppo``: (r_chosen - eta (p - 1/2))^2 + (r_rejected - eta (1/2 - p))^2 with the win rate p of the chosen
    answer and eta = 1 / beta (Wu et al. 2024, equation 4.7). It pulls on each answer by itself, where the
    logistic loss pulls on their difference alone.

    Args:
        ratios: [..., pairs, 2].
        beta: above 0.
        win_rates: [pairs], 0 to 1; of no account to ``dpo``.
        loss: which one.

    Returns:
        [..., pairs].
    """
    chosen, rejected = ratios.unbind(-1)
    if loss == "dpo":
        return -F.logsigmoid(beta * (chosen - rejected))
    target = (win_rates - 0.5) / beta
    return (chosen - target).square() + (rejected + target).square()
