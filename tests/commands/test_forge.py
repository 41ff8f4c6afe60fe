"""``sparta-lite forge``: what it hands to the forges, and what it leaves alone."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sparta_lite.campaign.forging import ForgePlan
from sparta_lite.commands.app import app
from sparta_lite.data.conversations import Columns
from sparta_lite.training.sft import SftSettings


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[Path, int]]:
    monkeypatch.chdir(tmp_path)
    seen: list[tuple[Path, int]] = []

    def build(out: Path, seed: int, say: Callable[[str], None]) -> None:
        seen.append((out, seed))
        say("forged")

    module = types.ModuleType("sparta_lite.pocket.forge")
    module.forge = build  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "sparta_lite.pocket.forge", module)
    return seen


def test_place_and_seed_reach_the_forge(calls: list[tuple[Path, int]]) -> None:
    result = CliRunner().invoke(app, ["forge", "pocket", "--out", "tribe", "--seed", "4"])
    assert (result.exit_code, result.stdout) == (0, "forged\n")
    assert calls == [(Path("tribe"), 4)]


def test_nothing_that_exists_is_replaced(calls: list[tuple[Path, int]], tmp_path: Path) -> None:
    (tmp_path / "tribe").mkdir()
    result = CliRunner().invoke(app, ["forge", "pocket", "--out", "tribe"])
    assert (result.exit_code, result.stderr) == (
        2,
        "error: tribe: exists already; give --out a directory that does not\n",
    )
    assert calls == []


@pytest.fixture
def plans(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[ForgePlan, Path]]:
    monkeypatch.chdir(tmp_path)
    seen: list[tuple[ForgePlan, Path]] = []

    def forge_tribe(plan: ForgePlan, out: Path, say: Callable[[str], None]) -> None:
        seen.append((plan, out))
        say("forged")

    monkeypatch.setattr("sparta_lite.campaign.forging.forge_tribe", forge_tribe)
    return seen


def test_base_data_and_column_are_enough(plans: list[tuple[ForgePlan, Path]], tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "rows.jsonl").touch()
    result = CliRunner().invoke(app, ["forge", "--base", "B", "--data", "x/rows.jsonl", "--by", "kind"])
    assert (result.exit_code, result.stdout) == (0, "forged\n")
    plan = ForgePlan("B", "x/rows.jsonl", "kind", Columns(), None, None, "nf4", 0, SftSettings())
    assert plans == [(plan, Path("forged/rows"))]


def test_every_option_reaches_the_forge(plans: list[tuple[ForgePlan, Path]], tmp_path: Path) -> None:
    (tmp_path / "D").touch()
    order = (
        "forge --base B --data D --by kind --template {a}:{b} --response c --split train --rows 9 --out O "
        "--rank 4 --alpha 8 --epochs 3 --lr 1e-3 --batch 2 --micro-batch 4 --max-length 99 "
        "--quantization none --seed 5"
    )
    assert CliRunner().invoke(app, order.split()).exit_code == 0
    settings = SftSettings(4, 8.0, 3, 1e-3, SftSettings.warmup, 2, 2, 99)
    plan = ForgePlan("B", "D", "kind", Columns("{a}:{b}", "c"), "train", 9, "none", 5, settings)
    assert plans == [(plan, Path("O"))]


@pytest.mark.parametrize(
    ("args", "reason"),
    [
        (["--base", "B"], "give both --base and --data, and --by for the column that parts it"),
        (["--base", "B", "--data", "D", "--column", "a", "--template", "{b}"], "choose one"),
        (["--base", "B", "--data", "D", "--quantization", "int8"], "it should be 'nf4' or 'none'"),
        (["--base", "B", "--data", "D", "--lr", "0"], "--lr 0: give a learning rate from 1e-12 to 10"),
    ],
)
def test_incomplete_orders_are_refused(
    plans: list[tuple[ForgePlan, Path]], args: list[str], reason: str
) -> None:
    result = CliRunner().invoke(app, ["forge", *args])
    assert result.exit_code == 2
    assert reason in result.stderr
    assert plans == []


def test_without_anything_it_explains_itself() -> None:
    result = CliRunner().invoke(app, ["forge"])
    assert result.exit_code == 0
    assert "pocket" in result.stdout
    assert "--by" in result.stdout
