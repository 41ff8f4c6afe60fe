"""Our DPO against TRL's DPOTrainer, really run on a PeftModel of each adapter."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset  # type: ignore[import-untyped]
from peft import PeftModel
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_pre_hook
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import DPOConfig, DPOTrainer

from sparta_lite.engine.bank import Bank
from sparta_lite.engine.base import Base
from sparta_lite.randomness import generator
from sparta_lite.training.dpo import train
from sparta_lite.training.packing import TokenizedPair
from sparta_lite.training.phase import DpoSettings, DpoStep

from ..engine.families import ODD, family
from ..engine.kin import make

pytestmark = pytest.mark.interpreted

SEED, ITERATION = 5, 2
LOGGED = {
    "loss": "loss",
    "rewards/margins": "margin",
    "rewards/accuracies": "accuracy",
    "logps/chosen": "chosen_logprob",
    "logps/rejected": "rejected_logprob",
    "grad_norm": "gradient_norm",
    "learning_rate": "learning_rate",
}


@dataclass
class Run:
    """Parameters by module name and side, such as ``layers.0.mlp.up_proj.A``."""

    start: dict[str, Tensor]
    end: dict[str, Tensor]
    gradients: list[dict[str, Tensor]]
    logs: list[dict[str, float]]


def short(name: str) -> str:
    module, side = name.removeprefix("base_model.model.model.").split(".lora_")
    return f"{module}.{side[0]}"


def trl(base_path: Path, adapter: Path, texts: list[dict[str, str]], settings: DpoSettings, out: Path) -> Run:
    model = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(base_path, attn_implementation="eager"),
        adapter,
        is_trainable=True,
    )
    order = list(range(len(texts)))
    generator(SEED, "dpo", ITERATION, 0).shuffle(order)
    loss = "sigmoid" if settings.loss == "dpo" else "sppo_hard"
    weights = {"loss_type": [loss, "sft"], "loss_weights": [1.0, settings.sft_weight]}
    # TRL takes equal passes alone: where ours are uneven it reads the batch in one.
    uneven = settings.batch % settings.micro_batch
    config = DPOConfig(
        str(out),
        beta=settings.beta,
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
        warmup_steps=settings.warmup,
        lr_scheduler_type="cosine",
        num_train_epochs=1,
        per_device_train_batch_size=settings.batch if uneven else settings.micro_batch,
        gradient_accumulation_steps=1 if uneven else settings.batch // settings.micro_batch,
        max_grad_norm=settings.max_grad_norm,
        max_length=512,
        train_sampling_strategy="sequential",
        bf16=False,
        use_cpu=True,
        gradient_checkpointing=False,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        **(weights if settings.sft_weight else {"loss_type": [loss]}),
    )
    gradients: list[dict[str, Tensor]] = []

    class Record(TrainerCallback):  # type: ignore[misc]
        def on_pre_optimizer_step(self, *_: Any, **__: Any) -> None:
            found = {name: tensor.grad for name, tensor in parameters().items()}
            gradients.append({name: grad.clone() for name, grad in found.items() if grad is not None})

    def parameters() -> dict[str, Tensor]:
        return {short(name): tensor for name, tensor in model.named_parameters() if tensor.requires_grad}

    start = {name: tensor.detach().clone() for name, tensor in parameters().items()}
    trainer = DPOTrainer(
        model,
        args=config,
        train_dataset=Dataset.from_list([texts[index] for index in order]),
        processing_class=AutoTokenizer.from_pretrained(base_path),
        callbacks=[Record()],
    )
    trainer.train()
    end = {name: tensor.detach() for name, tensor in parameters().items()}
    return Run(start, end, gradients, [log for log in trainer.state.log_history if "loss" in log])


def recorded(bank: Bank, optimizer: torch.optim.Optimizer) -> Bank:
    """What AdamW is about to apply, as a bank of gradients."""
    gradients = copy.deepcopy(bank)
    leaves = optimizer.param_groups[0]["params"]
    gradients.restore({name: leaf.grad for (name, _), leaf in zip(bank.tensors(), leaves, strict=True)})
    return gradients


def named(bank: Bank, slot: int, parameters: dict[str, Tensor]) -> dict[str, Tensor]:
    sides = {
        f"{module}.{side}": tensor
        for module, a, b in bank.modules(slot)
        for side, tensor in (("A", a), ("B", b))
    }
    return {name: sides[name] for name in parameters}


def distance(one: dict[str, Tensor], other: dict[str, Tensor] | None = None) -> float:
    squares = [(one[name] - other[name] if other else one[name]).square().sum().item() for name in one]
    return math.sqrt(sum(squares))


@pytest.mark.parametrize(
    "settings",
    [
        DpoSettings(learning_rate=1e-3, warmup=0.4, batch=4, micro_batch=2, max_grad_norm=1.0),
        DpoSettings(learning_rate=1e-3, warmup=0, batch=4, micro_batch=4, sft_weight=0.5, beta=0.3),
        DpoSettings(learning_rate=1e-3, warmup=0, batch=5, micro_batch=3, sft_weight=0.5),
        DpoSettings(loss="sppo", learning_rate=1e-3, warmup=0.4, batch=4, micro_batch=2, beta=0.3),
    ],
    ids=["accumulated", "with-sft", "uneven", "sppo-of-certain-wins"],
)
def test_an_epoch_equals_trl(
    settings: DpoSettings,
    base: Base,
    bank: Bank,
    base_path: Path,
    adapter_paths: dict[str, Path],
    texts: list[dict[str, str]],
    pairs: list[TokenizedPair],
    tmp_path: Path,
) -> None:
    theirs = {name: trl(base_path, adapter_paths[name], texts, settings, tmp_path) for name in ("ada", "ben")}
    steps: list[DpoStep] = []
    gradients: list[Bank] = []
    hook = register_optimizer_step_pre_hook(lambda optimizer, *_: gradients.append(recorded(bank, optimizer)))
    train(base.decoder, bank, pairs, settings, seed=SEED, iteration=ITERATION, pad=0, on_step=steps.append)
    hook.remove()

    assert [bank.adapters[bank.slot(name)].rank for name in theirs] == [8, 4]
    for name, run in theirs.items():
        slot = bank.slot(name)
        mine = [step for step in steps if step.adapter == name]
        assert len(mine) == len(run.logs) == len(gradients) == len(run.gradients) == 3
        for step, log in zip(mine, run.logs, strict=True):
            for key, field in LOGGED.items():
                assert getattr(step, field) == pytest.approx(float(log[key]), rel=1e-5, abs=1e-5), key
        for gradient, expected in zip(gradients, run.gradients, strict=True):
            assert expected.keys() == run.start.keys()
            apart = distance(named(gradient, slot, expected), expected)
            assert apart < 1e-5 * distance(expected)
        apart = distance(named(bank, slot, run.end), run.end)
        assert apart < 1e-4 * distance(run.start, run.end)


@pytest.mark.parametrize("name", ["qwen3, windows of 3", "gemma2", "gemma3_text"])
def test_an_epoch_equals_trl_behind_windows(
    name: str, base_path: Path, texts: list[dict[str, str]], pairs: list[TokenizedPair], tmp_path: Path
) -> None:
    """All prompts are longer than the windows, and the answers of a pair share one."""
    kind, changes = ODD.get(name, (name, {}))
    kin = make(family(kind, **changes), tmp_path / "base", base_path)
    settings = DpoSettings(learning_rate=1e-3, warmup=0, batch=6, micro_batch=2, max_grad_norm=1.0)
    run = trl(tmp_path / "base", tmp_path / "base" / "adapters" / "eight", texts, settings, tmp_path / "out")
    steps: list[DpoStep] = []
    gradients: list[Bank] = []
    bank, slot = kin.bank, kin.bank.slot("eight")
    hook = register_optimizer_step_pre_hook(lambda optimizer, *_: gradients.append(recorded(bank, optimizer)))
    train(
        kin.base.decoder,
        bank,
        pairs,
        settings,
        seed=SEED,
        iteration=ITERATION,
        pad=0,
        on_step=steps.append,
    )
    hook.remove()
    mine = [step for step in steps if step.adapter == "eight"]
    assert len(mine) == len(run.logs) == len(gradients) == len(run.gradients) == 2
    for step, log in zip(mine, run.logs, strict=True):
        for key, field in LOGGED.items():
            assert getattr(step, field) == pytest.approx(float(log[key]), rel=1e-4, abs=1e-4), key
    first, expected = gradients[0], run.gradients[0]
    assert distance(named(first, slot, expected), expected) < 1e-4 * distance(expected)
    # AdamW makes of a slope near zero a whole step, whose sign a rounding decides.
    assert distance(named(bank, slot, run.end), run.end) < 1e-2 * distance(run.start, run.end)
