"""``trackers`` in the settings: told of a run, or refused before it begins."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from sparta_lite.campaign.config import Config
from sparta_lite.campaign.events import Evaluated, Listener, RunStarted
from sparta_lite.commands.app import app


@pytest.fixture
def began(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Path]:
    """The runs of a campaign that only says that it has begun and what it measured."""
    runs: list[Path] = []

    def run(config: Config, out: Path, resume: bool, listener: Listener) -> None:
        runs.append(out)
        listener(RunStarted(str(out), "pocket", "cpu", ("a",), 1, 1, config.seed, resumed=False))
        listener(Evaluated(0, {"a": 0.5}, 0.25))

    module = types.ModuleType("sparta_lite.campaign.loop")
    module.run = run  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "sparta_lite.campaign.loop", module)
    monkeypatch.chdir(tmp_path)
    return runs


def test_a_run_tells_its_trackers(began: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[dict[str, Any]] = []
    wandb = types.ModuleType("wandb")
    tracked = types.SimpleNamespace(log=told.append, define_metric=lambda *a, **k: None, finish=lambda: None)
    wandb.init = lambda **given: tracked  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wandb", wandb)

    done = CliRunner().invoke(app, ["run", "--set", "trackers=[wandb]", "--json"])

    assert done.exit_code == 0, done.output
    assert [row["accuracy/pocket/a"] for row in told] == [0.5]


def test_what_is_missing_or_unknown_is_refused_before_the_run(
    began: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "trackio", None)
    for trackers, said in [("[trackio]", "trackio is not installed"), ("[mlflow]", "trackers")]:
        refused = CliRunner().invoke(app, ["run", "--set", f"trackers={trackers}"])
        assert refused.exit_code == 2
        assert said in refused.stderr
    assert began == []
