from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import Tensor
from transformers import AutoModelForCausalLM, get_cosine_schedule_with_warmup

from sparta_lite.engine.bank import Bank
from sparta_lite.engine.base import Base
from sparta_lite.errors import SpartaError
from sparta_lite.training.likelihood import completion_logprobs
from sparta_lite.training.packing import TokenizedAnswer, TokenizedPair, pack
from sparta_lite.training.sft import SftSettings, SftStep, fine_tune

SETTINGS = SftSettings(learning_rate=3e-3, steps=4, batch=3, weight_decay=0.01, warmup=0.25)


@pytest.fixture
def answers(pairs: list[TokenizedPair]) -> dict[str, list[TokenizedAnswer]]:
    """Three answers for each adapter, none shared."""
    every = [TokenizedAnswer(pair.prompt, pair.chosen) for pair in pairs]
    return {"ada": every[:3], "ben": every[3:6], "cyd": every[6:9]}


def plain_loop(base_path: Path, adapter: Path, rows: list[TokenizedAnswer]) -> tuple[Any, list[float]]:
    """PEFT, torch's AdamW and clipping, transformers' schedule; every row by itself."""
    model = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(base_path), adapter, is_trainable=True
    ).eval()
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=SETTINGS.learning_rate, weight_decay=SETTINGS.weight_decay)
    scheduler = get_cosine_schedule_with_warmup(optimizer, 1, SETTINGS.steps)
    losses = []
    for _ in range(SETTINGS.steps):
        total = torch.zeros(())
        for row in rows:
            logits = model(torch.tensor([row.prompt + row.answer])).logits[0, len(row.prompt) - 1 : -1]
            total = total + torch.nn.functional.cross_entropy(
                logits, torch.tensor(row.answer), reduction="sum"
            )
        loss = total / sum(len(row.answer) for row in rows)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, SETTINGS.max_grad_norm)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return model, losses


def test_each_adapter_learns_what_it_would_learn_alone_in_peft(
    base: Base,
    bank: Bank,
    base_path: Path,
    adapter_paths: dict[str, Path],
    answers: dict[str, list[TokenizedAnswer]],
) -> None:
    start = bank.snapshot()
    steps: list[SftStep] = []
    moved = fine_tune(base.decoder, bank, answers, SETTINGS, seed=1, pad=0, on_step=steps.append)
    for slot, adapter in enumerate(bank.adapters):
        model, losses = plain_loop(base_path, adapter_paths[adapter.name], answers[adapter.name])
        own = [step.loss for step in steps if step.adapter == adapter.name]
        assert own == pytest.approx(losses, rel=1e-5)
        apart = 0.0
        for module, a, b in bank.modules(slot):
            if module.split(".", 2)[2] in adapter.targets and hasattr(
                linear := model.get_submodule(f"base_model.model.model.{module}"), "lora_A"
            ):
                apart += (linear.lora_A["default"].weight - a).square().sum().item()
                apart += (linear.lora_B["default"].weight - b).square().sum().item()
        assert moved[adapter.name] > 0
        assert apart**0.5 < 1e-4 * moved[adapter.name]
    assert any(not torch.equal(start[name], tensor) for name, tensor in bank.tensors())


def test_all_answers_are_used_before_any_comes_again(
    base: Base, bank: Bank, answers: dict[str, list[TokenizedAnswer]], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []

    def watched(rows: Any, pad: int) -> Any:
        seen.append([answer for _, (answer,) in rows])
        return pack(rows, pad)

    monkeypatch.setattr("sparta_lite.training.sft.pack", watched)
    settings = SftSettings(learning_rate=1e-3, steps=6, batch=1)
    fine_tune(base.decoder, bank, answers, settings, seed=1, pad=0, on_step=lambda _: None)
    for slot, name in enumerate(("ada", "ben", "cyd")):
        own = [step[slot] for step in seen]
        expected = sorted(row.answer for row in answers[name])
        assert sorted(own[:3]) == sorted(own[3:]) == expected


def test_an_adapter_without_answers_is_named(
    base: Base, bank: Bank, answers: dict[str, list[TokenizedAnswer]]
) -> None:
    with pytest.raises(SpartaError, match="adapter 'ben' has no answers"):
        fine_tune(base.decoder, bank, {**answers, "ben": []}, SETTINGS, seed=1, pad=0, on_step=lambda _: None)


def test_a_nan_names_adapter_and_step_and_keeps_the_last_complete_update(
    base: Base, bank: Bank, answers: dict[str, list[TokenizedAnswer]], monkeypatch: pytest.MonkeyPatch
) -> None:
    good: list[dict[str, Tensor]] = []

    def wrong(*arguments: Any) -> Tensor:
        result = completion_logprobs(*arguments)  # [1, rows, 1, longest]
        poison = torch.zeros(result.shape[1])
        poison[3] = float("nan") if len(good) == 3 else 0
        return result + poison[:, None, None]

    monkeypatch.setattr("sparta_lite.training.sft.completion_logprobs", wrong)
    with pytest.raises(SpartaError, match="adapter 'ben', step 1: its loss is NaN"):
        fine_tune(
            base.decoder,
            bank,
            answers,
            SETTINGS,
            seed=1,
            pad=0,
            on_step=lambda _: good.append(bank.snapshot()),
        )
    assert all(torch.equal(good[-1][name], tensor) for name, tensor in bank.tensors())
