"""An ablation's runs are those of separate commands, on one base, each made once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from sparta_lite.ablation.arms import grid, load_arms
from sparta_lite.ablation.grid import Grid, extended, new_grid, open_grid
from sparta_lite.ablation.running import RunBegins, RunEnds, RunFails, run_all
from sparta_lite.campaign import keeping
from sparta_lite.campaign.config import Config, load_config, show_config
from sparta_lite.campaign.events import Evaluated
from sparta_lite.campaign.loop import run
from sparta_lite.campaign.store import ABLATION, Store
from sparta_lite.errors import SpartaError
from sparta_lite.files import read_json, write_json, write_text
from sparta_lite.show.ablation import AblationTrackers

from ..run_files import run_record

VARY = "reputation.scale=20,0.1"
TIMED = ("run.json", "events.jsonl", "lock")
"""What holds times or names of directories."""


def ignore(event: object) -> None:
    pass


def contents(root: Path) -> dict[str, bytes]:
    files = [path for path in root.rglob("*") if path.is_file() and path.name not in TIMED]
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


def made(config: Path, root: Path, *, seeds: int = 2, paired: bool = True, vary: str = VARY) -> Grid:
    return new_grid(root, load_arms(config, [], grid([vary])), seeds, paired)


@dataclass(frozen=True)
class Whole:
    grid: Grid
    loads: int
    told: list[object]


@pytest.fixture(scope="module")
def whole(tiny_config: Path, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    loads, load, told = [], keeping.load_base_of, []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keeping, "load_base_of", lambda *args, **named: loads.append(1) or load(*args, **named))
        ablation = made(tiny_config, tmp_path_factory.mktemp("ablation") / "whole")
        run_all(ablation, told.append)
    return Whole(ablation, len(loads), told)


def test_the_base_is_loaded_once_and_the_runs_go_seed_by_seed(whole: Whole) -> None:
    assert whole.loads == 1
    begun = [(each.run.arm, each.run.config.seed) for each in whole.told if isinstance(each, RunBegins)]
    assert begun == [("scale=20", 0), ("scale=0.1", 0), ("scale=20", 1), ("scale=0.1", 1)]
    ends = [each for each in whole.told if isinstance(each, RunEnds)]
    assert [(each.number, each.runs, each.worked) for each in ends] == [(n, 4, True) for n in (1, 2, 3, 4)]


def test_a_run_is_byte_for_byte_that_of_a_separate_command(
    whole: Whole, tiny_config: Path, tmp_path: Path
) -> None:
    """The last one of four on the same base."""
    run(load_config(tiny_config, ["reputation.scale=0.1"], 1), tmp_path / "alone", False, ignore)
    there = whole.grid.root / "scale=0.1" / "seed-1"
    alone = contents(tmp_path / "alone")
    assert "iteration-00/adapters/ada/adapter_model.safetensors" in alone
    assert contents(there) == alone
    record, own = read_json(there / "run.json"), read_json(tmp_path / "alone" / "run.json")
    assert (record["hashes"], record["status"]) == (own["hashes"], "finished")


def test_paired_arms_fight_over_the_same_instructions_and_begin_alike(whole: Whole) -> None:
    """Until the reputations differ the runs of a seed are the same, here all duels of the only iteration."""
    for seed in (0, 1):
        one, other = (whole.grid.root / arm / f"seed-{seed}" for arm in ("scale=20", "scale=0.1"))
        ours, theirs = contents(one), contents(other)
        assert ours["iteration-00/duels.jsonl"] == theirs["iteration-00/duels.jsonl"]
        assert ours["iteration-00/reputation.json"] != theirs["iteration-00/reputation.json"]


def test_an_ablation_killed_in_a_run_goes_on_to_the_same_bytes(
    whole: Whole, tiny_config: Path, tmp_path: Path
) -> None:
    root = tmp_path / "killed"
    script = Path(__file__).with_name("killed.py")
    done = subprocess.run([sys.executable, str(script), str(tiny_config), str(root)], timeout=240)
    assert done.returncode == -signal.SIGKILL
    states = [read_json(root / arm / "seed-0" / "run.json")["status"] for arm in ("scale=20", "scale=0.1")]
    assert states == ["finished", "running"]
    before = {path: os.stat(path).st_mtime_ns for path in root.glob("scale=20/seed-0/**/*")}
    told: list[object] = []
    run_all(open_grid(root), told.append)
    begun = [(each.run.arm, each.resumed) for each in told if isinstance(each, RunBegins)]
    assert begun == [("scale=0.1", True)]
    for arm in ("scale=20", "scale=0.1"):
        assert contents(root / arm / "seed-0") == contents(whole.grid.root / arm / "seed-0")
    assert {path: os.stat(path).st_mtime_ns for path in before} == before


@pytest.mark.parametrize("place", ["absent", "empty"])
def test_a_grid_killed_in_its_first_moments_is_whole_or_had_never_been(
    tiny_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """At every write: what a kill would leave there, and that a further arm is added in one step."""
    root = tmp_path / "out"
    if place == "empty":
        root.mkdir()
    found: list[Grid | None] = []

    def looking(call: Callable[..., None]) -> Callable[..., None]:
        def wrapper(*arguments: object) -> None:
            found.append(open_grid(root) if root.exists() and any(root.iterdir()) else None)
            call(*arguments)

        return wrapper

    small = made(tiny_config, root)
    wide = made(tiny_config, root, vary="reputation.scale=20,0.1,3")
    with monkeypatch.context() as patch:
        for name in ("fsync", "replace", "rename"):
            patch.setattr(os, name, looking(getattr(os, name)))
        for grown, before in ((small, None), (wide, small)):
            found.clear()
            (tmp_path / ".out.partial" / "left").mkdir(parents=True)  # by one that was killed
            grown.write()
            assert len(found) > 6
            assert all(each in (before, grown) for each in found)
            assert open_grid(root) == grown
    assert sorted(path.name for path in root.iterdir()) == [ABLATION, "scale=0.1", "scale=20", "scale=3"]


def test_a_run_that_fails_holds_up_no_other_and_is_tried_again(
    tiny_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = {("scale=20", 1): "no space left", ("scale=0.1", 0): "a NaN", ("scale=0.1", 1): "no space left"}

    def stand_in(kept: object, config: Config, path: Path, *_: object) -> None:
        Store(path).update_run(**run_record(status="failed"))
        write_text(path / "config.yaml", show_config(config))
        if (why := broken.get((path.parent.name, config.seed))) is not None:
            raise SpartaError(why)
        Store(path).update_run(status="finished")

    monkeypatch.setattr("sparta_lite.ablation.running.run_on", stand_in)
    ablation = made(tiny_config, tmp_path / "my out")
    told: list[object] = []
    with pytest.raises(SpartaError) as failed:
        run_all(ablation, told.append)
    assert str(failed.value).startswith(
        "3 of 4 runs failed, so there is no table (scale=0.1, seed 0: a NaN; scale=20"
    )
    assert str(failed.value).endswith(  # the command whole, however long its path
        f"; when the cause is gone, `sparta-lite ablate --resume --out '{tmp_path}/my out'` tries them again "
        "and leaves the others as they are"
    )
    ended = [each for each in told if isinstance(each, RunEnds | RunFails)]
    ends = [(each.run.arm, each.run.config.seed, type(each)) for each in ended]
    assert ends == [
        ("scale=20", 0, RunEnds),
        *(("scale=0.1", 0, RunFails), ("scale=20", 1, RunFails), ("scale=0.1", 1, RunFails)),
    ]
    broken.clear()
    told.clear()
    run_all(open_grid(ablation.root), told.append)
    again = [
        (each.run.arm, each.run.config.seed, each.resumed) for each in told if isinstance(each, RunBegins)
    ]
    assert again == [("scale=0.1", 0, True), ("scale=20", 1, True), ("scale=0.1", 1, True)]


def test_what_a_failed_run_has_learned_is_not_in_the_next_one(
    whole: Whole, tiny_config: Path, tmp_path: Path
) -> None:
    """The first run fails behind its training: on the same base the next is as if there had been none."""

    def fail(event: object) -> None:
        if isinstance(event, Evaluated) and event.iteration == 1 and not (root / "scale=0.1/seed-0").exists():
            raise SpartaError("no space left")

    root = tmp_path / "failing"
    with pytest.raises(SpartaError, match=r"1 of 2 runs failed.*scale=20, seed 0: no space left"):
        run_all(made(tiny_config, root, seeds=1), fail)
    assert read_json(root / "scale=20/seed-0/run.json")["status"] == "failed"
    assert contents(root / "scale=0.1/seed-0") == contents(whole.grid.root / "scale=0.1/seed-0")
    run_all(open_grid(root), ignore)
    assert contents(root / "scale=20/seed-0") == contents(whole.grid.root / "scale=20/seed-0")


def test_a_run_whose_events_are_damaged_holds_up_no_other(
    tiny_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The trackers read them as soon as the run begins."""
    ablation = made(tiny_config, tmp_path / "out", seeds=1)
    broken, sound = ablation.runs()
    write_json(broken.path / "run.json", run_record(status="interrupted"))
    write_text(broken.path / "config.yaml", show_config(broken.config))
    write_text(broken.path / "events.jsonl", "{\n")
    ran: list[Path] = []
    monkeypatch.setattr(
        "sparta_lite.ablation.running.run_on", lambda kept, config, path, *_: ran.append(path)
    )
    with (
        AblationTrackers(ablation) as tracked,
        pytest.raises(SpartaError, match=r"1 of 2 runs failed.*events\.jsonl, line 1"),
    ):
        run_all(ablation, tracked)
    assert ran == [sound.path]


