from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from sparta_lite.engine.bank import Bank
from sparta_lite.engine.base import Base
from sparta_lite.errors import SpartaError
from sparta_lite.training.dpo import backward, train
from sparta_lite.training.likelihood import completion_logprobs
from sparta_lite.training.optim import trainable
from sparta_lite.training.packing import TokenizedPair
from sparta_lite.training.phase import DpoResult, DpoSettings, DpoState, DpoStep, read_state

SETTINGS = DpoSettings(learning_rate=1e-3, batch=4, micro_batch=2)


def run(base: Base, bank: Bank, pairs: list[TokenizedPair], settings: DpoSettings, **more: Any) -> DpoResult:
    more.setdefault("on_step", lambda _: None)
    return train(base.decoder, bank, pairs, settings, seed=1, iteration=0, pad=0, **more)


def gradients(base: Base, bank: Bank, pairs: list[TokenizedPair], settings: DpoSettings) -> dict[str, Tensor]:
    leaves = trainable(bank)
    reference = torch.linspace(-60, -20, 3 * len(pairs) * 2).view(3, len(pairs), 2)
    backward(base.decoder, leaves, pairs, reference, settings, pad=0)
    return {name: tensor.grad for name, tensor in leaves.tensors() if tensor.grad is not None}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("micro_batch", [1, 2, 3])
def test_accumulation_does_not_change_gradients(
    base: Base, bank: Bank, pairs: list[TokenizedPair], micro_batch: int
) -> None:
    settings = DpoSettings(micro_batch=5, sft_weight=0.7)
    whole = gradients(base, bank, pairs[:5], settings)
    parts = gradients(base, bank, pairs[:5], replace(settings, micro_batch=micro_batch))
    assert whole.keys() == dict(bank.tensors()).keys()
    for name in whole:
        torch.testing.assert_close(parts[name], whole[name], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("at_once", [1, 2])
def test_an_adapter_learns_the_same_whoever_trains_beside_it(
    base: Base, bank: Bank, pairs: list[TokenizedPair], at_once: int
) -> None:
    start = bank.snapshot()
    run(base, bank, pairs, SETTINGS)
    together = bank.snapshot()
    bank.restore(start)
    run(base, bank, pairs, replace(SETTINGS, adapters_at_once=at_once))
    for name, tensor in bank.tensors():
        moved = (together[name] - start[name]).norm()
        assert (tensor - together[name]).norm() <= 1e-4 * moved


def test_training_stays_inside_each_adapters_own_shape(
    base: Base, bank: Bank, pairs: list[TokenizedPair]
) -> None:
    zeros = {name: tensor == 0 for name, tensor in bank.tensors()}
    assert any(mask.any() for mask in zeros.values())
    run(base, bank, pairs, SETTINGS)
    for name, tensor in bank.tensors():
        assert not tensor[zeros[name]].any()
        assert not tensor.requires_grad


def test_an_epoch_widens_the_margin_and_reports_the_distance(
    base: Base, bank: Bank, pairs: list[TokenizedPair]
) -> None:
    start = bank.snapshot()
    steps: list[DpoStep] = []
    result = run(base, bank, pairs, replace(SETTINGS, learning_rate=3e-3, epochs=4), on_step=steps.append)
    for slot, adapter in enumerate(bank.adapters):
        own = [step for step in steps if step.adapter == adapter.name]
        assert [step.step for step in own] == list(range(12))
        assert own[0].margin == own[0].accuracy == own[0].learning_rate == 0
        assert own[-1].margin > 0
        assert own[-1].loss < own[0].loss
        squares = sum(
            (tensor[slot].double() - start[name][slot].double()).square().sum()
            for name, tensor in bank.tensors()
        )
        assert result.moved[adapter.name] == pytest.approx(float(squares) ** 0.5, rel=1e-5)


def test_lengths_are_those_of_the_batch(base: Base, bank: Bank, pairs: list[TokenizedPair]) -> None:
    steps: list[DpoStep] = []
    run(base, bank, pairs, replace(SETTINGS, batch=12), on_step=steps.append)
    assert steps[0].chosen_length == pytest.approx(sum(len(pair.chosen) for pair in pairs) / 12)
    assert steps[0].rejected_length == pytest.approx(sum(len(pair.rejected) for pair in pairs) / 12)


def test_bf16_computes_coarsely_but_trains_the_same_fp32_adapters(
    base: Base, bank: Bank, pairs: list[TokenizedPair]
) -> None:
    start = bank.snapshot()
    exact: list[DpoStep] = []
    coarse: list[DpoStep] = []
    run(base, bank, pairs, SETTINGS, on_step=exact.append)
    bank.restore(start)
    result = run(base, bank, pairs, replace(SETTINGS, dtype="bf16"), on_step=coarse.append)
    assert all(tensor.dtype == torch.float32 for _, tensor in bank.tensors())
    assert all(far > 0 for far in result.moved.values())
    for one, other in zip(exact, coarse, strict=True):
        assert other.chosen_logprob == pytest.approx(one.chosen_logprob, rel=0.02)
    assert [step.chosen_logprob for step in exact] != [step.chosen_logprob for step in coarse]


def test_no_pairs_change_nothing(base: Base, bank: Bank) -> None:
    start = bank.snapshot()
    result = run(base, bank, [], SETTINGS)
    assert set(result.moved.values()) == {0.0}
    assert same(bank.snapshot(), start)


@pytest.mark.parametrize("at_once", [None, 2])
def test_a_resumed_phase_ends_byte_for_byte_as_one_that_never_stopped(
    base: Base, bank: Bank, pairs: list[TokenizedPair], tmp_path: Path, at_once: int | None
) -> None:
    settings = replace(SETTINGS, batch=5, adapters_at_once=at_once, sft_weight=0.2)
    start = bank.snapshot()
    saved: list[Path] = []

    def save(state: DpoState) -> None:
        saved.append(tmp_path / f"{state.done}.safetensors")
        save_file(state.tensors(), saved[-1])

    steps: list[DpoStep] = []
    result = run(base, bank, pairs, settings, on_step=steps.append, save=save, save_every=1)
    end = bank.snapshot()
    assert len(saved) == 1 + 3 * (1 if at_once is None else 2)
    for path in saved:
        bank.restore(start)
        state = read_state(load_file(path))
        again: list[DpoStep] = []
        assert run(base, bank, pairs, settings, on_step=again.append, resume=state) == result
        assert same(bank.snapshot(), end)
        assert again == steps[len(steps) - len(again) :]
    assert again == []


def test_a_state_of_other_pairs_is_refused(base: Base, bank: Bank, pairs: list[TokenizedPair]) -> None:
    states: list[DpoState] = []
    run(base, bank, pairs, SETTINGS, save=states.append)
    with pytest.raises(SpartaError, match="other adapters or pairs"):
        run(base, bank, pairs[:-1], SETTINGS, resume=states[0])


def poison(
    monkeypatch: pytest.MonkeyPatch, slot: int, passes: set[int], change: Callable[[Tensor], Tensor]
) -> None:
    """Let some forward passes, counted from 1, go wrong for one adapter."""
    calls = 0

    def wrong(*arguments: Any) -> Tensor:
        nonlocal calls
        calls += 1
        result = completion_logprobs(*arguments)
        if calls in passes:
            result = torch.cat([result[:slot], change(result[slot : slot + 1]), result[slot + 1 :]])
        return result

    monkeypatch.setattr("sparta_lite.training.dpo.completion_logprobs", wrong)


def infinite_slope(x: Tensor) -> Tensor:
    """x + 0 with an infinite derivative."""
    return x + (x - x.detach()).abs().sqrt()


@pytest.mark.parametrize(
    ("change", "complaint"),
    [(lambda x: x * float("nan"), "its loss is NaN"), (infinite_slope, "its gradient is NaN")],
    ids=["loss", "gradient"],
)
def test_a_nan_stops_at_the_last_complete_update(
    base: Base,
    bank: Bank,
    pairs: list[TokenizedPair],
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[Tensor], Tensor],
    complaint: str,
) -> None:
    good: list[dict[str, Tensor]] = []
    poison(monkeypatch, slot=1, passes={6 + 5}, change=change)  # six for the reference, two per update
    with pytest.raises(SpartaError, match=f"adapter 'ben', step 2: {complaint}"):
        run(base, bank, pairs, SETTINGS, on_step=lambda _: good.append(bank.snapshot()))
    assert len(good) == 2 * 3
    assert same(bank.snapshot(), good[-1])


