"""Reference terms that are known already: used where they hold, and nowhere else."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from sparta_lite.engine.bank import Bank
from sparta_lite.engine.base import Base
from sparta_lite.engine.likelihood import Continuation, log_probabilities
from sparta_lite.errors import SpartaError
from sparta_lite.training.dpo import train
from sparta_lite.training.packing import TokenizedPair
from sparta_lite.training.phase import DpoSettings, DpoState, DpoStep
from sparta_lite.training.sequential import train_in_turn
from sparta_lite.training.view import wrap_with_peft

SETTINGS = DpoSettings(learning_rate=1e-3, batch=4, micro_batch=2, warmup=0.0)
COMMON: dict[str, Any] = {"seed": 1, "iteration": 0, "pad": 0}


@pytest.fixture
def reference(base: Base, bank: Bank, pairs: list[TokenizedPair]) -> Tensor:
    """From passes of one sequence each."""
    rows = [
        Continuation(adapter.name, pair.prompt, completion)
        for adapter in bank.adapters
        for pair in pairs
        for completion in pair.completions
    ]
    sums = [each.sum() for each in log_probabilities(base, bank, rows, 1)]
    return torch.stack(sums).view(len(bank.adapters), len(pairs), 2)


def trained(
    base: Base, bank: Bank, pairs: list[TokenizedPair], settings: DpoSettings = SETTINGS, **more: Any
) -> tuple[dict[str, Tensor], list[DpoStep], Tensor]:
    """What the bank ends with, the steps, and the reference that was used; the bank is put back."""
    start, steps, states = bank.snapshot(), list[DpoStep](), list[DpoState]()
    train(base.decoder, bank, pairs, settings, on_step=steps.append, save=states.append, **COMMON, **more)
    end = bank.snapshot()
    bank.restore(start)
    return end, steps, states[0].reference


def distance(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    return float(torch.stack([(one[name] - other[name]).norm() for name in one]).norm())


@pytest.mark.parametrize("lacking", ["nothing", "one side", "a few", "one adapter", "all but one"])
def test_the_result_is_that_of_a_fresh_pass(
    base: Base, bank: Bank, pairs: list[TokenizedPair], reference: Tensor, lacking: str
) -> None:
    known = reference.clone()
    if lacking == "one side":
        known[1, ::3, 0] = torch.nan
    elif lacking == "a few":
        known[torch.rand(known.shape, generator=torch.Generator().manual_seed(0)) < 0.4] = torch.nan
    elif lacking == "one adapter":
        known[2] = torch.nan
    elif lacking == "all but one":
        known[:] = torch.nan
        known[0, 3, 1] = reference[0, 3, 1]
    start = bank.snapshot()
    fresh, _, used_fresh = trained(base, bank, pairs)
    end, _, used = trained(base, bank, pairs, known=known)
    torch.testing.assert_close(used, used_fresh, atol=1e-5, rtol=0)
    torch.testing.assert_close(used, reference, atol=1e-5, rtol=0)
    assert distance(end, fresh) < 1e-4 * distance(start, fresh)


def test_what_is_known_is_not_computed(
    base: Base, bank: Bank, pairs: list[TokenizedPair], reference: Tensor
) -> None:
    _, steps, used = trained(base, bank, pairs, known=reference + 7.0)
    assert torch.equal(used, reference + 7.0)
    assert steps[0].margin == pytest.approx(0.0, abs=1e-5)  # both terms are off alike
    shifted = reference.clone()
    shifted[..., 0] -= 2.0
    _, steps, _ = trained(base, bank, pairs, known=shifted)
    assert [step.margin for step in steps[:3]] == pytest.approx([SETTINGS.beta * 2.0] * 3, abs=1e-5)


def test_terms_of_pairs_that_are_cut_are_taken_anew(
    base: Base, bank: Bank, pairs: list[TokenizedPair], reference: Tensor
) -> None:
    longest = max(len(pair.prompt) + max(map(len, pair.completions)) for pair in pairs)
    settings = replace(SETTINGS, max_length=longest - 2, max_prompt=longest - 4)
    _, _, fresh = trained(base, bank, pairs, settings)
    _, _, used = trained(base, bank, pairs, settings, known=reference)
    cut = ~torch.isclose(fresh, reference, atol=1e-3, rtol=0).all(-1).all(0)
    assert 0 < cut.sum() < len(pairs)
    torch.testing.assert_close(used, fresh, atol=1e-5, rtol=0)


def test_nothing_known_and_nothing_to_learn_are_no_trouble(
    base: Base, bank: Bank, pairs: list[TokenizedPair], reference: Tensor
) -> None:
    short = replace(SETTINGS, max_length=8, max_prompt=4)
    _, _, fresh = trained(base, bank, pairs, short)
    _, _, used = trained(base, bank, pairs, short, known=reference)  # every pair is cut
    assert torch.equal(used, fresh)
    _, steps, _ = trained(base, bank, [], known=reference[:, :0])
    assert not steps


def test_a_nan_that_is_computed_still_stops_the_phase(
    base: Base, bank: Bank, pairs: list[TokenizedPair], reference: Tensor
) -> None:
    for _, tensor in bank.part(1, 2).tensors():
        tensor.fill_(torch.nan)
    known = reference.clone()
    known[1, 0, 0] = torch.nan
    with pytest.raises(SpartaError, match="adapter 'ben', before step 0"):
        trained(base, bank, pairs, known=known)


def test_trl_takes_known_terms_and_computes_the_others(
    base: Base, bank: Bank, pairs: list[TokenizedPair], reference: Tensor
) -> None:
    bank, pairs = bank.part(1, 2), pairs[:6]
    start = bank.snapshot()
    ours, _, _ = trained(base, bank, pairs)
    known = reference[1:2, :6].clone()
    known[0, 2, 1] = known[0, 4] = torch.nan
    steps: list[DpoStep] = []

    def in_turn(known: Tensor) -> dict[str, Tensor]:
        bank.restore(start)
        steps.clear()
        train_in_turn(
            base.model,
            base.tokenizer,
            bank,
            pairs,
            SETTINGS,
            wrap=wrap_with_peft,
            on_step=steps.append,
            known=known,
            **COMMON,
        )
        return bank.snapshot()

    assert distance(in_turn(known), ours) < 1e-4 * distance(start, ours)
    shifted = reference[1:2, :6] - torch.tensor([2.0, 0.0])
    in_turn(shifted)
    assert steps[0].margin == pytest.approx(SETTINGS.beta * 2.0, abs=1e-5)
