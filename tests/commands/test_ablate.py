"""``sparta-lite ablate``: what it refuses, what it hands on, and what it prints."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import types
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from sparta_lite.ablation import running
from sparta_lite.ablation.grid import Grid, open_grid
from sparta_lite.ablation.running import Listener, RunBegins, RunEnds, RunFails
from sparta_lite.campaign import loop
from sparta_lite.campaign.arena import Arena
from sparta_lite.campaign.events import Evaluated, RunStarted
from sparta_lite.campaign.learning import learn
from sparta_lite.commands.app import app
from sparta_lite.errors import SpartaError
from sparta_lite.files import read_json, write_json

from ..run_files import run_record


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def grids(monkeypatch: pytest.MonkeyPatch) -> list[Grid]:
    """The grids that were to run; nothing does, so that what comes after is refused."""
    seen: list[Grid] = []

    def stand_in(grid: Grid, listener: Listener) -> None:
        grid.write()
        seen.append(grid)
        raise SpartaError("it ends here")

    monkeypatch.setattr(running, "run_all", stand_in)
    return seen


def call(*args: str) -> Result:
    before = signal.getsignal(signal.SIGTERM)
    try:
        return CliRunner().invoke(app, ["ablate", *args], prog_name="sparta-lite")
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "nothing to compare; give --preset"),
        (["--vary", "reputation.kind"], "give key=value,value"),
        (["--vary", "reputation.kind=paper"], "one arm alone is no comparison"),
        (["--vary", "reputation.kind=paper,unifrm"], "did you mean 'uniform'"),
        (["--vary", "reputation.knd=paper,uniform"], "did you mean reputation.kind?"),
        (["--vary", "tribe.size=2,5"], "arm size=2: configuration: tribe.size is 2; two fight"),
        (["--vary", "tribe.size=5,50"], "arm size=50: tribe.size is 50, but pocket holds 10"),
        (["--vary", "duels=1,2", "--seeds", "0"], "--seeds 0: give 1 to 1000"),
        (["--vary", "duels=1,2", "--set", "dules=3"], "--set dules is unknown; did you mean duels?"),
        (["--vary", "duels=1,2", "--preset", "size"], "choose one"),
        (["--preset", "sizes"], "--preset sizes: there is none"),
        (["--arms", "none.yaml"], "none.yaml: no such file"),
        (["none.yaml", "--preset", "size"], "none.yaml: no such file"),
        (["--resume"], "runs/: holds no unfinished ablation"),
        (["--resume", "--out", "nowhere"], "nowhere: no ablation there"),
        (["--resume", "--out", "nowhere", "--set", "duels=3"], "or --out alone"),
    ],
)
def test_what_is_wrong_is_one_line_and_leaves_nothing(
    tmp_path: Path, arguments: list[str], said: str
) -> None:
    result = call(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert said in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_options_reach_the_grid(grids: list[Grid]) -> None:
    vary = ["--vary", "reputation.kind=paper,uniform", "--vary", "judge.mode=expected,sampled"]
    call(*vary, "--seeds", "3", "--paired", "--set", "duels=7", "--set", "seed=4", "--out", "there")
    call("--preset", "size")
    [grid, preset] = grids
    assert (grid.root, grid.seeds, grid.paired) == (Path("there"), 3, True)
    assert [arm.name for arm in grid.arms][1] == "kind=paper,mode=sampled"
    assert {run.config.duels for run in grid.runs()} == {7}
    assert {run.config.seed for run in grid.runs()} == {4, 5, 6}
    assert (preset.root, preset.seeds, preset.paired) == (Path("runs/pocket-size"), 5, False)


def test_a_resumed_ablation_knows_its_arms_and_takes_more(grids: list[Grid]) -> None:
    call("--vary", "duels=5,6", "--seeds", "2", "--out", "there")
    call("--resume", "--out", "there")
    call("--resume", "--out", "there", "--vary", "duels=5,6,7", "--seeds", "3")
    first, again, grown = grids
    assert again == first
    assert [arm.name for arm in grown.arms] == ["duels=5", "duels=6", "duels=7"]
    assert (open_grid(Path("there")), grown.seeds) == (grown, 3)
    assert "was started without --paired" in call("--resume", "--out", "there", "--paired").stderr
    again = call("--resume", "--out", "there", "--vary", "duels=5,6", "--set", "iterations=1")
    assert "the arm duels=5 was started with other settings" in again.stderr


def test_only_runs_that_are_not_finished_need_their_adapters(
    grids: list[Grid], tmp_path: Path, adapter_paths: dict[str, Path]
) -> None:
    """An arm that came to its end may have lost what it began with; one that has runs ahead may not."""
    for arm in ("old", "new"):
        for name, path in adapter_paths.items():
            shutil.copytree(path, tmp_path / arm / name)
    given = ["--vary", "tribe.adapters=old,new", "--seeds", "1", "--out", "there"]
    call(*given)
    old = next(grids[0].runs())
    write_json(old.path / "run.json", run_record())
    shutil.rmtree(tmp_path / "old")
    assert "it ends here" in call("--resume", "--out", "there").stderr
    assert "it ends here" in call("--resume", *given).stderr
    shutil.rmtree(tmp_path / "new")
    for resumed in (["--resume", "--out", "there"], ["--resume", *given]):
        refused = call(*resumed).stderr
        assert refused.startswith("error: arm adapters=new: tribe.adapters: ")
    assert len(grids) == 3


def test_resume_alone_takes_the_newest_unfinished_ablation(grids: list[Grid]) -> None:
    for age, name in enumerate(("new", "old")):
        call("--vary", "duels=5,6", "--out", f"runs/{name}")
        os.utime(Path("runs", name, "ablation.json"), (2e9 - age, 2e9 - age))
    call("--resume")
    assert grids[-1].root == Path("runs/new")


def test_what_stands_there_is_not_touched(grids: list[Grid]) -> None:
    call("--vary", "duels=5,6", "--out", "there")
    assert "holds an ablation; go on with it by --resume" in call("--preset", "size", "--out", "there").stderr
    Path("thesis").mkdir()
    Path("thesis/chapter.tex").touch()
    assert "thesis: holds files that are no run's" in call("--preset", "size", "--out", "thesis").stderr
    assert len(grids) == 1


def test_ctrl_c_says_how_to_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(grid: Grid, listener: Listener) -> None:
        grid.write()
        raise KeyboardInterrupt

    monkeypatch.setattr(running, "run_all", interrupt)
    result = call("--preset", "reputation", "--out", "my runs")
    assert result.exit_code == 130
    assert result.stderr == "interrupted; go on with `sparta-lite ablate --resume --out 'my runs'`\n"


def test_ctrl_c_before_anything_stands_there_advises_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(grid: Grid, listener: Listener) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(running, "run_all", interrupt)
    Path("there").mkdir()
    result = call("--preset", "reputation", "--out", "there")
    assert (result.exit_code, result.stderr) == (130, "interrupted\n")


@pytest.fixture
def tiny(base_path: Path, adapter_paths: dict[str, Path]) -> list[str]:
    """Two arms, each of which takes an instant."""
    adapters = ", ".join(f"{name}: {path}" for name, path in adapter_paths.items())
    sets = [
        *(f"base={base_path}", "quantization=none", f"tribe.adapters={{{adapters}}}", "threads=1"),
        *("iterations=1", "duels=3", "generation.max_new_tokens=4", "generation.max_prompt_tokens=64"),
        *("judge.layout=turns", "judge.minimum_mass=0", "judge.max_tokens=400", "training.batch=2"),
        *("evaluation.items=4", "evaluation.max_new_tokens=4"),
    ]
    options = [part for each in sets for part in ("--set", each)]
    return ["--vary", "matchmaking.k=1,2", "--seeds", "1", "--paired", "--out", "there", *options]


def test_a_run_that_fails_is_named_at_the_end_and_tried_again_by_resume(
    tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(arena: Arena, *rest: Any) -> None:
        if arena.config.matchmaking.k == 1:
            raise SpartaError("no space left")
        learn(arena, *rest)

    monkeypatch.setattr(loop, "learn", full)
    result = call(*tiny)
    assert result.exit_code == 2
    assert result.stderr.splitlines()[-1] == (
        "error: 1 of 2 runs failed, so there is no table (k=1, seed 0: no space left); when the cause is "
        "gone, `sparta-lite ablate --resume --out there` tries it again and leaves the others as they are"
    )
    assert "[1/2] k=1, seed 0 failed: no space left" in result.stdout
    assert "[2/2] k=2, seed 0 ends: pocket mean 0." in result.stdout
    assert {path.name for path in Path("there").iterdir()} == {"ablation.json", "k=1", "k=2"}
    monkeypatch.setattr(loop, "learn", learn)
    result = call("--resume", "--out", "there")
    assert result.exit_code == 0, result.stderr
    assert "[1/2] k=2, seed 0 was finished before" in result.stdout
    assert "[2/2] k=1, seed 0 goes on" in result.stdout
    assert Path("there/table.csv").is_file()


def test_every_run_has_its_own_place_in_the_trackers(monkeypatch: pytest.MonkeyPatch) -> None:
    told: dict[str, list[float]] = {}
    ended = []

    def init(name: str, **given: Any) -> Any:
        told[name] = []
        return types.SimpleNamespace(
            log=lambda row: told[name].append(row["accuracy/pocket/a"]),
            define_metric=lambda *a, **k: None,
            finish=lambda: ended.append(name),
        )

    def stand_in(grid: Grid, listener: Listener) -> None:
        for number, run in enumerate(grid.runs(), start=1):
            listener(RunBegins(run, number, 4, False))
            listener(RunStarted(str(run.path), "pocket", "cpu", ("a",), 1, 1, run.config.seed, False))
            listener(Evaluated(0, {"a": number / 8}, 0.25))
            listener(RunFails(run, number, 4, "why") if number == 2 else RunEnds(run, number, 4, True))
        raise SpartaError("it ends here")

    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=init))
    monkeypatch.setattr(running, "run_all", stand_in)
    call("--vary", "duels=5,6", "--seeds", "2", "--paired", "--set", "trackers=[wandb]", "--out", "there")
    assert told == {
        "there, duels=5, seed 0": [1 / 8],
        "there, duels=6, seed 0": [2 / 8],
        "there, duels=5, seed 1": [3 / 8],
        "there, duels=6, seed 1": [4 / 8],
    }
    assert ended == list(told)


def test_a_tracker_that_is_not_installed_is_said_before_anything_runs(
    grids: list[Grid], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "trackio", None)
    refused = call("--vary", "duels=5,6", "--set", "trackers=[trackio]", "--out", "there")
    assert refused.exit_code == 2
    assert "trackio is not installed" in refused.stderr
    assert grids == []


def test_a_whole_ablation_prints_its_table_and_leaves_its_files(tiny: list[str]) -> None:
    result = call(*tiny)
    assert result.exit_code == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0] == "[1/2] k=1, seed 0 begins"
    assert [line for line in lines if line.startswith("[2/2] k=2, seed 0 ends: pocket mean 0.")]
    assert " k=2: 1 seed shows no spread to judge it by" in [line.rstrip() for line in lines]
    assert all(len(line) <= 80 for line in lines if not line.startswith(("[", "all of it", "  warning")))
    assert {path.name for path in Path("there").iterdir()} == {
        *("ablation.json", "k=1", "k=2"),
        *("summary.json", "table.json", "table.csv", "report.html"),
    }
    [run] = read_json(Path("there/summary.json"))["arms"][1]["runs"]
    assert (run["run"], run["answers"], run["tasks"][0]["iterations"]) == ("k=2/seed-0", 6, [0, 1])
    assert run["seconds"] > 0
    evaluated = CliRunner().invoke(app, ["replay", "there/k=2/seed-0"])
    assert evaluated.exit_code == 0
