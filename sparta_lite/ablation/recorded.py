"""``summary.json`` read back: whole, of its ablation, and fit to be shown."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from sparta_lite.ablation.grid import Grid
from sparta_lite.campaign.metrics import Figure
from sparta_lite.errors import SpartaError
from sparta_lite.typed import Count, Form, Number, Positive, Seconds, parse, read_bytes

FORMAT = 2
"""Version of the form of ``summary.json`` and ``table.json``."""

Points = tuple[Figure | None, ...]


@dataclass(frozen=True)
class _Curve:
    task: str
    judged: bool
    items: Positive
    iterations: Annotated[tuple[Count, ...], Field(min_length=1)]
    adapters: dict[str, Points]
    mean: Points
    best: Points
    worst: Points
    best_init: Figure | None
    base: Figure | None


@dataclass(frozen=True)
class _Run:
    run: str
    seed: Count
    seconds: Seconds
    phases: dict[str, Seconds]
    answers: Count
    references: Count
    updates: Count
    warnings: tuple[str, ...]
    tasks: Annotated[tuple[_Curve, ...], Field(min_length=1)]


@dataclass(frozen=True)
class _Arm:
    name: str
    settings: tuple[str, ...]
    runs: tuple[_Run, ...]


@dataclass(frozen=True)
class _Row:
    task: str
    arm: str
    kind: Literal["arm", "baseline"]
    runs: Count
    mean: Number | None
    sd: Number | None
    difference: Number | None
    low: Number | None
    high: Number | None
    bootstrap_low: Number | None
    bootstrap_high: Number | None
    separable: bool | None
    verdict: Annotated[str, Field(min_length=1)]
    start: Number | None
    gain: Number | None
    best: Number | None
    worst: Number | None
    best_init: Number | None
    base: Number | None
    seconds: Number | None
    answers: Number | None
    references: Number | None
    updates: Number | None


@dataclass(frozen=True)
class _Warning:
    text: str
    alike: Positive
    runs: dict[str, Count]


@dataclass(frozen=True)
class _Summary:
    paired: bool
    seeds: Positive
    versions: dict[str, str]
    intervals: str
    arms: tuple[_Arm, ...]
    rows: tuple[_Row, ...]
    warnings: tuple[_Warning, ...]


@dataclass(frozen=True)
class _Version:
    format: int


def read_summary(grid: Grid, path: Path, advice: str) -> Mapping[str, Any]:
    """The results of a grid as ``summary.summarize`` gave them.

    Args:
        grid: the ablation.
        path: ``summary.json``.
        advice: what makes the file anew.

    Raises:
        SpartaError: the file is missing, damaged, of another version, or older than the last arms or seeds.
    """
    data, where = read_bytes(path), str(path)
    if Form(_Version, advice).of(data, where).format != FORMAT:
        raise SpartaError(f"{path}: not of this version's form, {FORMAT}; {advice}")
    found = Form(_Summary, advice).of(data, where)
    if [arm.name for arm in found.arms] != [arm.name for arm in grid.arms] or found.seeds != grid.seeds:
        raise SpartaError(f"{path}: is older than the last arms or seeds; {advice}")
    if wrong := _fault(found, grid):
        raise SpartaError(f"{path}: {wrong}; {advice}")
    summary: Mapping[str, Any] = parse(data, where)
    return summary


def _fault(found: _Summary, grid: Grid) -> str | None:
    """What does not fit the rest; None where all does."""
    names = [arm.name for arm in found.arms]
    for place, arm in enumerate(found.arms):
        runs = [grid.run(place, number).path.relative_to(grid.root) for number in range(grid.seeds)]
        if [run.run for run in arm.runs] != [run.as_posix() for run in runs]:
            return f"the runs of {arm.name} are not those of the ablation"
    tasks = [curve.task for curve in found.arms[0].runs[0].tasks]
    for arm in found.arms:
        for run in arm.runs:
            if [curve.task for curve in run.tasks] != tasks:
                return f"{run.run} was measured by other tasks"
            for curve, first in zip(run.tasks, arm.runs[0].tasks, strict=True):
                points = (curve.iterations, curve.mean, curve.best, curve.worst, *curve.adapters.values())
                if {len(each) for each in points} != {len(first.iterations)}:
                    return f"{run.run} was measured at other iterations"
    lines = [*((name, "arm") for name in names), ("best init", "baseline"), ("bare base", "baseline")]
    rows = [(row.task, row.arm, row.kind) for row in found.rows]
    if rows != [(task, *each) for task in tasks for each in lines]:
        return "its table has not a row per arm"
    if any((row.low is None) != (row.high is None) or _ends_alone(row) for row in found.rows):
        return "an interval in its table has one end"
    return None if all(set(each.runs) <= set(names) for each in found.warnings) else "an arm has no name"


def _ends_alone(row: _Row) -> bool:
    return row.difference is None and row.low is not None
