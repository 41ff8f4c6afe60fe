"""What one finished run measured, and what it cost, from its files."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean
from typing import Any

from sparta_lite.campaign.records import who_learns
from sparta_lite.campaign.store import METRICS_KEYS, Store
from sparta_lite.files import read_lines
from sparta_lite.outcome.finished import evaluations


def curves(path: Path) -> list[dict[str, Any]]:
    """Per task what was measured iteration by iteration.

    ::

        task, judged, items
        iterations   after how many iterations, 0 first
        adapters     name -> accuracy at each, or the mean score from 1 to 10 where ``judged``
        mean, best, worst    at each, of the adapters that the run is judged by (``judged_by``)
        best_init    the best adapter at 0 that is not hostile
        base         the bare base

    None stands where no judgment was valid; a mean of what is not known is not known.
    """
    store = Store(path)
    rows = list(evaluations(store).values())
    members, spoilers = judged_by(path), store.read_run()["hostile"]
    found = []
    for place, first in enumerate(rows[0]["tasks"]):
        points = [row["tasks"][place] for row in rows]
        values = [[point["accuracy"][name] for name in members] for point in points]
        known = [None if None in each else each for each in values]
        initial = [value for name, value in points[0]["accuracy"].items() if name not in spoilers]
        found.append(
            {
                "task": first["task"],
                "judged": first["judged"],
                "items": first["items"],
                "iterations": [row["iteration"] for row in rows],
                "adapters": {
                    name: [point["accuracy"][name] for point in points] for name in first["accuracy"]
                },
                "mean": [each and fmean(each) for each in known],
                "best": [each and max(each) for each in known],
                "worst": [each and min(each) for each in known],
                "best_init": None if None in initial else max(initial),
                "base": first["base"],
            }
        )
    return found


def judged_by(path: Path) -> list[str]:
    """The adapters that a run's accuracy is that of: those that learned, hostile ones left out."""
    store = Store(path)
    spoilers = store.read_run()["hostile"]
    learned = who_learns(read_lines(store.metrics, METRICS_KEYS)) or ()
    return [name for name in learned if name not in spoilers]


def cost(path: Path) -> dict[str, Any]:
    """What a run took.

    ::

        seconds   of all phases but the evaluation, work that a kill made it do again included
        phases    phase -> seconds
        answers   generated in its duels; those to held-out questions and of judges are not among them
        references    reference answers that it was shown, as SPIN is
        updates   optimizer steps at a learning rate above 0, of every adapter that learns
    """
    store = Store(path)
    spent: dict[tuple[int, int, str], float] = {}
    process = 0
    for row in read_lines(store.events):
        if row["event"] == "RunStarted":
            process += 1
        elif row["event"] in ("PhaseProgress", "PhaseFinished"):
            part = (process, row["iteration"], row["phase"])
            spent[part] = max(spent.get(part, 0.0), row["seconds"])
    phases: dict[str, float] = {}
    for (_, _, phase), seconds in spent.items():
        phases[phase] = phases.get(phase, 0.0) + seconds
    budgets = {
        row["iteration"]: row for row in read_lines(store.metrics, METRICS_KEYS) if row["kind"] == "budget"
    }
    return {
        "seconds": sum(seconds for phase, seconds in phases.items() if phase != "evaluate"),
        "phases": phases,
        "answers": sum(row["generated"] for row in budgets.values()),
        "references": sum(row["reference_answers"] for row in budgets.values()),
        "updates": sum(row["optimizer_steps"] for row in budgets.values()),
    }


def warnings(path: Path) -> list[str]:
    """What a run warned of, each text once, in order."""
    told = [row["message"] for row in read_lines(Store(path).events) if row["event"] == "Warned"]
    return list(dict.fromkeys(told))
