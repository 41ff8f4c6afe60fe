"""Files of a run as tests write them by hand: whole records, of which a test changes what it is about."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from sparta_lite.campaign.run_record import FORMAT

Figures = Mapping[str, float | None]


def run_record(**changes: Any) -> dict[str, Any]:
    """``run.json`` as an earlier version wrote it, without digests."""
    record = {
        "format": FORMAT,
        "status": "finished",
        "seed": 0,
        "algorithm": "sparta",
        "hostile": [],
        "device": "cpu",
        "threads": 1,
        "versions": {"sparta-lite": "0.1.0", "torch": "2", "transformers": "5", "peft": "0"},
        "choices": {},
        "hashes": {},
        "started": 1e9,
        "finished": 1e9 + 60,
    }
    return {**record, **changes}


def forget_digests(run: Path) -> Path:
    """Turn a run into one of an earlier version: its files may be edited from now on."""
    path = run / "run.json"
    record = json.loads(path.read_text())
    for key in ("sha256", "files"):
        record.pop(key, None)
    path.write_text(json.dumps(record))
    return run


def run_started(tribe: Iterable[str], **changes: Any) -> dict[str, Any]:
    """The event with which a run begins."""
    row = {
        "event": "RunStarted",
        "time": 1e9,
        "run": "run",
        "base": "base",
        "device": "cpu",
        "tribe": list(tribe),
        "iterations": 2,
        "duels": 6,
        "seed": 0,
        "resumed": False,
    }
    return {**row, **changes}


def task_figures(task: str, accuracy: Figures, base: float | None = 0.125, **changes: Any) -> dict[str, Any]:
    """What was measured in one task."""
    row = {
        "task": task,
        "judged": False,
        "items": 8,
        "accuracy": dict(accuracy),
        "base": base,
        "unparsed": dict.fromkeys(accuracy, 0),
        "base_unparsed": 0,
        "by_skill": {name: {} for name in accuracy},
    }
    return {**row, **changes}


def evaluation(iteration: int, tasks: list[dict[str, Any]]) -> dict[str, Any]:
    """A row of the metrics."""
    first = {key: tasks[0][key] for key in ("items", "accuracy", "base", "by_skill")}
    return {"kind": "evaluation", "iteration": iteration, **first, "tasks": tasks}


def reputation(iteration: int, reputations: Mapping[str, float]) -> dict[str, Any]:
    """``reputation.json`` of an iteration without a duel."""

    def standing(number: int) -> dict[str, Any]:
        rating = {"deviation": 0.5, "changes": []}
        ratings = {name: {"reputation": value, **rating} for name, value in reputations.items()}
        return {"iteration": number, "ratings": ratings, "factors": dict.fromkeys(reputations, 1.0)}

    return {
        "iteration": iteration,
        "before": standing(iteration),
        "after": standing(iteration + 1),
        "judge_weights": dict.fromkeys(reputations, 1 / len(reputations)),
        "tally": {name: {"wins": 0, "losses": 0, "draws": 0} for name in reputations},
        "verdicts": [],
    }