def test_ctrl_c_is_no_failure_of_a_run(
    tiny_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("sparta_lite.ablation.running.run_on", interrupt)
    told: list[object] = []
    with pytest.raises(KeyboardInterrupt):
        run_all(made(tiny_config, tmp_path / "out"), told.append)
    assert [type(each) for each in told] == [RunBegins]


def test_a_finished_ablation_needs_neither_base_nor_adapters(
    whole: Whole, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sparta_lite.ablation.running.look_up", lambda *_: pytest.fail("it looked"))
    monkeypatch.setattr("sparta_lite.ablation.running.run_on", lambda *_: pytest.fail("it ran"))
    before = contents(whole.grid.root)
    told: list[object] = []
    run_all(open_grid(whole.grid.root), told.append)
    assert [each.worked for each in told if isinstance(each, RunEnds)] == [False] * 4
    assert contents(whole.grid.root) == before


def test_what_is_recorded_is_what_was_given(whole: Whole) -> None:
    assert open_grid(whole.grid.root) == whole.grid


def test_more_arms_and_seeds_leave_the_others_where_they_are(whole: Whole, tiny_config: Path) -> None:
    wider = load_arms(tiny_config, [], grid(["reputation.scale=5,20,0.1"]))
    grown = extended(whole.grid, wider, 3, paired=False)
    assert [arm.name for arm in grown.arms] == ["scale=20", "scale=0.1", "scale=5"]
    assert {each.path for each in whole.grid.runs()} < {each.path for each in grown.runs()}
    assert len(list(grown.runs())) == 9
    with pytest.raises(SpartaError, match="started with 2 seeds; give no fewer"):
        extended(whole.grid, None, 1, paired=False)
    with pytest.raises(SpartaError, match=r"arm scale=0\.1 was started with other settings"):
        extended(whole.grid, wider[:2], None, paired=False)


def test_without_pairing_no_two_arms_share_a_seed(tiny_config: Path, tmp_path: Path) -> None:
    runs = list(made(tiny_config, tmp_path, seeds=3, paired=False).runs())
    assert sorted(each.config.seed for each in runs) == [0, 1, 2, 1000, 1001, 1002]
    assert {each.path.name for each in runs if each.arm == "scale=0.1"} == {
        "seed-1000",
        "seed-1001",
        "seed-1002",
    }


@pytest.mark.parametrize(
    ("sets", "said"),
    [
        (["tribe.size=4"], "arm small: tribe.size is 4, but .* holds 3"),
        (["evaluation.items=0"], "arm small: nothing is measured"),
        (["evaluation.items=5"], "arm small: is measured by other questions than whole"),
        (["vram=1MB"], "arm small: plan: needs"),
        (["data.path=nowhere.jsonl", "data.column=text"], r"arm small: .*nowhere\.jsonl"),
        (["tribe.adapters.ada=/nowhere"], "arm small: adapter 'ada'"),
    ],
)
def test_an_arm_that_cannot_run_is_refused_before_anything_runs(
    tiny_config: Path, tmp_path: Path, sets: list[str], said: str
) -> None:
    arms = load_arms(tiny_config, [], {"whole": (), "small": tuple(sets)})
    with pytest.raises(SpartaError, match=said):
        run_all(new_grid(tmp_path / "out", arms, 1, True), lambda event: pytest.fail("it began"))
    assert not (tmp_path / "out").exists()


def test_a_run_with_other_settings_in_its_place_is_refused(whole: Whole, tiny_config: Path) -> None:
    arms = load_arms(tiny_config, ["duels=7"], grid([VARY]))
    with pytest.raises(SpartaError, match=r"seed-0/config\.yaml: has other settings than arm scale=20"):
        run_all(new_grid(whole.grid.root, arms, 2, True), ignore)


def test_an_arm_without_threads_does_not_inherit_those_of_another(
    whole: Whole, monkeypatch: pytest.MonkeyPatch, tiny_config: Path, tmp_path: Path
) -> None:
    seen = []

    def stand_in(kept: object, config: object, path: Path, *_: object) -> None:
        seen.append(torch.get_num_threads())
        torch.set_num_threads(1)

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    monkeypatch.setattr("sparta_lite.ablation.running.run_on", stand_in)
    run_all(made(tiny_config, tmp_path / "out", seeds=1), ignore)
    torch.set_num_threads(before)
    assert seen == [2, 2]
