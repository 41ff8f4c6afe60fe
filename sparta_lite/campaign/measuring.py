"""What the tribe and the bare base can do on held-out questions: measured, never learned from."""

from __future__ import annotations

from collections.abc import Mapping

from sparta_lite.campaign.arena import Arena
from sparta_lite.campaign.events import Evaluated, Event, Scored
from sparta_lite.campaign.examining import Sheet, examine
from sparta_lite.campaign.metrics import Evaluation, TaskFigures, evaluations
from sparta_lite.data.task import Task


def evaluate(arena: Arena, iteration: int) -> None:
    """Greedy answers of every adapter and of the bare base to the questions of every task.

    An iteration is one row in the metrics: the first task's figures at its top, those of all of them,
    in their order, under ``tasks``. What is called accuracy there is the mean score from 1 to 10 where
    ``judged``, and null where no judgment was valid.
    """
    if not arena.tasks:
        return
    known = evaluations(arena.metrics.rows)
    row = known.get(iteration)
    if row is None:
        row = _measured(arena, iteration, known)
        arena.metrics.add([row])
    for each in row.tasks:
        arena.listener(_event(iteration, each))


def _event(iteration: int, figures: TaskFigures) -> Event:
    if figures.judged:
        return Scored(iteration, figures.accuracy, figures.base, figures.task, figures.unparsed)
    known = {name: value for name, value in figures.accuracy.items() if value is not None}
    return Evaluated(iteration, known, figures.base or 0.0, figures.task, figures.unparsed)


def is_measured(arena: Arena, iteration: int) -> bool:
    """Whether the metrics hold all that there is to measure after ``iteration`` iterations."""
    return not arena.tasks or iteration in evaluations(arena.metrics.rows)


def _measured(arena: Arena, iteration: int, known: Mapping[int, Evaluation]) -> Evaluation:
    # The bare base never changes: it is asked once.
    earlier = next(iter(known.values())).tasks if known else [None] * len(arena.tasks)
    names: list[str | None] = [*arena.tribe] if known else [*arena.tribe, None]
    total = len(names) * sum(len(task.questions) for task in arena.tasks)
    with arena.phase(iteration, "evaluate", total) as meter:
        sheets = examine(
            arena.config, arena.base, arena.bank, arena.chat, arena.tasks, names, meter.add, arena.on_shrink
        )
    tasks = tuple(
        _figures(arena, task, sheets[task.name], before)
        for task, before in zip(arena.tasks, earlier, strict=True)
    )
    first = tasks[0]
    return Evaluation(iteration, first.items, first.accuracy, first.base, first.by_skill, tasks)


def _figures(
    arena: Arena, task: Task, sheets: Mapping[str | None, Sheet], before: TaskFigures | None
) -> TaskFigures:
    return TaskFigures(
        task=task.name,
        judged=task.grade is None,
        items=len(task.questions),
        accuracy={name: sheets[name].value for name in arena.tribe},
        base=sheets[None].value if before is None else before.base,
        unparsed={name: sheets[name].unparsed for name in arena.tribe},
        base_unparsed=sheets[None].unparsed if before is None else before.base_unparsed,
        by_skill={name: sheets[name].by_group() for name in arena.tribe},
    )