def test_a_nan_before_the_first_update_names_the_adapter(
    base: Base, bank: Bank, pairs: list[TokenizedPair], monkeypatch: pytest.MonkeyPatch
) -> None:
    poison(monkeypatch, slot=2, passes={1}, change=lambda x: x * float("nan"))
    with pytest.raises(SpartaError, match="adapter 'cyd', before step 0"):
        run(base, bank, pairs, SETTINGS)


def test_weights_that_explode_are_put_back(base: Base, bank: Bank, pairs: list[TokenizedPair]) -> None:
    start = bank.snapshot()
    with pytest.raises(SpartaError, match="adapter 'ada', step 0: its weights became infinite"):
        run(base, bank, pairs, replace(SETTINGS, learning_rate=1e30, warmup=0))
    assert same(bank.snapshot(), start)


def test_weights_that_do_not_move_stop_the_run(
    base: Base, bank: Bank, pairs: list[TokenizedPair], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda _: None)
    with pytest.raises(SpartaError, match="adapter 'ada', step 1: its weights did not move"):
        run(base, bank, pairs, SETTINGS)


def test_one_adapter_that_does_not_move_is_named(
    base: Base, bank: Bank, pairs: list[TokenizedPair], monkeypatch: pytest.MonkeyPatch
) -> None:
    start = bank.snapshot()
    settings = replace(SETTINGS, warmup=0, weight_decay=0)
    poison(monkeypatch, slot=2, passes={7, 8}, change=lambda x: x.detach())
    with pytest.raises(SpartaError, match="adapter 'cyd', step 0: its weights did not move"):
        run(base, bank, pairs, settings)
    assert same(bank.snapshot(), start)


def test_the_order_of_pairs_depends_on_seed_and_iteration_alone(
    base: Base, bank: Bank, pairs: list[TokenizedPair]
) -> None:
    start = bank.snapshot()

    def lengths(seed: int, iteration: int) -> list[float]:
        bank.restore(start)
        torch.seed()
        steps: list[DpoStep] = []
        settings = replace(SETTINGS, batch=1, micro_batch=1)
        train(
            base.decoder, bank, pairs, settings, seed=seed, iteration=iteration, pad=0, on_step=steps.append
        )
        by_adapter = [
            [step.chosen_length for step in steps if step.adapter == name] for name in ("ada", "ben")
        ]
        assert by_adapter[0] == by_adapter[1]
        assert sorted(by_adapter[0]) == sorted(len(pair.chosen) for pair in pairs)
        return by_adapter[0]

    assert lengths(1, 0) == lengths(1, 0)
    assert lengths(1, 0) != lengths(1, 1)
    assert lengths(1, 0) != lengths(2, 0)
