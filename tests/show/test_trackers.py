from __future__ import annotations

import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sparta_lite.campaign.events import (
    Evaluated,
    Event,
    LearnsAlone,
    PhaseFinished,
    RunStarted,
    Scored,
    TrainingStep,
)
from sparta_lite.errors import SpartaError
from sparta_lite.show.trackers import Course, Point, Trackers

Recording = Callable[..., list[Event]]


class Run:
    """A run of trackio or wandb that remembers what it is told."""

    def __init__(self, **given: Any) -> None:
        self.given, self.rows, self.metrics, self.finished = given, [], {}, False

    def log(self, row: dict[str, float]) -> None:
        self.rows.append(row)

    def define_metric(self, name: str, step_metric: str | None = None) -> None:
        self.metrics[name] = step_metric

    def finish(self) -> None:
        self.finished = True


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Run]:
    """The runs that stand-ins for trackio and wandb have opened."""
    runs: list[Run] = []

    def init(**given: Any) -> Run:
        print("see my dashboard")
        runs.append(Run(**given))
        return runs[-1]

    for name in ("trackio", "wandb"):
        module = types.ModuleType(name)
        module.init = init  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, name, module)
    return runs


def test_events_become_points() -> None:
    course = Course()
    assert course.update(Evaluated(0, {"a": 0.5, "b": 0.25}, 0.3, "gsm8k")) == Point(
        {"accuracy/gsm8k/a": 0.5, "accuracy/gsm8k/b": 0.25, "mean/gsm8k": 0.375, "base/gsm8k": 0.3},
        "iteration",
        0,
    )
    assert course.update(Evaluated(0, {"a": 0.5, "b": 0.25}, 0.3, "gsm8k")) is None
    assert course.update(Scored(1, {"a": 7.0, "b": None}, None, "com2", {})) == Point(
        {"score/com2/a": 7.0}, "iteration", 1
    )
    assert course.update(PhaseFinished(2, "train", 1.5, 10)) == Point({"seconds/train": 1.5}, "iteration", 3)
    for iteration, step, at in [(0, 0, 1), (0, 2, 3), (1, 0, 4), (1, 4, 8), (2, 0, 9)]:
        steps = 5 if iteration == 1 else 3
        point = course.update(TrainingStep(iteration, step, steps, {"a": 0.7}, {"a": 0.1}))
        assert point == Point({"loss/a": 0.7, "margin/a": 0.1}, "update", at)


def started(**changes: Any) -> RunStarted:
    return RunStarted("run", "base", "cpu", ("a", "b", "c"), 2, 10, 1, resumed=False, **changes)


def told(course: Course, *events: Event) -> list[dict[str, float]]:
    """The points' values."""
    points = (course.update(event) for event in events)
    return [point.values for point in points if point is not None]


def test_the_mean_is_of_those_that_a_run_is_judged_by() -> None:
    first, last = (Evaluated(at, {"a": 0.5, "b": 0.25, "c": 1.0}, 0.125) for at in (0, 1))
    healthy = told(Course(), started(hostile=("c",)), first)
    assert [values["mean/pocket"] for values in healthy] == [0.375]
    assert healthy[0]["accuracy/pocket/c"] == 1.0

    course, begun = Course(), started(algorithm="spin")
    before, claimed, after = told(course, begun, first, LearnsAlone("b"), last)
    assert "mean/pocket" not in before
    assert claimed == {"mean/pocket": 0.25}
    assert after["mean/pocket"] == 0.25
    assert told(course, begun, first, LearnsAlone("b"), last) == []


def test_both_online_trackers_stay_at_home_and_are_told_alike(
    opened: list[Run], recording: Recording, tmp_path: Path
) -> None:
    run = tmp_path / "my-run"
    with Trackers(["trackio", "wandb"], run, {"seed": 1}) as trackers:
        assert opened == []  # the run's directory must be empty until the run has begun
        for event in recording(iterations=2):
            trackers(event)

    trackio, wandb = opened
    assert trackio.given["name"] == wandb.given["name"] == "my-run"
    assert trackio.given["config"] == {"seed": 1}
    assert "space_id" not in trackio.given
    assert (wandb.given["mode"], wandb.given["dir"]) == ("offline", str(run))
    assert trackio.rows == wandb.rows
    assert trackio.finished
    assert wandb.finished
    assert {row["update"] for row in wandb.rows if "update" in row} == set(range(2, 22))
    for name in {key.split("/")[0] for row in wandb.rows for key in row if "/" in key}:
        assert wandb.metrics[f"{name}/*"] == ("update" if name in ("loss", "margin") else "iteration")


def test_a_resumed_run_repeats_nothing(opened: list[Run], recording: Recording, tmp_path: Path) -> None:
    events = recording(iterations=2)
    with Trackers(["wandb"], tmp_path, {}, earlier=events) as trackers:
        for event in [
            events[0],
            *(e for e in events if isinstance(e, Evaluated)),
            Evaluated(9, {"a": 1.0}, 0.1),
        ]:
            trackers(event)
    assert [row["iteration"] for row in opened[0].rows] == [9]


def test_a_tracker_that_fails_falls_silent_alone(
    opened: list[Run],
    recording: Recording,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def broken(**given: Any) -> Run:
        run = Run(**given)
        run.log = lambda row: (_ for _ in ()).throw(OSError("disk full"))  # type: ignore[method-assign]
        return run

    monkeypatch.setattr(sys.modules["trackio"], "init", broken)
    with Trackers(["trackio", "wandb"], tmp_path, {}) as trackers:
        for event in recording(iterations=1):
            trackers(event)

    printed = capsys.readouterr()
    assert "warning: trackio failed and is told nothing more (disk full)\n" in printed.err
    assert printed.out == ""  # events alone stand there under --json
    assert len(opened[0].rows) > 10


def test_a_missing_library_is_said_before_the_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(SpartaError, match=r"wandb is not installed; `pip install 'sparta-lite\[trackers\]'"):
        Trackers(["wandb"], tmp_path, {})


def test_tensorboard_reads_the_curves_back(recording: Recording, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with Trackers(["tensorboard"], tmp_path, {}) as trackers:
        for event in recording(iterations=2):
            trackers(event)

    read = EventAccumulator(str(tmp_path / "tensorboard"))
    read.Reload()
    means = [(point.step, point.value) for point in read.Scalars("mean/pocket")]
    assert [step for step, _ in means] == [0, 1, 2]
    assert [value for _, value in means] == pytest.approx([0.495, 0.515, 0.535], abs=1e-6)
    assert [point.step for point in read.Scalars("loss/capitals")] == list(range(2, 22))
