"""A campaign that was killed at any instant ends as one that never was."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from torch import Tensor

from sparta_lite.campaign.arena import Arena
from sparta_lite.campaign.config import load_config
from sparta_lite.campaign.loop import run
from sparta_lite.campaign.measuring import evaluate
from sparta_lite.engine.peft_io import read_adapter
from sparta_lite.errors import SpartaError

from ..run_files import forget_digests

SAME = ("duels.jsonl", "judgments.jsonl", "reputation.json", "preferences.jsonl")


def contents(run: Path) -> dict[str, bytes]:
    """What must not differ: duels, judgments, reputations, pairs, adapters, and what was measured."""
    files = [path for path in run.rglob("*") if path.name in SAME or path.suffix == ".safetensors"]
    return {str(path.relative_to(run)): path.read_bytes() for path in [*files, run / "metrics.jsonl"]}


def crash(config: Path, root: Path, *algorithm: str) -> Path:
    script = Path(__file__).with_name("crashes.py")
    done = subprocess.run(
        [sys.executable, str(script), str(config), str(root), *algorithm],
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    (root / "kills.json").write_text(done.stdout.strip().splitlines()[-1])
    return root


@pytest.fixture(scope="module")
def crashed(tiny_config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return crash(tiny_config, tmp_path_factory.mktemp("crashes"))


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


def test_kills_inside_all_phases_of_a_baseline_change_nothing(tiny_config: Path, tmp_path: Path) -> None:
    root = crash(tiny_config, tmp_path, "sppo")
    whole = contents(root / "whole")
    assert json.loads(whole["metrics.jsonl"].splitlines()[-2])["learners"] == ["ada"]
    assert contents(root / "killed") == whole


def test_lost_figures_are_measured_again_with_the_adapters_of_their_iteration(
    crashed: Path, tmp_path: Path, adapter_paths: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[int, list[Tensor]] = {}

    def note(arena: Arena, iteration: int) -> None:
        asked[iteration] = [b.clone() for _, _, b in arena.bank.modules(arena.bank.slot("ada")) if b.any()]
        evaluate(arena, iteration)

    monkeypatch.setattr("sparta_lite.campaign.loop.evaluate", note)
    out = tmp_path / "run"
    shutil.copytree(crashed / "whole", out)
    forget_digests(out)
    rows = (out / "metrics.jsonl").read_text().splitlines(keepends=True)
    figures = [row for row in rows if json.loads(row)["kind"] == "evaluation"]
    (out / "metrics.jsonl").write_text("".join(row for row in rows if row not in figures))
    run(load_config(out / "config.yaml"), out, True, lambda event: None)
    again = (out / "metrics.jsonl").read_text().splitlines(keepends=True)
    assert [row for row in again if json.loads(row)["kind"] == "evaluation"] == figures
    trained = [out / f"iteration-0{number}" / "adapters" / "ada" for number in range(2)]
    for iteration, place in enumerate([adapter_paths["ada"], *trained]):
        pairs = read_adapter("ada", place).weights.values()
        assert sum(float(b.sum()) for b in asked[iteration]) == pytest.approx(
            sum(float(b.sum()) for _, b in pairs), abs=1e-9
        )


@pytest.mark.parametrize(
    ("name", "lacking"),
    [
        ("metrics.jsonl", "kind, iteration"),
        ("iteration-00/reputation.json", "iteration, before, after, judge_weights, tally, verdicts"),
        ("run.json", "format"),
    ],
)
def test_a_file_that_lost_its_form_is_named(crashed: Path, tmp_path: Path, name: str, lacking: str) -> None:
    out = tmp_path / "run"
    shutil.copytree(crashed / "whole", out)
    forget_digests(out)
    (out / name).write_text("{}\n")
    with pytest.raises(SpartaError, match=f"{name}.*: lacks {lacking}; the file was changed or is damaged"):
        run(load_config(out / "config.yaml"), out, True, lambda event: None)


@pytest.mark.parametrize(
    ("was", "edited", "said"),
    [
        ("seed: 0", "seed: 5", "config.yaml changed since the run began"),
        ("items: 10", "items: 9", "config.yaml, held-out questions changed since the run began"),
    ],
)
def test_a_configuration_edited_by_hand_is_refused(
    crashed: Path, tmp_path: Path, was: str, edited: str, said: str
) -> None:
    out = tmp_path / "run"
    shutil.copytree(crashed / "whole", out)
    config = (out / "config.yaml").read_text()
    assert config.count(was) == 1
    (out / "config.yaml").write_text(config.replace(was, edited))
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    with pytest.raises(SpartaError, match=said):
        run(load_config(out / "config.yaml"), out, True, lambda event: None)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
