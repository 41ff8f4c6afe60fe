from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import TrainingArguments, get_cosine_schedule_with_warmup

from sparta_lite.training.optim import cosine


@given(st.integers(1, 60), st.sampled_from([0.0, 0.03, 0.1, 0.35, 0.99]))
def test_the_schedule_is_transformers_cosine_with_warm_up(steps: int, warmup: float) -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    rise = TrainingArguments(warmup_steps=warmup, use_cpu=True).get_warmup_steps(steps)
    scheduler = get_cosine_schedule_with_warmup(optimizer, rise, steps)
    for step in range(steps):
        assert cosine(step, steps, warmup) == pytest.approx(scheduler.get_last_lr()[0], abs=1e-12)
        optimizer.step()
        scheduler.step()
