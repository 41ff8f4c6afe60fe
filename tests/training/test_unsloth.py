"""Unsloth's part without Unsloth, which needs a GPU: a stand-in that does what its two calls promise."""

from __future__ import annotations

import copy
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from sparta_lite.engine.bank import Bank
from sparta_lite.engine.base import Base, Request, load_base
from sparta_lite.errors import SpartaError
from sparta_lite.training.dpo import train
from sparta_lite.training.packing import TokenizedPair
from sparta_lite.training.phase import DpoSettings, DpoStep
from sparta_lite.training.sequential import train_in_turn
from sparta_lite.training.unsloth import load_model, wrap_with_unsloth
from sparta_lite.training.view import wrap_with_peft

pytestmark = pytest.mark.interpreted

SETTINGS = DpoSettings(learning_rate=1e-3, batch=2, micro_batch=2, warmup=0)
COMMON: dict[str, Any] = {"seed": 1, "iteration": 0, "pad": 0}


class FastLanguageModel:
    """A loader that leaves marks on the model, and a PEFT model that leaves more."""

    asked: dict[str, Any]

    @classmethod
    def from_pretrained(cls, name: str, **asked: Any) -> tuple[Any, Any]:
        cls.asked = asked
        print("==((====))==")
        model = AutoModelForCausalLM.from_pretrained(name, dtype=asked["dtype"])
        return model, AutoTokenizer.from_pretrained(name)

    @staticmethod
    def get_peft_model(
        model: Any,
        *,
        r: int,
        lora_alpha: float,
        use_rslora: bool,
        target_modules: list[str],
        lora_dropout: float,
        bias: str,
        use_gradient_checkpointing: bool | str,
        **others: Any,
    ) -> Any:
        assert all("." not in target for target in target_modules)
        model.config.unsloth_version = "stand-in"
        for layer in model.model.layers:
            layer.self_attn.apply_qkv = None
        view = get_peft_model(
            model,
            LoraConfig(
                task_type="CAUSAL_LM",
                r=r,
                lora_alpha=lora_alpha,  # type: ignore[arg-type]
                use_rslora=use_rslora,
                target_modules=target_modules,
                lora_dropout=lora_dropout,
                bias=bias,  # type: ignore[arg-type]
                **others,  # what it has no argument for goes to PEFT
            ),
        )
        view._unsloth_gradient_checkpointing = use_gradient_checkpointing
        return view


@pytest.fixture(autouse=True)
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "unsloth", SimpleNamespace(FastLanguageModel=FastLanguageModel))  # type: ignore[arg-type]


def learned(base: Base, bank: Bank, pairs: list[TokenizedPair], wrap: Any) -> tuple[Any, list[DpoStep]]:
    steps: list[DpoStep] = []
    common = {"wrap": wrap, "on_step": steps.append, **COMMON}
    return train_in_turn(base.model, base.tokenizer, bank, pairs, SETTINGS, **common), steps


@pytest.mark.parametrize("slot", [1, 2], ids=["one scale", "scales by module"])
def test_it_differs_from_trl_in_the_peft_model_alone(
    base: Base, bank: Bank, pairs: list[TokenizedPair], slot: int
) -> None:
    bank = bank.part(slot, slot + 1)
    assert bool(bank.adapters[0].own) is (slot == 2)
    start = bank.snapshot()
    plain = learned(base, bank, pairs[:2], wrap_with_peft)
    end = bank.snapshot()
    bank.restore(start)
    config = copy.deepcopy(base.model.config.to_dict())
    assert learned(base, bank, pairs[:2], wrap_with_unsloth) == plain
    assert all(torch.equal(tensor, end[name]) for name, tensor in bank.tensors())
    assert base.model.config.to_dict() == config


