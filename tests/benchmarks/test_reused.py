"""What ``reused.py`` compares: terms as a run leaves them beside those that training computes."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
import torch

from sparta_lite.engine.base import load_base
from sparta_lite.training.phase import DpoSettings

CPU = torch.device("cpu")
QUESTIONS = ["What is 2 + 2?", "Name a colour.", "How many legs has a cat?", "Say yes."]
SETTINGS = DpoSettings(learning_rate=1e-4, batch=2, micro_batch=2, warmup=0.0, max_length=1024)


@pytest.fixture(autouse=True)
def benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")


def test_in_fp32_nothing_is_apart_and_in_bf16_something_is(base_path: Path) -> None:
    reused = importlib.import_module("reused")
    exact, half = (load_base(base_path, CPU, dtype) for dtype in (torch.float32, torch.bfloat16))
    same = reused.measure(exact, exact, QUESTIONS, SETTINGS, 6, 0.05)
    rounded = reused.measure(exact, half, QUESTIONS, SETTINGS, 6, 0.05)
    # Each fighter's own answer, and both under each of the two judges, unless these read other tokens.
    assert 2 / 8 < same["known"] <= 6 / 8
    for each in same["terms"].values():
        assert each["rms"] < 1e-4
    for found in same["gradient"].values():
        assert found["reused against fresh"]["relative"] < 1e-4
        assert found["loss"]["reused"] == pytest.approx(found["loss"]["fp32"], abs=1e-5)
    assert same["step"]["reused against fresh"]["cosine"] > 0.9999
    assert same["gradient"]["start"]["loss"]["fresh"] == pytest.approx(0.693147, abs=1e-5)
    assert rounded["terms"]["left less fresh"]["rms"] > 1e-3
    assert rounded["gradient"]["start"]["reused against fresh"]["relative"] > 1e-5
    assert rounded["gradient"]["start"]["reused against fresh"]["cosine"] > 0.99


def test_distance_and_cosine_are_means_over_adapters() -> None:
    apart = importlib.import_module("reused").apart
    one = {"x": torch.tensor([[[3.0]], [[1.0]]]), "y": torch.tensor([[[4.0]], [[0.0]]])}
    other = {"x": torch.tensor([[[3.0]], [[0.0]]]), "y": torch.tensor([[[0.0]], [[1.0]]])}
    found = apart(one, other)
    assert found["relative"] == pytest.approx((4 / 3 + 2**0.5) / 2)
    assert found["cosine"] == pytest.approx((3 / 5 + 0) / 2)
