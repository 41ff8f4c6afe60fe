"""What the tribe and the bare base can do on held-out questions: measured, never learned from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sparta_lite.campaign.arena import Arena
from sparta_lite.campaign.events import Evaluated, Scored
from sparta_lite.campaign.examining import Sheet, examine
from sparta_lite.data.task import Task


def evaluate(arena: Arena, iteration: int) -> None:
    """Greedy answers of every adapter and of the bare base to the questions of every task.

    An iteration is one row in the metrics: the first task's figures at its top, those of all of them,
    in their order, under ``tasks``. What is called accuracy there is the mean score from 1 to 10 where
    ``judged``, and null where no judgment was valid.
    """
    if not arena.tasks:
        return
    known = {row["iteration"]: row for row in arena.metrics.rows if row["kind"] == "evaluation"}
    row = known.get(iteration)
    if row is None:
        row = {"kind": "evaluation", "iteration": iteration, **_measured(arena, iteration, known)}
        arena.metrics.append([row])
    for of_task in row["tasks"]:
        kind = Scored if of_task["judged"] else Evaluated
        arena.listener(
            kind(iteration, of_task["accuracy"], of_task["base"], of_task["task"], of_task["unparsed"])
        )


def is_measured(arena: Arena, iteration: int) -> bool:
    """Whether the metrics hold all that there is to measure after ``iteration`` iterations."""
    return not arena.tasks or any(
        row["kind"] == "evaluation" and row["iteration"] == iteration for row in arena.metrics.rows
    )


def _measured(arena: Arena, iteration: int, known: Mapping[int, Any]) -> dict[str, Any]:
    # The bare base never changes: it is asked once.
    earlier = next(iter(known.values()))["tasks"] if known else [None] * len(arena.tasks)
    names: list[str | None] = [*arena.tribe] if known else [*arena.tribe, None]
    total = len(names) * sum(len(task.questions) for task in arena.tasks)
    with arena.phase(iteration, "evaluate", total) as meter:
        sheets = examine(
            arena.config, arena.base, arena.bank, arena.chat, arena.tasks, names, meter.add, arena.on_shrink
        )
    tasks = [
        _row(arena, task, sheets[task.name], before)
        for task, before in zip(arena.tasks, earlier, strict=True)
    ]
    first = {key: tasks[0][key] for key in ("items", "accuracy", "base", "by_skill")}
    return {**first, "tasks": tasks}


def _row(
    arena: Arena, task: Task, sheets: Mapping[str | None, Sheet], before: Mapping[str, Any] | None
) -> dict[str, Any]:
    return {
        "task": task.name,
        "judged": task.grade is None,
        "items": len(task.questions),
        "accuracy": {name: sheets[name].value for name in arena.tribe},
        "base": sheets[None].value if before is None else before["base"],
        "unparsed": {name: sheets[name].unparsed for name in arena.tribe},
        "base_unparsed": sheets[None].unparsed if before is None else before["base_unparsed"],
        "by_skill": {name: sheets[name].by_group() for name in arena.tribe},
    }
