"""What is known, outside the loop, about the right answers to the instructions of a run's duels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sparta_lite.campaign.inputs import POCKET_DUELS
from sparta_lite.campaign.settings import POCKET, Config
from sparta_lite.data.tasks import load_answers, preset_of
from sparta_lite.errors import SpartaError
from sparta_lite.pocket import is_right, items


@dataclass(frozen=True)
class Truth:
    """Whether an answer is right; where nothing is known, why."""

    is_right: Callable[[str, str], bool | None]
    """Of instruction and response; None: nobody knows. A response without a clear answer is not right."""
    missing: str | None = None


def find_truth(config: Config) -> Truth:
    """What the source of a run's instructions says beside them."""
    data = config.data
    if data.task is not None:
        return _of_task(config, data.task)
    if data.path != POCKET:
        return _none("the source of the instructions holds no answers that are read")
    known = {item.question: item for item in items("duel", POCKET_DUELS)}
    return Truth(
        lambda instruction, text: is_right(known[instruction], text) if instruction in known else None
    )


def _of_task(config: Config, task: str) -> Truth:
    data, grade = config.data, preset_of(task).grade
    if grade is None:
        return _none(f"answers to {task} are judged, none is known to be right")
    path = None if data.path == POCKET else data.path
    try:
        questions = load_answers(task, path, data.subset, data.split, data.filter)
    except SpartaError as error:
        return _none(str(error))
    known = {text: question for text, question in questions.items() if question.answer is not None}
    if not known:
        return _none("the source of the instructions holds no answers")
    return Truth(
        lambda instruction, text: grade(known[instruction], text) == "right" if instruction in known else None
    )


def _none(reason: str) -> Truth:
    return Truth(lambda instruction, text: None, reason)
