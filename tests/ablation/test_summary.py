"""From the files of finished runs to a table: figures, costs, words, and the files that hold them."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pytest
from scipy import stats

from sparta_lite.ablation.arms import load_arms
from sparta_lite.ablation.grid import Grid, new_grid
from sparta_lite.ablation.measured import cost, curves, read_rows
from sparta_lite.ablation.summary import COLUMNS, summarize, write_results
from sparta_lite.files import read_json, write_json, write_lines

from ..run_files import evaluation, run_record, run_started, task_figures

START = {"ada": 0.5, "ben": 0.25}
ENDS = {  # arm -> per seed what both adapters end at
    "first": [(0.75, 0.5), (0.625, 0.5), (0.75, 0.25)],
    "better": [(0.875, 0.75), (0.75, 0.75), (0.875, 0.625)],
    "same": [(0.75, 0.5), (0.625, 0.5), (0.75, 0.25)],
    "unclear": [(0.75, 0.75), (0.5, 0.5), (0.5, 0.5)],
}


def leave_run(
    path: Path,
    end: tuple[float | None, float | None],
    judged: bool = False,
    learners: tuple[str, ...] = tuple(START),
    hostile: tuple[str, ...] = (),
    warned: tuple[str, ...] = (),
) -> None:
    """The files of a finished run, as far as an ablation reads them: one iteration, killed once in it."""

    points = [START, dict(zip(START, end, strict=True))]
    rows: list[Any] = [
        evaluation(number, [task_figures("quiz", point, judged=judged)])
        for number, point in enumerate(points)
    ]
    budget = {
        "learners": list(learners),
        "generated": 12,
        "reference_answers": 3,
        "judgments": 0,
        "optimizer_steps": 4,
    }
    rows[1:1] = [{"kind": "budget", "iteration": 0, **budget}]
    path.mkdir(parents=True, exist_ok=True)
    write_json(path / "run.json", run_record(hostile=list(hostile)))
    write_lines(path / "metrics.jsonl", rows)
    progress = {"phase": "generate", "done": 1, "total": 12, "tokens": 0, "memory": 1}
    events = [
        ("RunStarted", run_started(START)),
        ("PhaseStarted", {"phase": "evaluate", "total": 16}),
        ("PhaseFinished", {"phase": "evaluate", "seconds": 100.0, "tokens": 0}),
        ("PhaseStarted", {"phase": "generate", "total": 12}),
        ("PhaseProgress", {**progress, "seconds": 1.0}),
        ("PhaseProgress", {**progress, "seconds": 2.0}),
        ("RunStarted", run_started(START)),
        ("PhaseStarted", {"phase": "generate", "total": 12}),
        ("PhaseProgress", {**progress, "seconds": 3.0}),
        ("PhaseFinished", {"phase": "generate", "seconds": 4.0, "tokens": 0}),
        ("PhaseFinished", {"phase": "train", "seconds": 8.0, "tokens": 0}),
    ]
    told = [{"event": name, "time": 1e9, "iteration": 0, **fields} for name, fields in events]
    warnings = [{"event": "Warned", "time": 1e9, "message": text} for text in warned]
    write_lines(path / "events.jsonl", told + warnings)


def left(root: Path, paired: bool = True, ends: dict[str, list[Any]] | None = None) -> Grid:
    """``ends``: of a judged task."""
    judged, ends = ends is not None, ends or ENDS
    grid = new_grid(root, load_arms(None, [], dict.fromkeys(ends, ())), 3, paired)
    for place, values in enumerate(ends.values()):
        for number, end in enumerate(values):
            leave_run(grid.run(place, number).path, end, judged)
    return grid


def by_arm(summary: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {row["arm"]: row for row in summary["rows"]}


def test_figures_of_an_arm_are_those_of_its_runs(tmp_path: Path) -> None:
    rows = by_arm(summarize(left(tmp_path)))
    means = [fmean(end) for end in ENDS["better"]]
    assert list(rows) == [*ENDS, "best init", "bare base"]
    row = rows["better"]
    assert (row["runs"], row["kind"], row["task"]) == (3, "arm", "quiz")
    assert (row["mean"], row["sd"]) == pytest.approx((fmean(means), np.std(means, ddof=1)))
    assert (row["best"], row["worst"]) == pytest.approx((2.5 / 3, 2.125 / 3))
    assert (row["start"], row["best_init"], row["base"]) == (0.375, 0.5, 0.125)
    assert row["gain"] == pytest.approx(fmean(means) - 0.375)
    assert rows["best init"]["gain"] is None
    assert (row["answers"], row["references"], row["updates"]) == (12, 3, 4)
    assert (rows["best init"]["mean"], rows["bare base"]["mean"]) == (0.5, 0.125)


def test_a_cost_counts_what_a_kill_made_a_run_do_again_and_leaves_the_evaluation_out(tmp_path: Path) -> None:
    leave_run(tmp_path, (0.5, 0.5))
    assert cost(read_rows(tmp_path)) == {
        "seconds": 2 + 4 + 8,
        "phases": {"evaluate": 100, "generate": 6, "train": 8},
        "answers": 12,
        "references": 3,
        "updates": 4,
    }


def test_a_baseline_is_judged_by_its_learner_and_a_spoiled_tribe_by_its_healthy_half(tmp_path: Path) -> None:
    leave_run(tmp_path / "alone", (0.875, 0.25), learners=("ada",))
    leave_run(tmp_path / "spoiled", (0.875, 0.25), hostile=("ada",))
    (alone,), (spoiled,) = (curves(read_rows(tmp_path / name)) for name in ("alone", "spoiled"))
    assert (alone["mean"], alone["best"], alone["worst"]) == ([0.5, 0.875],) * 3
    assert (spoiled["mean"], spoiled["best"], spoiled["best_init"]) == ([0.25, 0.25], [0.25, 0.25], 0.25)
    assert alone["best_init"] == 0.5
    assert spoiled["adapters"]["ada"] == [0.5, 0.875]


@pytest.mark.parametrize("paired", [True, False])
def test_differences_are_to_the_first_arm(tmp_path: Path, paired: bool) -> None:
    rows = by_arm(summarize(left(tmp_path, paired)))
    ours, others = ([fmean(end) for end in ENDS[arm]] for arm in ("unclear", "first"))
    test = stats.ttest_rel(ours, others) if paired else stats.ttest_ind(ours, others, equal_var=False)
    interval = test.confidence_interval(0.95)
    row = rows["unclear"]
    assert row["difference"] == pytest.approx(fmean(ours) - fmean(others))
    assert (row["low"], row["high"]) == pytest.approx((interval.low, interval.high), rel=1e-6)
    assert row["bootstrap_low"] <= row["difference"] <= row["bootstrap_high"]


def test_what_the_seeds_cannot_tell_apart_is_said(tmp_path: Path) -> None:
    rows = by_arm(summarize(left(tmp_path)))
    assert {name: row["verdict"] for name, row in rows.items()} == {
        "first": "reference",
        "better": "higher",
        "same": "no difference with 3 seeds",
        "unclear": "not separable from no effect with 3 seeds",
        "best init": "not separable from no effect with 3 seeds",
        "bare base": "lower",
    }
    assert (rows["same"]["difference"], rows["same"]["low"], rows["same"]["high"]) == (0, None, None)
    grid = new_grid(tmp_path, left(tmp_path).arms, 1, True)
    assert by_arm(summarize(grid))["better"]["verdict"] == "1 seed shows no spread to judge it by"


def test_a_run_that_could_not_be_measured_is_in_no_mean(tmp_path: Path) -> None:
    ends = {"first": [(6.0, 8.0), (7.0, 7.0), (6.5, 7.0)], "other": [(5.0, 5.0), (None, 9.0), (6.0, 5.0)]}
    row = by_arm(summarize(left(tmp_path, ends=ends)))["other"]
    assert (row["runs"], row["mean"]) == (2, 5.25)
    assert row["gain"] == 5.25 - 0.375
    assert row["difference"] == pytest.approx(fmean([5 - 7, 5.5 - 6.75]))
    assert curves(read_rows(tmp_path / "other" / "seed-1"))[0]["mean"] == [0.375, None]


def test_what_runs_warned_of_is_said_once_with_whose_runs_they_were(tmp_path: Path) -> None:
    grid = left(tmp_path)
    slow = "kernels: torch computes"
    few = [f"iteration {number}: its pairs ({number + 7}) make one step" for number in range(3)]
    for arm, number, told in (
        *((0, 0, (few[0], few[1], few[0])), (0, 2, (few[1], slow)), (1, 1, (few[2],))),
        *((1, place, ()) for place in (0, 2)),
    ):
        leave_run(grid.run(arm, number).path, (0.5, 0.5), warned=told)
    summary = summarize(grid)
    assert summary["warnings"] == [
        {"text": few[0], "alike": 3, "runs": {"first": 2, "better": 1}},
        {"text": slow, "alike": 1, "runs": {"first": 1}},
    ]
    assert summary["arms"][0]["runs"][0]["warnings"] == few[:2]


def test_tables_read_back_as_they_were_written(tmp_path: Path) -> None:
    summary = summarize(left(tmp_path))
    write_results(tmp_path, summary)
    assert read_json(tmp_path / "summary.json") == json.loads(json.dumps(summary))
    assert read_json(tmp_path / "table.json")["rows"] == summary["rows"]
    with (tmp_path / "table.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert tuple(lines[0]) == COLUMNS
    for line, row in zip(lines, summary["rows"], strict=True):
        for name in COLUMNS:
            kind = str if row[name] is None or isinstance(row[name], str | bool) else float
            assert kind(line[name]) == ("" if row[name] is None else kind(row[name]))
