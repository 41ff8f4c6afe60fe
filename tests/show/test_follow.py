from __future__ import annotations

import fcntl
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from sparta_lite.campaign.events import Event, RunStarted, Warned, to_row
from sparta_lite.errors import SpartaError
from sparta_lite.show.follow import Tail, condition
from sparta_lite.show.runs import is_held

Recording = Callable[..., list[Event]]


def line(event: Event, time: float = 10.0) -> bytes:
    return json.dumps(to_row(event, time)).encode() + b"\n"


def test_every_event_comes_once_whatever_the_writes(tmp_path: Path, recording: Recording) -> None:
    events = [*recording(iterations=1, duels=3), Warned("東京 \x85 \u2028")]
    data = b"".join(map(line, events))
    tail = Tail(tmp_path)
    assert tail.read() == []  # nothing stands there yet

    seen: list[Event] = []
    for end in [*range(0, len(data), 997), len(data)]:
        (tmp_path / "events.jsonl").write_bytes(data[:end])
        seen += tail.read()

    assert seen == events
    assert tail.read() == []


def test_a_resumed_run_cuts_the_unfinished_line_off(tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    file.write_bytes(line(Warned("one")) + line(Warned("two"))[:9])
    tail = Tail(tmp_path)
    assert tail.read() == [Warned("one")]
    start = RunStarted("r", "b", "cpu", ("a", "b"), 1, 1, 0, resumed=True)
    file.write_bytes(line(Warned("one")) + line(start, 33.5) + line(Warned("end"), 40.25))

    assert tail.read() == [start, Warned("end")]
    assert (tail.started, tail.latest) == (33.5, 40.25)


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    for damaged in (b"{}\n", b'{"event": "Warned", "message": "when?"}\n'):
        (tmp_path / "events.jsonl").write_bytes(line(Warned("one")) + damaged)
        with pytest.raises(SpartaError, match=r"events\.jsonl, line 2"):
            Tail(tmp_path).read()


def test_the_condition_of_a_run(tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert condition(run) is None
    run.mkdir()
    with (run / "lock").open("w") as lock:
        assert condition(run) is None
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert condition(run) == "running"  # it loads its base, say
        (run / "run.json").write_text('{"status": "finished"}')
        assert condition(run) == "running"
    for status, shown in [
        ("running", "stopped"),
        ("interrupted", "stopped"),
        ("failed", "failed"),
        ("finished", "finished"),
    ]:
        (run / "run.json").write_text(json.dumps({"status": status}))
        assert condition(run) == shown


def test_looking_does_not_hold_the_run_up(tmp_path: Path) -> None:
    (tmp_path / "lock").touch()
    assert not is_held(tmp_path)
    with (tmp_path / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # would raise


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").touch()
    with pytest.raises(SpartaError, match="not a run's directory"):
        condition(tmp_path)
    with pytest.raises(SpartaError, match="not a run's directory"):
        condition(tmp_path / "letter.txt")
