"""A run's adapters after any iteration, and the bare base, measured anew in one load of the base."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sparta_lite.campaign.examining import Sheet, examine
from sparta_lite.campaign.planning import is_planned, planned
from sparta_lite.campaign.provenance import versions
from sparta_lite.campaign.resident import choose, held_here, load_resident
from sparta_lite.campaign.settings import Config
from sparta_lite.campaign.tasks import held_out
from sparta_lite.data.task import Task
from sparta_lite.engine.decode import Progress
from sparta_lite.errors import SpartaError
from sparta_lite.outcome import harness
from sparta_lite.outcome.finished import Finished

FORMAT = 1
"""Version of the record's form."""

INTERVALS = (
    "95 %: Wilson's score interval for a share of right answers, percentile bootstrap over the questions "
    "for a mean score"
)


def tasks_of(
    run: Finished, names: Sequence[str] | None, paths: Mapping[str, str], items: int | None
) -> tuple[Config, tuple[Task, ...]]:
    """The tasks to measure a run by, and its settings with them.

    Args:
        run: whose settings say what is not given.
        names: tasks; None: those of the run. Only where it is empty there may be none.
        paths: task -> its file.
        items: questions per task; None: as many as in the run.

    Raises:
        SpartaError: there is nothing to measure by, or a task cannot be loaded.
    """
    settings = run.config.evaluation
    chosen = settings.tasks if names is None else list(names)
    known = {task: path for task, path in settings.paths.items() if chosen is None or task in chosen}
    changes = {
        "tasks": chosen,
        "paths": {**known, **paths},
        "items": settings.items if items is None else items,
    }
    config = run.config.model_copy(update={"evaluation": settings.model_copy(update=changes)})
    tasks = held_out(config)
    if not tasks and (names is None or names):
        raise SpartaError(
            f"{run.store.root}: its settings ask for no held-out questions; choose with --tasks and --items"
        )
    return config, tasks


def measure(
    run: Finished,
    config: Config,
    adapters: Sequence[str],
    tasks: Sequence[Task],
    order: harness.Order | None,
    progress: Progress,
    say: harness.Say,
) -> dict[str, Any]:
    """Everything that was asked for, as one record to be saved as JSON.

    Args:
        run: as it stood after some iteration.
        config: its settings, with what is to be measured in place of what was.
        adapters: which of the tribe; the bare base always comes with them.
        tasks: ours.
        order: the harness's, None for none.
        progress: told after every step over our tasks.
        say: told what begins.

    Raises:
        SpartaError: the base, an adapter or a task cannot be loaded.
    """
    loaded = None if order is None else harness.load_tasks(order)
    record = run.store.read_run()
    choices = choose(config, training=False, record=record)
    config = held_here(config, choices, record)
    if not is_planned(config):
        _, config = planned(config, choices)
    resident = load_resident(config, choices, run.places(adapters), training=False, date=run.date)
    base, bank = resident.base, resident.bank
    names = [*adapters, None]
    sheets = examine(config, base, bank, resident.chat, tasks, names, progress) if tasks else {}
    return {
        "format": FORMAT,
        "run": str(run.store.root),
        "iteration": run.iteration,
        "created": time.time(),
        "versions": versions(),
        "adapters": list(adapters),
        "hostile": list(run.hostile),
        "intervals": INTERVALS,
        "tasks": [_task(task, sheets[task.name]) for task in tasks],
        "harness": None
        if order is None or loaded is None
        else harness.ask(config, base, bank, loaded, order, names, run.date, say),
    }


def free_file(run: Finished) -> Path:
    """Where the next record goes: ``evaluations/iteration-NN.json``, or a free ``-2``, ``-3``, ..."""
    place = run.store.root / "evaluations"
    name, number = f"iteration-{run.iteration:02d}", 1
    while (path := place / (f"{name}.json" if number == 1 else f"{name}-{number}.json")).exists():
        number += 1
    return path


def _task(task: Task, sheets: Mapping[str | None, Sheet]) -> dict[str, Any]:
    return {
        "task": task.name,
        "judged": task.grade is None,
        "items": len(task.questions),
        "results": {name: _figures(sheet) for name, sheet in sheets.items() if name is not None},
        "base": _figures(sheets[None]),
    }


def _figures(sheet: Sheet) -> dict[str, Any]:
    """What is called accuracy is the mean score from 1 to 10 where answers are judged."""
    return {
        "accuracy": sheet.value,
        "interval": sheet.interval,
        "unparsed": sheet.unparsed,
        "by_group": sheet.by_group(),
    }
