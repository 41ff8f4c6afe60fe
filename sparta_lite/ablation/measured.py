"""What one finished run measured, and what it cost, from its files."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean
from typing import Any

from sparta_lite.campaign.store import METRICS_KEYS, Store
from sparta_lite.files import read_lines
from sparta_lite.outcome.finished import evaluations


def curves(path: Path) -> list[dict[str, Any]]:
    """Per task what was measured iteration by iteration.

    ::

        task, judged, items
        iterations   after how many iterations, 0 first
        adapters     name -> accuracy at each, or the mean score from 1 to 10 where ``judged``
        mean, best, worst    of the tribe at each
        best_init    the best adapter at 0
        base         the bare base

    None stands where no judgment was valid; a mean of what is not known is not known.
    """
    rows = list(evaluations(Store(path)).values())
    found = []
    for place, first in enumerate(rows[0]["tasks"]):
        points = [row["tasks"][place] for row in rows]
        values = [list(point["accuracy"].values()) for point in points]
        known = [None if None in each else each for each in values]
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
                "best_init": known[0] and max(known[0]),
                "base": first["base"],
            }
        )
    return found


def cost(path: Path) -> dict[str, Any]:
    """What a run took.

    ::

        seconds   of all phases but the evaluation, work that a kill made it do again included
        phases    phase -> seconds
        answers   generated in its duels; those to held-out questions and of judges are not among them
        updates   optimizer steps, counted per adapter
    """
    store = Store(path)
    spent: dict[tuple[int, int, str], float] = {}
    answers: dict[int, int] = {}
    process = 0
    for row in read_lines(store.events):
        if row["event"] == "RunStarted":
            process += 1
        elif row["event"] == "PhaseStarted" and row["phase"] == "generate":
            answers[row["iteration"]] = row["total"]
        elif row["event"] in ("PhaseProgress", "PhaseFinished"):
            part = (process, row["iteration"], row["phase"])
            spent[part] = max(spent.get(part, 0.0), row["seconds"])
    phases: dict[str, float] = {}
    for (_, _, phase), seconds in spent.items():
        phases[phase] = phases.get(phase, 0.0) + seconds
    return {
        "seconds": sum(seconds for phase, seconds in phases.items() if phase != "evaluate"),
        "phases": phases,
        "answers": sum(answers.values()),
        "updates": sum(row["kind"] == "training" for row in read_lines(store.metrics, METRICS_KEYS)),
    }
