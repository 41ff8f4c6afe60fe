from __future__ import annotations

import io
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest
from rich.console import Console

from sparta_lite.campaign.events import (
    AdapterStanding,
    Evaluated,
    Event,
    LearnsAlone,
    PhaseFinished,
    PhaseProgress,
    PhaseStarted,
    Planned,
    RunStarted,
    Scored,
    StandingsChanged,
    Warned,
)
from sparta_lite.show.json_lines import JsonView
from sparta_lite.show.live import LiveView, can_show
from sparta_lite.show.plain import PlainView

Recording = Callable[..., list[Event]]
ENTER, LEAVE = "\x1b[?1049h", "\x1b[?1049l"


class Broken(io.StringIO):
    """A pipe whose reader is gone after the first ``good`` writes."""

    def __init__(self, good: int) -> None:
        super().__init__()
        self.good = good
        self.attempts = 0

    def write(self, text: str) -> int:
        self.attempts += 1
        if self.attempts > self.good:
            raise BrokenPipeError
        return super().write(text)


def terminal(stream: io.StringIO, width: int = 80, height: int = 24) -> Console:
    return Console(
        file=stream, force_terminal=True, width=width, height=height, color_system="256", _environ={}
    )


def test_the_live_view_leaves_the_summary_on_the_normal_screen(
    recording: Recording, capsys: pytest.CaptureFixture[str]
) -> None:
    stream = io.StringIO()
    with LiveView(terminal(stream)) as view:
        for event in recording():
            view(event)
        view(Warned("disk\x1b[2J nearly full"))
        print("a line from elsewhere")

    live, after = stream.getvalue().split(LEAVE)
    assert live.count(ENTER) == 1
    assert "sparta-lite" in live
    assert "warning: disk nearly full" in after
    for text in ("leaderboard", "capitals", "best init", "bare base"):
        assert text in after
    assert "a line from elsewhere" not in stream.getvalue()
    assert "a line from elsewhere" in capsys.readouterr().err


def test_the_live_view_draws_while_the_run_works(recording: Recording) -> None:
    stream = io.StringIO()
    events = recording()
    with LiveView(terminal(stream)) as view:
        for event in events[:-1]:
            view(event)
        deadline = time.monotonic() + 10
        while "latest duel" not in stream.getvalue() and time.monotonic() < deadline:
            time.sleep(0.02)
        assert "latest duel" in stream.getvalue()


def test_an_interrupted_live_view_restores_the_terminal(recording: Recording) -> None:
    stream = io.StringIO()

    def interrupted() -> None:
        with LiveView(terminal(stream)) as view:
            for event in recording()[:200]:
                view(event)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert LEAVE in stream.getvalue()
    assert "\x1b[?25h" in stream.getvalue()


def test_only_a_capable_terminal_gets_the_live_view() -> None:
    assert can_show(terminal(io.StringIO()))
    assert not can_show(Console(file=io.StringIO()))
    assert not can_show(Console(file=io.StringIO(), force_terminal=True, _environ={"TERM": "dumb"}))


@pytest.mark.parametrize("good", [0, 3])
def test_a_broken_pipe_silences_every_view_and_never_the_run(recording: Recording, good: int) -> None:
    streams = [Broken(good), Broken(good), Broken(good)]
    views: list[Any] = [JsonView(streams[0]), PlainView(streams[1]), LiveView(terminal(streams[2]))]
    for view, stream in zip(views, streams, strict=True):
        with view:
            for event in recording(iterations=1):
                view(event)
        assert stream.attempts == good + 1


@pytest.mark.parametrize("kind", ["JsonView", "PlainView"])
def test_a_reader_that_leaves_causes_no_noise_at_exit(kind: str) -> None:
    program = f"""
import sys
from sparta_lite.campaign.events import Warned
from sparta_lite.show.json_lines import JsonView
from sparta_lite.show.plain import PlainView
with {kind}(sys.stdout) as view:
    for _ in range(20000):
        view(Warned("something"))
print("done", file=sys.stderr)
"""
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == "done\n"
    assert process.returncode == 0


def plain(events: list[Event], **arguments: Any) -> list[str]:
    stream = io.StringIO()
    with PlainView(stream, **arguments) as view:
        for event in events:
            view(event)
    return stream.getvalue().splitlines()


