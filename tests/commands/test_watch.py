"""``sparta-lite watch`` beside a process that runs, ends, or is killed; ``sparta-lite list``."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from sparta_lite.commands import watch
from sparta_lite.commands.app import app

from ..run_files import forget_digests

# Holds the lock as a run does, and writes the events that it is given, in two halves.
RUNNER = """
import fcntl, pathlib, sys, time
run, source, end = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), sys.argv[3]
run.mkdir(exist_ok=True)
lock = (run / "lock").open("w")
fcntl.flock(lock, fcntl.LOCK_EX)
data = source.joinpath("events.jsonl").read_bytes()
record = source.joinpath("run.json").read_bytes()
(run / "run.json").write_bytes(record.replace(b'"finished",', b'"running",'))
with (run / "events.jsonl").open("ab", buffering=0) as events:
    events.write(data[: len(data) // 2])
    print("begun", flush=True)
    time.sleep(1.0)
    if end == "killed":
        sys.exit()
    events.write(data[len(data) // 2 :])
(run / "run.json").write_bytes(record)
"""


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "_LOOK_EVERY", 0.05)


def call(*args: str) -> Result:
    return CliRunner().invoke(app, args, prog_name="sparta-lite")


def begin(run: Path, source: Path, end: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", RUNNER, str(run), str(source), end], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    return process


def test_a_run_is_watched_to_its_end(small_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = begin(run, small_run, "finished")
    once = call("watch", str(run), "--once")
    watched = call("watch", str(run))
    process.wait()

    assert "is running" in once.stdout
    assert "finished in" not in once.stdout
    assert "[1/1] train" in watched.stdout
    assert "leaderboard" in watched.stdout
    assert watched.stdout.rstrip().endswith("is finished")


def test_a_run_that_is_killed_is_said_to_be_stopped(small_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = begin(run, small_run, "killed")
    watched = call("watch", str(run))
    process.wait()

    assert watched.exit_code == 0
    assert "was stopped; its last sign of life is of" in watched.stdout.splitlines()[-1]


def test_a_run_is_waited_for(small_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    late = "import time; time.sleep(0.5)\n" + RUNNER
    process = subprocess.Popen(
        [sys.executable, "-c", late, str(run), str(small_run), "finished"], stdout=subprocess.DEVNULL
    )
    watched = call("watch", str(run))
    process.wait()

    assert "waiting for a run" in watched.stderr
    assert watched.stdout.rstrip().endswith("is finished")


def test_a_finished_run_is_drawn_once(small_run: Path) -> None:
    drawn = call("watch", str(small_run))
    assert drawn.exit_code == 0
    assert "finished in" in drawn.stdout
    assert "latest duel  6 of 6" in drawn.stdout
    assert drawn.stdout.rstrip().endswith("is finished")


def test_ctrl_c_leaves_quietly(small_run: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    process = begin(tmp_path / "run", small_run, "finished")
    monkeypatch.setattr(time, "sleep", interrupt)
    left = call("watch", str(tmp_path / "run"))
    process.wait()
    assert left.exit_code == 0
    assert "Traceback" not in left.output


def test_nothing_there_is_refused_only_once(tmp_path: Path) -> None:
    refused = call("watch", str(tmp_path / "run"), "--once")
    assert refused.exit_code == 2
    assert "no run has begun there" in refused.stderr


def test_runs_are_listed(small_run: Path, tmp_path: Path) -> None:
    for name in ("a/finished", "a/stopped", "odd", "broken"):
        forget_digests(shutil.copytree(small_run, tmp_path / name))
    started = json.loads((small_run / "run.json").read_text())["started"]
    stopped = tmp_path / "a" / "stopped"
    record = json.loads((stopped / "run.json").read_text())
    del record["finished"]
    (stopped / "run.json").write_text(json.dumps({**record, "status": "running", "started": started - 60}))
    shutil.rmtree(stopped / "iteration-00" / "adapters")
    (tmp_path / "odd" / "run.json").write_text(
        json.dumps({**record, "status": "failed", "error": "no space [b]left[/b]\x1b[2J"})
    )
    (tmp_path / "broken" / "run.json").write_text("{")

    listed = call("list", str(tmp_path), "--json")

    rows = {Path(row["path"]).name: row for row in map(json.loads, listed.stdout.splitlines())}
    assert {name: row["state"] for name, row in rows.items()} == {
        "finished": "finished",
        "stopped": "stopped",
        "odd": "failed",
        "broken": "unreadable",
    }
    metrics = [json.loads(line) for line in (small_run / "metrics.jsonl").read_text().splitlines()]
    last = [row for row in metrics if row["kind"] == "evaluation"][-1]["accuracy"]
    finished = rows["finished"]
    assert finished["accuracy"] == pytest.approx(sum(last.values()) / 3)
    assert (finished["done"], finished["iterations"], finished["duels"], finished["tribe"]) == (1, 1, 6, 3)
    ended = json.loads((small_run / "run.json").read_text())["finished"]
    assert finished["seconds"] == pytest.approx(ended - started)
    assert rows["stopped"]["done"] == 0
    assert rows["broken"]["accuracy"] is None

    shown = call("list", str(tmp_path)).stdout
    assert "a/finished" in shown
    assert "no space [b]left[/b]" in shown
    assert "\x1b" not in shown
    assert "not valid JSON" in shown


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("run.json", {"status": "finished", "started": "yesterday", "finished": 7}),
        ("metrics.jsonl", {"kind": "evaluation", "iteration": 0, "loss": 0.5}),
    ],
)
def test_a_foreign_directory_keeps_no_other_run_out_of_the_list(
    small_run: Path, tmp_path: Path, name: str, content: dict[str, object]
) -> None:
    shutil.copytree(small_run, tmp_path / "own")
    forget_digests(shutil.copytree(small_run, tmp_path / "foreign"))
    (tmp_path / "foreign" / name).write_text(json.dumps(content) + "\n")

    rows = list(map(json.loads, call("list", str(tmp_path), "--json").stdout.splitlines()))

    assert {Path(row["path"]).name: row["state"] for row in rows} == {
        "foreign": "unreadable",
        "own": "finished",
    }
    assert "the file was changed or is damaged" in rows[0]["note"]


def test_the_list_shows_the_accuracy_that_a_run_is_judged_by(small_run: Path, tmp_path: Path) -> None:
    metrics = [json.loads(line) for line in (small_run / "metrics.jsonl").read_text().splitlines()]
    for row in metrics:
        if row["kind"] == "evaluation":
            row["accuracy"] = row["tasks"][0]["accuracy"] = {"ada": 0.25, "ben": 0.5, "cyd": 1.0}
    for name, hostile, learners in (("spoiled", ["cyd"], ["ada", "ben", "cyd"]), ("alone", [], ["ben"])):
        forget_digests(shutil.copytree(small_run, tmp_path / name))
        record = json.loads((tmp_path / name / "run.json").read_text())
        (tmp_path / name / "run.json").write_text(json.dumps({**record, "hostile": hostile}))
        rows = [{**row, "learners": learners} if row["kind"] == "budget" else row for row in metrics]
        (tmp_path / name / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    listed = call("list", str(tmp_path), "--json")
    found = {Path(row["path"]).name: row["accuracy"] for row in map(json.loads, listed.stdout.splitlines())}
    assert found == {"spoiled": 0.375, "alone": 0.5}


def test_no_runs_and_no_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert call("list", str(tmp_path)).stdout == f"no runs yet in {tmp_path}/; `sparta-lite run` makes one\n"
    monkeypatch.chdir(tmp_path)
    for place in ([], ["runs"]):
        fresh = call("list", *place)
        assert (fresh.exit_code, fresh.stdout[:20]) == (0, "no runs yet in runs/")
    assert call("list", "--json").stdout == ""
    assert call("list", str(tmp_path), "--json").stdout == ""
    assert call("list", str(tmp_path / "missing")).exit_code == 2
