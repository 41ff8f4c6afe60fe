from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from sparta_lite.campaign.events import DuelDecided, Event, RunStarted, Scored, Warned, read_events, to_row
from sparta_lite.errors import SpartaError
from sparta_lite.show.json_lines import JsonView

Recording = Callable[..., list[Event]]


def test_every_event_comes_back_from_json_as_it_was(recording: Recording) -> None:
    undecided = DuelDecided(
        3, 7, "東\n", ("a", "b"), ("\x1b[2J", ""), {"c": (None, 2.5), "d": (None, None)}, None, None
    )
    scored = Scored(1, {"a": 7.25, "b": None, "c": 1.0, "d": 2.5}, None, "com2", {"a": 0, "b": 3})
    events = recording(iterations=1)
    assert {type(event).__name__ for event in events} >= {"StandingsChanged", "TrainingStep", "RunFinished"}
    assert read(events) == events
    started = RunStarted("run", "base", "cpu", ("a", "b", "c", "d"), 4, 8, 0, False)
    events = [started, undecided, scored, Warned("odd")]
    assert read(events) == events


def read(events: list[Event]) -> list[Event]:
    lines = "".join(json.dumps(to_row(event, 12.3456)) + "\n" for event in events)
    return read_events(lines.encode(), Path("events.jsonl"))


@pytest.mark.parametrize(
    "row",
    [
        {"event": "Exploded", "time": 1.0},
        {"time": 1.0},
        ["Warned"],
        {"event": ["Warned"]},
        {"event": "Warned", "time": 1.0},
        {"event": "StandingsChanged", "time": 1.0, "iteration": 0, "standings": {"a": {"reputation": 1.0}}},
        {"event": "StandingsChanged", "time": 1.0, "iteration": 0, "standings": 3},
    ],
)
def test_a_row_that_is_no_event_is_refused(row: object) -> None:
    with pytest.raises(SpartaError, match=r"^events\.jsonl, line 1: .*restore it from a copy$"):
        read_events(json.dumps(row).encode() + b"\n", Path("events.jsonl"))


def test_the_json_view_writes_one_ascii_line_per_event(recording: Recording) -> None:
    stream = io.StringIO()
    events = [*recording(iterations=1), Warned("two\nlines, 東京")]
    with JsonView(stream) as view:
        for event in events:
            view(event)

    lines = stream.getvalue().splitlines()
    assert stream.getvalue().isascii()
    assert read_events(stream.getvalue().encode(), Path("stdout")) == events
    assert all(json.loads(line)["time"] > 1.7e9 for line in lines)
