from __future__ import annotations

import builtins
import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from sparta_lite.errors import SpartaError
from sparta_lite.training.choice import Trainer, choose_trainer

CPU, CARD = torch.device("cpu"), torch.device("cuda")


def break_import(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    honest = builtins.__import__

    def refuse(name: str, *rest: Any) -> Any:
        if name == "unsloth":
            raise error
        return honest(name, *rest)

    monkeypatch.delitem(sys.modules, "unsloth", raising=False)
    monkeypatch.setattr(builtins, "__import__", refuse)


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "unsloth", SimpleNamespace(FastLanguageModel=object()))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["tribe", "trl"])
def test_what_is_asked_for_is_taken(name: Any) -> None:
    assert choose_trainer(name, CPU) == (name, "as the settings say")


def test_auto_without_a_gpu_is_tribe_and_imports_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    break_import(monkeypatch, AssertionError("imported"))
    name, reason = choose_trainer("auto", CPU)
    assert name == "tribe"
    assert "GPU" in reason


@pytest.mark.parametrize(
    "error", [ImportError("no"), NotImplementedError("no accelerator"), RuntimeError("another torch")]
)
def test_auto_on_a_gpu_without_unsloth_is_tribe(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    break_import(monkeypatch, error)
    monkeypatch.setattr("sparta_lite.training.choice.find_spec", lambda name: object())
    name, reason = choose_trainer("auto", CARD, "qwen2", torch.bfloat16)
    assert name == "tribe"
    assert "unsloth" in reason


@pytest.mark.usefixtures("installed")
def test_auto_where_both_can_takes_what_it_is_told() -> None:
    both: list[tuple[Trainer, str]] = [("tribe", "3 s and 4 s"), ("unsloth", "4 s and 3 s")]
    for told in both:
        assert choose_trainer("auto", CARD, "qwen2", torch.bfloat16, lambda told=told: told) == told
    assert choose_trainer("unsloth", CARD, "qwen2", torch.bfloat16, lambda: both[0])[0] == "unsloth"
    assert choose_trainer("tribe", CARD, "qwen2", torch.bfloat16, lambda: both[1])[0] == "tribe"


def test_unsloth_is_not_imported_where_tribe_is_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    """Importing it patches transformers, PEFT and TRL."""
    break_import(monkeypatch, AssertionError("imported"))
    monkeypatch.setattr("sparta_lite.training.choice.find_spec", lambda name: object())
    assert choose_trainer("auto", CARD, "qwen2", torch.bfloat16, lambda: ("tribe", "faster"))[0] == "tribe"


@pytest.mark.usefixtures("installed")
def test_auto_on_a_gpu_with_unsloth_is_unsloth() -> None:
    assert choose_trainer("auto", CARD, "qwen2", torch.bfloat16)[0] == "unsloth"
    assert choose_trainer("auto", CARD, "gemma3_text", torch.bfloat16)[0] == "tribe"
    assert choose_trainer("auto", CARD, "qwen2", torch.float16)[0] == "tribe"


@pytest.mark.parametrize(
    ("error", "complaint"),
    [
        (ImportError("no"), "install it"),
        (NotImplementedError("no accelerator"), "torch sees none"),
        (RuntimeError("made for another torch"), r"cannot be imported \(RuntimeError\)"),
    ],
)
def test_unsloth_that_cannot_be_imported_is_refused(
    monkeypatch: pytest.MonkeyPatch, error: Exception, complaint: str
) -> None:
    break_import(monkeypatch, error)
    with pytest.raises(SpartaError, match=complaint):
        choose_trainer("unsloth", CARD, "qwen2")


def test_unsloth_on_a_cpu_is_refused() -> None:
    with pytest.raises(SpartaError, match="needs a GPU"):
        choose_trainer("unsloth", CPU, "qwen2")