def test_plain_lines_name_every_phase_with_its_rate_and_end_with_the_table(recording: Recording) -> None:
    lines = plain(recording(iterations=2))

    assert lines[0] == "runs/pocket starts: base pocket, 10 adapters, 2 x 20 duels, seed 1, cpu"
    assert "[0/2] evaluate  300 answers, 3.0 s, 100/s, 2,000 tokens/s" in lines
    assert "[1/2] generate  40 responses, 2.0 s, 20.0/s, 500 tokens/s" in lines
    assert "[2/2] train     10 steps, 5.0 s, 2.0/s, 800 tokens/s" in lines
    assert (
        "[2/2] held-out  mean 0.535, best 0.580 halve, worst 0.490 capitals; best init 0.540, bare base 0.400"
        in lines
    )
    assert (
        "[1/2] standings highest halve 100.90 ±0.50, lowest capitals 100.00 ±0.50, "
        "judge weights 10.00% to 10.00%" in lines
    )
    assert "finished in 1:30" in lines
    rows = [line.split() for line in lines]
    assert ["iterations", "mean", "best", "worst", "best", "init", "bare", "base"] in rows
    assert ["0", "0.495", "0.540", "0.450", "0.540", "0.400"] in rows
    assert ["2", "0.535", "0.580", "0.490", "0.540", "0.400"] in rows
    assert lines[-1] == " mean 0.535: -0.005 against best init 0.540, +0.135 against the bare base 0.400"
    assert "\x1b" not in "\n".join(lines)


def test_plain_lines_without_ground_truth_end_with_reputations_and_wins(recording: Recording) -> None:
    text = "\n".join(plain(recording(truth=False)))

    assert "held-out" not in text
    assert "best init" not in text
    assert "reputation" in text
    assert "100.90 ±0.50" in text


def test_plain_lines_of_a_resumed_phase_rate_only_its_own_work() -> None:
    lines = plain(
        [
            RunStarted("run", "base", "cpu", ("a", "b"), 2, 10, 1, resumed=True),
            PhaseStarted(1, "generate", 20),
            PhaseProgress(1, "generate", 12, 20, 0, 0.0, 5),
            PhaseProgress(1, "generate", 14, 20, 60, 70.0, 5),
            PhaseProgress(1, "generate", 15, 20, 70, 90.0, 5),
        ]
    )

    assert lines == [
        "run resumes: base base, 2 adapters, 2 x 10 duels, seed 1, cpu",
        "[2/2] generate  14 of 20 responses, 3:30 left",
    ]


def test_a_resumed_run_shows_what_came_before(recording: Recording) -> None:
    events = recording(iterations=2)
    middle = len(events) // 2
    resumed = RunStarted("runs/pocket", "pocket", "cpu", events[0].tribe, 2, 20, 1, True)  # type: ignore[union-attr]
    recalled = [event for event in events[:middle] if isinstance(event, Evaluated | StandingsChanged)]
    lines = plain([resumed, *recalled, *events[middle:]], earlier=events[:middle])

    assert recalled
    assert lines[0].startswith("runs/pocket resumes")
    assert sum(" held-out  " in line for line in lines) == 2
    assert lines[-1].startswith(" mean 0.535: -0.005 against best init 0.540")


def test_plain_lines_survive_a_stream_that_cannot_say_everything(recording: Recording) -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    with PlainView(stream) as view:
        for event in [*recording(), Warned("東京 \ud800")]:
            view(event)
    assert b"held-out accuracy" in raw.getvalue()


def test_further_tasks_are_plain_lines(recording: Recording) -> None:
    stream = io.StringIO()
    with PlainView(stream) as view:
        for event in (
            *recording(iterations=1)[:1],
            PhaseStarted(0, "evaluate", 9),
            Evaluated(0, {"a": 0.5, "b": 0.25}, 0.125, "gsm8k", {"a": 1, "b": 0}),
            Evaluated(0, {"a": 0.25, "b": 0.75}, 0.5, "med\x1b[2Jqa", {"a": 1, "b": 2}),
            Scored(0, {"a": 7.5, "b": None}, None, "com2", {"a": 0, "b": 4}),
        ):
            view(event)

    first, second, third = (line for line in stream.getvalue().splitlines() if line.startswith("[0/"))
    assert "held-out  mean 0.375, best 0.500 a, worst 0.250 b" in first
    assert first.endswith("bare base 0.125; 1 answer unparsed")
    assert second.endswith("medqa  mean 0.500, best 0.750 b, bare base 0.500; 3 answers unparsed")
    assert third.endswith("com2  mean 7.500, best 7.500 a, bare base –; 4 answers not judged")


