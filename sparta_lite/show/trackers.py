"""A run's curves in experiment trackers, each through its own library; the JSON lines stay in any case."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from statistics import fmean
from types import ModuleType, TracebackType
from typing import Any, Literal, Protocol

from sparta_lite.campaign.events import (
    Evaluated,
    Event,
    LearnsAlone,
    PhaseFinished,
    RunStarted,
    Scored,
    StandingsChanged,
    TrainingStep,
)
from sparta_lite.errors import SpartaError
from sparta_lite.show.state import Board

PROJECT = "sparta-lite"
_MODULES = {"trackio": "trackio", "tensorboard": "torch.utils.tensorboard", "wandb": "wandb"}
_BY_ITERATION = ("accuracy", "mean", "base", "score", "reputation", "deviation", "weight", "seconds")
_BY_UPDATE = ("loss", "margin")
"""What stands before the slash in a curve's name."""


@dataclass(frozen=True)
class Point:
    """One value of each of some curves."""

    values: dict[str, float]
    """'loss/ada' -> value."""
    axis: Literal["iteration", "update"]
    at: int
    """Iterations complete, or optimizer updates since the run began."""


class Course:
    """Turns events into points."""

    def __init__(self) -> None:
        self._told: set[tuple[str, int, str]] = set()
        self._steps: dict[int, int] = {}
        """Optimizer steps of every iteration."""
        self._board = Board()
        """Knows by whom the run is judged."""
        self._unclaimed: dict[str, Mapping[str, float]] = {}
        """Task -> what was measured before it was told who learns alone."""

    def update(self, event: Event) -> Point | None:
        """The points that ``event`` adds; None where it adds none, or a resumed run only repeats it."""
        self._board.update(event)
        match event:
            case Evaluated(iteration=iteration, accuracy=accuracy, base=base, task=task):
                if self._is_new("accuracy", iteration, task) and accuracy:
                    values = {f"accuracy/{task}/{name}": value for name, value in accuracy.items()}
                    values[f"base/{task}"] = base
                    if self._board.baseline is None or self._board.learner is not None:
                        values[f"mean/{task}"] = fmean(self._board.judged_by(accuracy).values())
                    else:
                        self._unclaimed[task] = accuracy
                    return Point(values, "iteration", iteration)
            case LearnsAlone(adapter=adapter):
                if self._is_new("mean", 0, "") and self._unclaimed:
                    means = {f"mean/{task}": first[adapter] for task, first in self._unclaimed.items()}
                    return Point(means, "iteration", 0)
            case Scored(iteration=iteration, scores=scores, task=task):
                known = {name: score for name, score in scores.items() if score is not None}
                if self._is_new("score", iteration, task) and known:
                    values = {f"score/{task}/{name}": score for name, score in known.items()}
                    return Point(values, "iteration", iteration)
            case StandingsChanged(iteration=iteration, standings=standings):
                if self._is_new("reputation", iteration, ""):
                    values = {}
                    for name, standing in standings.items():
                        values[f"reputation/{name}"] = standing.reputation
                        values[f"deviation/{name}"] = standing.deviation
                        values[f"weight/{name}"] = standing.weight
                    return Point(values, "iteration", iteration + 1)
            case TrainingStep(iteration=iteration, step=step, steps=steps):
                self._steps[iteration] = steps
                before = sum(count for earlier, count in self._steps.items() if earlier < iteration)
                losses = {f"loss/{name}": value for name, value in event.loss.items()}
                margins = {f"margin/{name}": value for name, value in event.margin.items()}
                return Point(losses | margins, "update", before + step + 1)
            case PhaseFinished(iteration=iteration, phase=phase, seconds=seconds):
                at = iteration if phase == "evaluate" else iteration + 1
                return Point({f"seconds/{phase}": seconds}, "iteration", at)
        return None

    def _is_new(self, curve: str, iteration: int, task: str) -> bool:
        told = (curve, iteration, task)
        new = told not in self._told
        self._told.add(told)
        return new


class Writer(Protocol):
    """One tracker's file or store."""

    def log(self, point: Point) -> None: ...

    def close(self) -> None: ...