def test_a_base_that_it_loads_is_the_base(
    base: Base, base_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cpu = torch.device("cpu")
    through = load_base(base_path, cpu, loader=load_model)
    printed = capsys.readouterr()
    assert "==((" not in printed.out
    assert "==((" in printed.err
    asked = FastLanguageModel.asked
    assert asked["use_exact_model_name"]
    assert asked["load_in_4bit"] is False
    assert asked["device_map"] == {"": cpu}
    assert asked["max_seq_length"] is None
    assert asked["use_safetensors"]
    ids, positions = torch.arange(3, 20)[None], torch.arange(17)[None]
    from sparta_lite.engine.sequences import WholeSequences

    one, other = (
        each.decoder.hidden(ids, positions, WholeSequences(each.decoder.mixers), None)
        for each in (through, base)
    )
    assert torch.equal(one, other)


def test_positions_that_it_would_stretch_are_refused(
    base_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = FastLanguageModel.from_pretrained

    def linear(name: str, **asked: Any) -> tuple[Any, Any]:
        model, tokenizer = honest(name, **asked)
        model.config.rope_parameters = {"rope_type": "linear", "factor": 2.0}
        return model, tokenizer

    monkeypatch.setattr(FastLanguageModel, "from_pretrained", linear)
    request = Request(base_path, torch.device("cpu"), torch.float32, False, False)
    with pytest.raises(SpartaError, match=r"'linear'.*set training.trainer to tribe"):
        load_model(request)


def test_windows_that_its_layers_do_not_have_are_refused(
    base_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = FastLanguageModel.from_pretrained

    def narrow(name: str, **asked: Any) -> tuple[Any, Any]:
        model, tokenizer = honest(name, **asked)
        model.config.sliding_window, model.config.layer_types = 8, ["full_attention", "sliding_attention"]
        return model, tokenizer

    monkeypatch.setattr(FastLanguageModel, "from_pretrained", narrow)
    with pytest.raises(SpartaError, match=r"windows are lost.*set training.trainer to tribe"):
        load_base(base_path, torch.device("cpu"), loader=load_model)


def test_an_activation_that_its_layers_do_not_have_is_refused(
    base_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = FastLanguageModel.from_pretrained

    def gelu(name: str, **asked: Any) -> tuple[Any, Any]:
        model, tokenizer = honest(name, **asked)
        model.config.hidden_act = "gelu"
        return model, tokenizer

    monkeypatch.setattr(FastLanguageModel, "from_pretrained", gelu)
    with pytest.raises(SpartaError, match=r"activation 'gelu'.*set training.trainer to tribe"):
        load_base(base_path, torch.device("cpu"), loader=load_model)


def test_what_it_cannot_load_is_one_line(tmp_path: Path) -> None:
    request = Request(tmp_path, torch.device("cpu"), torch.float32, False, False)
    with pytest.raises(
        SpartaError, match=r"unsloth cannot load .*; set training.trainer to tribe"
    ) as refused:
        load_model(request)
    assert "\n" not in str(refused.value)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device; torch sees none")
def test_on_a_card_it_learns_as_tribe_does_over_the_same_tensors(
    base_path: Path,
    adapter_paths: dict[str, Path],
    pairs: list[TokenizedPair],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from sparta_lite.engine.peft_io import load_bank, read_adapter

    monkeypatch.undo()
    pytest.importorskip("unsloth", reason="needs unsloth, which cannot be imported")
    base = load_base(base_path, torch.device("cuda"), torch.bfloat16, "nf4", loader=load_model)
    bank = load_bank(base.decoder, [read_adapter(name, adapter_paths[name]) for name in ("ada", "ben")])
    settings = replace(SETTINGS, learning_rate=1e-3, dtype="bf16")
    start = bank.snapshot()
    ours: list[DpoStep] = []
    train(base.decoder, bank, pairs, settings, on_step=ours.append, **COMMON)
    end = bank.snapshot()
    bank.restore(start)

    weights = {name: tensor.data_ptr() for name, tensor in base.model.named_parameters()}
    held = torch.cuda.memory_allocated()
    theirs: list[DpoStep] = []
    common = {"wrap": wrap_with_unsloth, "on_step": theirs.append, **COMMON}
    train_in_turn(base.model, base.tokenizer, bank, pairs, settings, **common)
    size = sum(parameter.nbytes for parameter in base.model.parameters())
    assert torch.cuda.memory_allocated() - held < size / 2  # no second base stays
    assert {name: tensor.data_ptr() for name, tensor in base.model.named_parameters()} == weights

    # bf16 products, rounded at other places: log-probabilities of a sequence differ by tenths, and so do
    # the losses by hundredths. A wrong reference, order or scale would differ by more.
    for step in theirs:
        (one,) = [each for each in ours if (each.adapter, each.step) == (step.adapter, step.step)]
        assert step.loss == pytest.approx(one.loss, abs=0.05)
        assert step.learning_rate == pytest.approx(one.learning_rate)

    def flat(tensors: dict[str, Tensor]) -> Tensor:
        return torch.cat([(tensors[name] - start[name]).flatten() for name in start])

    agreement = torch.cosine_similarity(flat(bank.snapshot()), flat(end), dim=0)
    assert agreement > 0.8
