from __future__ import annotations

import io
import json
from collections.abc import Callable

import pytest

from sparta_lite.campaign.events import DuelDecided, Event, Scored, Warned, from_row, to_row
from sparta_lite.errors import SpartaError
from sparta_lite.show.json_lines import JsonView

Recording = Callable[..., list[Event]]


def test_every_event_comes_back_from_json_as_it_was(recording: Recording) -> None:
    undecided = DuelDecided(
        3, 7, "東\ud800\n", ("a", "b"), ("\x1b[2J", ""), {"c": (None, 2.5), "d": (None, None)}, None, None
    )
    scored = Scored(1, {"a": 7.25, "b": None}, None, "com2", {"a": 0, "b": 3})
    events = [*recording(iterations=1), undecided, scored, Warned("odd")]
    assert {type(event).__name__ for event in events} >= {"StandingsChanged", "TrainingStep", "RunFinished"}

    for event in events:
        assert from_row(json.loads(json.dumps(to_row(event, 12.3456)))) == event


@pytest.mark.parametrize(
    "row",
    [
        {"event": "Exploded", "time": 1.0},
        {"time": 1.0},
        ["Warned"],
        {"event": ["Warned"]},
        {"event": "Warned", "time": 1.0},
        {"event": "Warned", "time": 1.0, "message": "x", "colour": "red"},
        {"event": "StandingsChanged", "time": 1.0, "iteration": 0, "standings": {"a": {"reputation": 1.0}}},
        {"event": "StandingsChanged", "time": 1.0, "iteration": 0, "standings": 3},
    ],
)
def test_a_row_that_is_no_event_is_refused(row: object) -> None:
    with pytest.raises(SpartaError):
        from_row(row)


def test_the_json_view_writes_one_ascii_line_per_event(recording: Recording) -> None:
    stream = io.StringIO()
    events = [*recording(iterations=1), Warned("two\nlines, 東京, \ud800")]
    with JsonView(stream) as view:
        for event in events:
            view(event)

    lines = stream.getvalue().splitlines()
    assert stream.getvalue().isascii()
    assert [from_row(json.loads(line)) for line in lines] == events
    assert all(json.loads(line)["time"] > 1.7e9 for line in lines)
