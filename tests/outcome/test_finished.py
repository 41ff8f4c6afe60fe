"""A run opened again, and which of its adapters is best."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from sparta_lite.campaign.config import load_config, show_config
from sparta_lite.campaign.metrics import evaluations
from sparta_lite.campaign.reading import read_trace
from sparta_lite.campaign.run_record import FORMAT
from sparta_lite.errors import SpartaError
from sparta_lite.files import write_json, write_lines
from sparta_lite.outcome.finished import best_adapter, open_run
from sparta_lite.show.follow import condition

from ..run_files import evaluation, reputation, run_record, task_figures

TRIBE = ("cyd", "ada", "ben")


@pytest.fixture
def recorded(tmp_path: Path, base_path: Path, adapter_paths: dict[str, Path]) -> Path:
    """A run of two complete iterations and a third that is being trained."""
    adapters = "{" + ", ".join(f"{name}: {adapter_paths[name]}" for name in TRIBE) + "}"
    path = tmp_path / "run"
    path.mkdir()
    (path / "config.yaml").write_text(
        show_config(load_config(None, [f"base={base_path}", f"tribe.adapters={adapters}"]))
    )
    write_json(path / "run.json", run_record(status="running"))
    for iteration in range(3):
        ratings = {name: 100.0 + rank for rank, name in enumerate(TRIBE)}
        write_json(path / f"iteration-{iteration:02d}" / "reputation.json", reputation(iteration, ratings))
    for iteration, name in [(iteration, name) for iteration in range(2) for name in TRIBE]:
        shutil.copytree(adapter_paths[name], path / f"iteration-{iteration:02d}" / "adapters" / name)
    return path


def measured(path: Path, iteration: int, **tasks: tuple[bool, list[float | None]]) -> dict[str, Any]:
    """Task -> whether it is judged, and the figures of cyd, ada and ben."""
    rows = [
        task_figures(task, dict(zip(TRIBE, values, strict=True)), judged=judged)
        for task, (judged, values) in tasks.items()
    ]
    return evaluation(iteration, rows)


def test_iterations_are_counted_as_people_are_shown_them(
    recorded: Path, adapter_paths: dict[str, Path]
) -> None:
    last = open_run(recorded)
    assert (last.iteration, last.tribe) == (2, TRIBE)
    assert last.adapters == {name: recorded / "iteration-01" / "adapters" / name for name in TRIBE}
    assert open_run(recorded, 1).place("ben") == recorded / "iteration-00" / "adapters" / "ben"
    assert open_run(recorded, 0).adapters == {name: adapter_paths[name] for name in TRIBE}


def test_later_iterations_do_not_need_the_initial_adapters(recorded: Path) -> None:
    config = recorded / "config.yaml"
    config.write_text(config.read_text().replace("/ada", "/gone"))
    assert open_run(recorded).tribe == TRIBE


@pytest.mark.parametrize("iteration", [3, -1])
def test_an_iteration_that_is_not_complete_is_refused(recorded: Path, iteration: int) -> None:
    with pytest.raises(SpartaError, match=f"iteration {iteration} is not complete; give one from 0 to 2"):
        open_run(recorded, iteration)


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpartaError, match="not a run's directory; give one that `sparta-lite run` made"):
        open_run(tmp_path)


def test_an_ablation_is_no_run_and_says_where_its_runs_are(tmp_path: Path) -> None:
    (tmp_path / "ablation.json").write_text("{}")
    with pytest.raises(SpartaError, match="is an ablation, not a run; give one of its runs when the first"):
        open_run(tmp_path)
    write_json(tmp_path / "kind=paper" / "seed-0" / "run.json", {})
    for opened in (open_run, condition, read_trace):
        with pytest.raises(SpartaError, match=r"such as .*/kind=paper/seed-0, or see all of them"):
            opened(tmp_path)


def test_unknown_and_untrained_adapters_are_refused(recorded: Path) -> None:
    with pytest.raises(SpartaError, match="has no adapter 'dan'; its tribe is cyd, ada, ben"):
        open_run(recorded).place("dan")
    config = recorded / "config.yaml"
    base = load_config(config).base
    config.write_text(show_config(load_config(None, [f"base={base}", "tribe.adapters=fresh-3"])))
    with pytest.raises(SpartaError, match="fresh-2 has learned nothing at iteration 0; choose a later one"):
        open_run(recorded, 0).place("fresh-2")


def test_best_is_who_did_best_in_the_evaluation_of_that_iteration(recorded: Path) -> None:
    write_lines(
        recorded / "metrics.jsonl",
        [
            measured(recorded, 0, sums=(False, [0.1, 0.2, 0.9])),
            # ben has the highest reputation throughout.
            measured(recorded, 2, sums=(False, [0.4, 0.6, 0.5])),
        ],
    )
    assert list(evaluations(open_run(recorded).metrics())) == [0, 2]
    assert best_adapter(open_run(recorded)) == "ada"
    assert best_adapter(open_run(recorded, 0)) == "ben"
    with pytest.raises(SpartaError, match=r"nothing was measured at iteration 1, .* or --iteration 0 or 2"):
        best_adapter(open_run(recorded, 1))


def test_a_hostile_adapter_is_not_the_best(recorded: Path) -> None:
    write_lines(recorded / "metrics.jsonl", [measured(recorded, 2, sums=(False, [0.4, 0.6, 0.9]))])
    assert best_adapter(open_run(recorded)) == "ben"
    config = recorded / "config.yaml"
    config.write_text(show_config(load_config(config, ["tribe.hostile=1"])))
    assert open_run(recorded).hostile == ("ben",)
    assert best_adapter(open_run(recorded)) == "ada"


def test_several_tasks_count_alike(recorded: Path) -> None:
    # Means on a scale from 0 to 1: cyd (0.9 + 0) / 2, ada (0.5 + 5/9) / 2, ben's judgments all failed.
    tasks = {"sums": (False, [0.9, 0.5, 1.0]), "tales": (True, [1.0, 6.0, None])}
    write_lines(recorded / "metrics.jsonl", [measured(recorded, 2, **tasks)])
    assert best_adapter(open_run(recorded)) == "ada"


def test_without_a_measurement_none_is_best(recorded: Path) -> None:
    with pytest.raises(
        SpartaError, match=r"nothing was measured at iteration 2, so none is best; name an adapter$"
    ):
        best_adapter(open_run(recorded))


def test_a_run_of_another_version_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("{}")
    (tmp_path / "run.json").write_text(json.dumps({"format": FORMAT - 1, "status": "finished"}))
    with pytest.raises(SpartaError, match="not of this version's form"):
        open_run(tmp_path)
