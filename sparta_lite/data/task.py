"""A task: held-out questions and how an answer to one is marked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Mark = Literal["right", "wrong", "unparsed"]
"""``unparsed``: no answer could be found in the response; counted apart from wrong ones."""


@dataclass(frozen=True)
class Question:
    text: str
    """What the user asks, template of the task included."""
    answer: str | None
    """The gold answer in the task's own form; None where answers are scored by a judge."""
    group: str = ""
    """A part of the task that is reported on its own, such as a skill or a level."""


@dataclass(frozen=True)
class Task:
    name: str
    questions: tuple[Question, ...]
    grade: Callable[[Question, str], Mark] | None
    """Marks a response's text. None: the bare base scores it from 1 to 10 as a judge."""
    notices: tuple[str, ...] = ()
    """What a user should hear about rows that hold no question with an answer."""