def test_plain_lines_of_a_baseline_say_who_learns_and_show_that_one() -> None:
    standing = AdapterStanding(100.0, 0.0, 0, 0, 0, 0.5)
    lines = plain(
        [
            RunStarted("run", "base", "cpu", ("a", "b"), 2, 10, 1, resumed=False, algorithm="spin"),
            PhaseStarted(0, "evaluate", 9),
            Evaluated(0, {"a": 0.5, "b": 0.25}, 0.125),
            LearnsAlone("b"),
            StandingsChanged(0, {"a": standing, "b": standing}),
            PhaseStarted(0, "train", 1),
            PhaseFinished(0, "train", 1.0, 5),
            PhaseStarted(1, "evaluate", 9),
            Evaluated(1, {"a": 0.5, "b": 0.375}, 0.125),
        ]
    )
    assert lines[0] == "run starts: spin, base base, 2 adapters, 2 x 10 duels, seed 1, cpu"
    assert lines[2] == "spin: b learns, all others stay as they are"
    assert lines[3].startswith("[1/2] train     1 step, 1.0 s")
    assert lines[4] == "[1/2] held-out  b 0.375; best init 0.500, bare base 0.125"
    text = "\n".join(lines)
    # Nobody's reputation moves, and no one's votes are weighed by it.
    assert not any(word in text for word in ("standings", "reputation", "judge weights"))
    assert ["b", "learns", "0.375"] in [line.split()[:3] for line in lines]
    assert ["iterations", "b", "best", "init", "bare", "base"] in [line.split() for line in lines]


def test_hostile_adapters_are_marked_in_lines_and_leaderboard() -> None:
    low, high = (AdapterStanding(value, 0.5, 3, 4, 0, 0.5) for value in (99.0, 101.0))
    lines = plain(
        [
            RunStarted("run", "base", "cpu", ("a", "b"), 2, 1, 1, resumed=False, hostile=("b",)),
            PhaseStarted(0, "settle", 1),
            StandingsChanged(0, {"a": low, "b": high}),
        ]
    )
    assert lines[0] == "run starts: base base, 2 adapters (1 hostile), 2 x 1 duel, seed 1, cpu"
    assert "standings highest b (hostile) 101.00 ±0.50, lowest a 99.00 ±0.50" in lines[1]
    rows = [line.split() for line in lines]
    assert ["b", "hostile", "101.00"] in [row[:3] for row in rows]
    assert ["a", "99.00"] in [row[:2] for row in rows]


def test_the_plan_is_said_by_both_views(recording: Recording) -> None:
    plan = Planned(("plan: 7 of 8 GB\x1b[2J", "plan: 64 places"), {"train": 7}, 8)
    plain, stream = io.StringIO(), io.StringIO()
    with PlainView(plain) as first, LiveView(terminal(stream)) as second:
        for event in (plan, *recording(iterations=1)):
            first(event)
            second(event)
    assert plain.getvalue().startswith("plan: 7 of 8 GB\nplan: 64 places\n")
    assert "plan: 7 of 8 GB" in stream.getvalue().split(LEAVE)[1]


def test_of_a_plan_the_views_say_the_brief_alone(recording: Recording) -> None:
    plan = Planned(("7 of 8 GB", "batch_tokens: 64"), {"train": 7}, 8, brief=("plan: 7 GB, 5 min",))
    stream = io.StringIO()
    with LiveView(terminal(stream)) as view:
        view(plan)
    lines = plain([plan, *recording(iterations=1)])
    assert lines[0] == "plan: 7 GB, 5 min"
    assert "plan: 7 GB, 5 min" in stream.getvalue().split(LEAVE)[1]
    assert not any("batch_tokens" in text for text in (*lines, stream.getvalue()))
