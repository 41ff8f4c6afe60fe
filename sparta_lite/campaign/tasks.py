"""What a run is measured by: the tasks with held-out questions that its settings name."""

from __future__ import annotations

from sparta_lite.campaign.settings import POCKET, Config
from sparta_lite.data.rows import parted
from sparta_lite.data.task import Mark, Question, Task
from sparta_lite.data.tasks import load_task, preset_of
from sparta_lite.errors import SpartaError
from sparta_lite.pocket import items


def held_out(config: Config) -> tuple[Task, ...]:
    """The tasks of ``config.evaluation``; empty when nothing is measured.

    Without names it is the task that the instructions come from, if they come from one.

    Raises:
        SpartaError: a name stands there twice, a path belongs to no task, or a task cannot be loaded.
    """
    settings = config.evaluation
    names = _own(config) if settings.tasks is None else settings.tasks
    if len(set(names)) < len(names):
        raise SpartaError(f"evaluation.tasks: {', '.join(names)} names a task twice; name each once")
    if unused := sorted(set(settings.paths) - set(names)):
        raise SpartaError(
            f"evaluation.paths: {', '.join(unused)} is not among the tasks ({', '.join(names) or 'none'}); "
            "name it in evaluation.tasks, or with --tasks, or remove its path"
        )
    return tuple(_task(config, name) for name in names) if settings.items else ()


def pocket_task(count: int) -> Task:
    """The embedded questions, by skill; an answer is right when it is the expected text and no more."""
    questions = (Question(item.question, item.answer, item.skill) for item in items("held-out", count))
    return Task(POCKET, tuple(questions), _exact)


def _task(config: Config, name: str) -> Task:
    settings = config.evaluation
    if name == POCKET:
        return pocket_task(settings.items)
    path = settings.paths.get(name)
    if path is None and name == config.data.task and not preset_of(name).measured_on_hub:
        # The questions that the run's own source keeps from the duels; without one they are on the hub.
        path = None if config.data.path == POCKET else parted(config.data.path)[0]
    return load_task(name, path, settings.items, config.seed)


def _own(config: Config) -> list[str]:
    if config.data.task is not None:
        return [config.data.task]
    return [POCKET] if config.data.path == POCKET else []


def _exact(question: Question, text: str) -> Mark:
    return "right" if text.strip() == question.answer else "wrong"
