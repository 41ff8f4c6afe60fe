"""What one finished run measured, and what it cost, from its files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from sparta_lite.campaign.events import Event, PhaseFinished, PhaseProgress, RunStarted, Warned, read_events
from sparta_lite.campaign.metrics import Budget, Evaluation, Metric, evaluations, of_kind, who_learns
from sparta_lite.campaign.reading import read_metrics
from sparta_lite.campaign.store import Store
from sparta_lite.errors import SpartaError
from sparta_lite.typed import RESTORE


@dataclass(frozen=True)
class RunRows:
    """What a finished run has left, as far as an ablation looks at it."""

    events: Sequence[Event]
    metrics: Sequence[Metric]
    evaluations: Sequence[Evaluation]
    """In the order of iterations, one at least."""
    hostile: Sequence[str]

    @property
    def members(self) -> list[str]:
        """The adapters that the run's accuracy is that of: those that learned, hostile ones left out."""
        return [name for name in who_learns(self.metrics) or () if name not in self.hostile]


def read_rows(path: Path) -> RunRows:
    """Read the finished run in ``path``.

    Raises:
        SpartaError: a file is damaged.
    """
    store = Store(path)
    events = read_events(store.content(store.events), store.events)
    start = next((event for event in events if isinstance(event, RunStarted)), None)
    if start is None:
        raise SpartaError(f"{store.events}: does not say that the run began; {RESTORE}")
    metrics = read_metrics(store, start.tribe, start.iterations)
    measured = tuple(evaluations(metrics).values())
    if not measured:
        raise SpartaError(f"{store.metrics}: holds no evaluation, though the run is finished; {RESTORE}")
    return RunRows(events, metrics, measured, store.read_run().hostile)


def curves(run: RunRows) -> list[dict[str, Any]]:
    """Per task what was measured iteration by iteration.

    ::

        task, judged, items
        iterations   after how many iterations, 0 first
        adapters     name -> accuracy at each, or the mean score from 1 to 10 where ``judged``
        mean, best, worst    at each, of the adapters that the run is judged by (``RunRows.members``)
        best_init    the best adapter at 0 that is not hostile
        base         the bare base

    None stands where no judgment was valid; a mean of what is not known is not known.
    """
    found = []
    for place, first in enumerate(run.evaluations[0].tasks):
        points = [row.tasks[place] for row in run.evaluations]
        known = [_all_known([point.accuracy[name] for name in run.members]) for point in points]
        initial = _all_known([value for name, value in first.accuracy.items() if name not in run.hostile])
        found.append(
            {
                "task": first.task,
                "judged": first.judged,
                "items": first.items,
                "iterations": [row.iteration for row in run.evaluations],
                "adapters": {name: [point.accuracy[name] for point in points] for name in first.accuracy},
                "mean": [each and fmean(each) for each in known],
                "best": [each and max(each) for each in known],
                "worst": [each and min(each) for each in known],
                "best_init": initial and max(initial),
                "base": first.base,
            }
        )
    return found


def _all_known(values: Sequence[float | None]) -> list[float] | None:
    """The values; None where one is not known, or there are none."""
    known = [value for value in values if value is not None]
    return known if known and len(known) == len(values) else None


def cost(run: RunRows) -> dict[str, Any]:
    """What a run took.

    ::

        seconds   of all phases but the evaluation, work that a kill made it do again included
        phases    phase -> seconds
        answers   generated in its duels; those to held-out questions and of judges are not among them
        references    reference answers that it was shown, as SPIN is
        updates   optimizer steps at a learning rate above 0, of every adapter that learns
    """
    spent: dict[tuple[int, int, str], float] = {}
    process = 0
    for event in run.events:
        if isinstance(event, RunStarted):
            process += 1
        elif isinstance(event, PhaseProgress | PhaseFinished):
            part = (process, event.iteration, event.phase)
            spent[part] = max(spent.get(part, 0.0), event.seconds)
    phases: dict[str, float] = {}
    for (_, _, phase), seconds in spent.items():
        phases[phase] = phases.get(phase, 0.0) + seconds
    budgets = {row.iteration: row for row in of_kind(run.metrics, Budget)}
    return {
        "seconds": sum(seconds for phase, seconds in phases.items() if phase != "evaluate"),
        "phases": phases,
        "answers": sum(row.generated for row in budgets.values()),
        "references": sum(row.reference_answers for row in budgets.values()),
        "updates": sum(row.optimizer_steps for row in budgets.values()),
    }


def warnings(run: RunRows) -> list[str]:
    """What a run warned of, each text once, in order."""
    return list(dict.fromkeys(event.message for event in run.events if isinstance(event, Warned)))
