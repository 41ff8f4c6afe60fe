"""``sparta-lite forge pocket``: what it hands to the forge, and what it leaves alone."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sparta_lite.commands.app import app


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