class Trackers:
    """A listener that passes a run's curves on. A tracker that fails falls silent; the run goes on.

    Args:
        kinds: names of trackers.
        run: the run's directory.
        settings: of the run, as plain values.
        earlier: the events of the processes that a resumed run goes on from.
        name: the run's in every tracker; None: that of its directory.

    Raises:
        SpartaError: a tracker's library is not installed.
    """

    def __init__(
        self,
        kinds: Sequence[str],
        run: Path,
        settings: Mapping[str, Any],
        earlier: Iterable[Event] = (),
        name: str | None = None,
    ) -> None:
        self._modules = {kind: _imported(kind) for kind in kinds}
        self._run, self._settings = run, dict(settings)
        self._name = run.resolve().name if name is None else name
        self._writers: dict[str, Writer] = {}
        self._course = Course()
        for event in earlier:
            self._course.update(event)

    def __enter__(self) -> Trackers:
        return self

    def __call__(self, event: Event) -> None:
        if isinstance(event, RunStarted):  # before, the run's directory has to be empty
            for kind in self._modules:
                self._guarded(kind, self._open)
        if self._writers and (point := self._course.update(event)) is not None:
            for kind in list(self._writers):
                self._guarded(kind, lambda kind: self._writers[kind].log(point))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for name in list(self._writers):
            self._guarded(name, lambda name: self._writers[name].close())

    def _open(self, kind: str) -> None:
        self._writers[kind] = _WRITERS[kind](self._modules[kind], self._run, self._name, self._settings)

    def _guarded(self, kind: str, act: Callable[[str], None]) -> None:
        """Do it; standard output belongs to the run's own view, not to what a library has to say."""
        try:
            with contextlib.redirect_stdout(sys.stderr):
                act(kind)
        except Exception as error:  # another library's, whatever it is: the run must go on
            self._writers.pop(kind, None)
            print(f"warning: {kind} failed and is told nothing more ({error})", file=sys.stderr)


def require_trackers(kinds: Sequence[str]) -> None:
    """Raises SpartaError when the library of one of these trackers is not installed."""
    for kind in kinds:
        _imported(kind)


def _imported(kind: str) -> ModuleType:
    try:
        return import_module(_MODULES[kind])
    except ImportError as error:
        raise SpartaError(
            f"trackers: {kind} is not installed; `pip install 'sparta-lite[trackers]'`, or leave it out"
        ) from error


class _TensorBoard:
    """Event files in the run's own directory: ``tensorboard --logdir RUN``."""

    def __init__(self, module: Any, run: Path, name: str, settings: dict[str, Any]) -> None:
        self._writer = module.SummaryWriter(log_dir=str(run / "tensorboard"))

    def log(self, point: Point) -> None:
        for name, value in point.values.items():
            self._writer.add_scalar(name, value, point.at)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class _Trackio:
    """Trackio's own local store, where ``trackio show`` looks."""

    def __init__(self, module: Any, run: Path, name: str, settings: dict[str, Any]) -> None:
        self._run = module.init(project=PROJECT, name=name, config=settings, resume="allow", embed=False)

    def log(self, point: Point) -> None:
        self._run.log({**point.values, point.axis: point.at})

    def close(self) -> None:
        self._run.finish()


class _Wandb:
    """Offline, in the run's own directory: ``wandb sync`` sends it where a user wants that."""

    def __init__(self, module: Any, run: Path, name: str, settings: dict[str, Any]) -> None:
        self._run = module.init(project=PROJECT, name=name, dir=str(run), config=settings, mode="offline")
        for axis, curves in (("iteration", _BY_ITERATION), ("update", _BY_UPDATE)):
            self._run.define_metric(axis)
            for curve in curves:
                self._run.define_metric(f"{curve}/*", step_metric=axis)

    def log(self, point: Point) -> None:
        self._run.log({**point.values, point.axis: point.at})

    def close(self) -> None:
        self._run.finish()


_WRITERS: dict[str, Any] = {"trackio": _Trackio, "tensorboard": _TensorBoard, "wandb": _Wandb}
