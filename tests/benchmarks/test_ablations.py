"""The project's own ablations: their arms are settings that there are."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest

from sparta_lite.ablation.arms import load_arms
from sparta_lite.ablation.grid import new_grid


@pytest.fixture
def ablations(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    return importlib.import_module("ablations")


def test_every_study_can_be_begun_and_compares_what_differs(ablations: Any, tmp_path: Path) -> None:
    for name, study in ablations.STUDIES.items():
        arms = load_arms(None, study.sets, study.arms())
        new_grid(tmp_path / name, arms, 5, True)
        settings = [arm.config.model_dump_json() for arm in arms]
        assert len(set(settings)) == len(arms), name
