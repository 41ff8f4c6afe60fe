"""A campaign that ends, by itself or otherwise, and goes on; kills are in test_resume.py."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

from sparta_lite.campaign.config import load_config
from sparta_lite.campaign.events import Event, PhaseStarted, RunFinished, Warned
from sparta_lite.campaign.loop import run
from sparta_lite.campaign.store import Store
from sparta_lite.files import read_json


def ignore(event: Event) -> None:
    pass


def test_a_resumed_run_keeps_its_threads_and_tells_what_changed(
    tiny_settings: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config_file, out, told = tmp_path / "config.yaml", tmp_path / "run", list[Event]()
    short = {"threads": None, "iterations": 1, "duels": 3, "evaluation": {"items": 0}}
    config_file.write_text(yaml.safe_dump({**tiny_settings, **short}))
    usual = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        run(load_config(config_file), out, False, ignore)
        torch.set_num_threads(1)
        monkeypatch.setattr("sparta_lite.campaign.loop.versions", lambda: {"torch": "9.9"})
        run(load_config(config_file), out, True, told.append)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(usual)
    [warning] = [event.message for event in told if isinstance(event, Warned) and "9.9" in event.message]
    assert warning == f"torch is 9.9, at the run's start it was {torch.__version__}: results may differ"


def test_a_finished_run_resumes_to_its_end_at_once(tiny_config: Path, finished: Path) -> None:
    store = Store(finished)
    files = (store.metrics, store.events)
    before, record = [path.read_bytes() for path in files], store.read_run()
    events: list[Event] = []
    run(load_config(tiny_config), finished, True, events.append)
    assert isinstance(events[-1], RunFinished)
    assert not any(isinstance(event, PhaseStarted) for event in events)
    assert [path.read_bytes() for path in files] == before
    assert replace(store.read_run(), sha256=None) == replace(record, sha256=None)


def test_a_run_that_is_told_to_end_is_noted_as_interrupted(tiny_config: Path, tmp_path: Path) -> None:
    def end(event: Event) -> None:
        if isinstance(event, PhaseStarted):
            sys.exit(143)  # what the command line makes of SIGTERM

    with pytest.raises(SystemExit):
        run(load_config(tiny_config), tmp_path / "run", False, end)
    assert read_json(tmp_path / "run" / "run.json")["status"] == "interrupted"


def test_ctrl_c_leaves_a_run_that_goes_on(tiny_config: Path, finished: Path, tmp_path: Path) -> None:
    def interrupt(event: Event) -> None:
        if isinstance(event, PhaseStarted) and event.phase == "judge":
            os.kill(os.getpid(), signal.SIGINT)

    assert threading.current_thread() is threading.main_thread()
    with pytest.raises(KeyboardInterrupt):
        run(load_config(tiny_config), tmp_path / "run", False, interrupt)
    assert read_json(tmp_path / "run" / "run.json")["status"] == "interrupted"
    run(load_config(tiny_config), tmp_path / "run", True, ignore)
    for iteration in range(2):
        assert (
            Store(tmp_path / "run").judgments(iteration).read_bytes()
            == Store(finished).judgments(iteration).read_bytes()
        )


LIMITS = (1500, 6000, 30000)
FULL_DISK = """
import json, resource, sys
from pathlib import Path
from sparta_lite.campaign.config import load_config
from sparta_lite.campaign.loop import run
from sparta_lite.errors import SpartaError
said = {}
for limit in sys.argv[3:]:
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), resource.RLIM_INFINITY))
    try:
        run(load_config(Path(sys.argv[1])), Path(sys.argv[2]) / limit, False, lambda event: None)
    except SpartaError as error:
        said[limit] = str(error)
print(json.dumps(said))
"""


@pytest.fixture(scope="module")
def full_disks(tiny_config: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """Runs for which the system let no file grow beyond a limit, as a full disk would; what they said."""
    root = tmp_path_factory.mktemp("full")
    command = [sys.executable, "-c", FULL_DISK, str(tiny_config), str(root), *map(str, LIMITS)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=root, timeout=180)
    assert done.returncode == 0, done.stderr
    return root, json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("limit", LIMITS)
def test_a_full_disk_leaves_nothing_half_written(
    tiny_config: Path, finished: Path, full_disks: tuple[Path, dict[str, str]], limit: int
) -> None:
    out = full_disks[0] / str(limit)
    assert "free some space" in full_disks[1][str(limit)]
    for path in out.rglob("*"):
        assert ".partial" not in path.name or path.is_dir()
        if path.suffix == ".jsonl":
            assert path.read_bytes()[-1:] in (b"", b"\n")
    if (out / "run.json").exists():
        run(load_config(tiny_config), out, True, ignore)
        assert Store(out).reputation(1).read_bytes() == Store(finished).reputation(1).read_bytes()
