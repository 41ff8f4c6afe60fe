from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import TrainingArguments, get_cosine_schedule_with_warmup

from sparta_lite.training.optim import cosine, rise

SHARES = [0.0, 0.03, 0.1, 0.35, 0.5, 0.99, 1.0]


@given(st.integers(3, 60), st.sampled_from(SHARES[:-1]))
def test_the_schedule_is_transformers_cosine_with_warm_up(steps: int, warmup: float) -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    rising = TrainingArguments(warmup_steps=warmup, use_cpu=True).get_warmup_steps(steps)
    scheduler = get_cosine_schedule_with_warmup(optimizer, rising, steps)
    for step in range(steps):
        assert cosine(step, steps, warmup) == pytest.approx(scheduler.get_last_lr()[0], abs=1e-12)
        optimizer.step()
        scheduler.step()


@pytest.mark.parametrize("warmup", SHARES)
def test_of_few_steps_the_warm_up_takes_less_than_half_unless_it_is_asked_to(warmup: float) -> None:
    """There transformers' rounding up would leave half of them at rate 0, or all."""
    assert [cosine(0, 1, warmup)] == [1.0]
    asked = 1 if warmup == 0.5 else 2 if warmup > 0.5 else 0
    assert rise(2, warmup) == asked
    assert [cosine(step, 2, warmup) > 0 for step in range(2)] == [asked == 0, True]


@given(st.integers(1, 200), st.floats(0, 1))
def test_some_step_is_learned_from_and_at_most_the_first_stands_still(steps: int, warmup: float) -> None:
    rates = [cosine(step, steps, warmup) for step in range(steps)]
    assert max(rates) > 0
    assert all(rate > 0 for rate in rates[1:])
