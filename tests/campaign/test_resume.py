"""A campaign that was killed at any instant ends as one that never was."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SAME = ("duels.jsonl", "judgments.jsonl", "reputation.json", "preferences.jsonl")


def contents(run: Path) -> dict[str, bytes]:
    """What must not differ: duels, judgments, reputations, pairs, adapters, and what was measured."""
    files = [path for path in run.rglob("*") if path.name in SAME or path.suffix == ".safetensors"]
    return {str(path.relative_to(run)): path.read_bytes() for path in [*files, run / "metrics.jsonl"]}


@pytest.fixture(scope="module")
def crashed(tiny_config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("crashes")
    script = Path(__file__).with_name("crashes.py")
    done = subprocess.run(
        [sys.executable, str(script), str(tiny_config), str(root)],
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    (root / "kills.json").write_text(done.stdout.strip().splitlines()[-1])
    return root


def test_a_whole_run_leaves_every_file(crashed: Path) -> None:
    whole = contents(crashed / "whole")
    assert {name for name in whole if name.endswith(".safetensors")} == {
        f"iteration-0{iteration}/adapters/{name}/adapter_model.safetensors"
        for iteration in range(2)
        for name in ("ada", "ben", "cyd")
    }
    assert sum(name.endswith(SAME) for name in whole) == 2 * len(SAME)
    kinds = [json.loads(line)["kind"] for line in whole["metrics.jsonl"].splitlines()]
    assert kinds.count("evaluation") == 3


@pytest.mark.parametrize("phase", ["match", "generate", "judge", "settle", "train", "evaluate"])
def test_a_kill_inside_a_phase_changes_nothing(crashed: Path, phase: str) -> None:
    assert contents(crashed / f"killed-in-{phase}") == contents(crashed / "whole")


def test_kills_at_any_write_change_nothing(crashed: Path) -> None:
    assert json.loads((crashed / "kills.json").read_text())["killed-at-writes"] >= 5
    assert contents(crashed / "killed-at-writes") == contents(crashed / "whole")
