"""Choices of a question as data sets write them, and which of them is right."""

from __future__ import annotations

import json
import re
import string
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sparta_lite.data.row import written

LISTS = ("choices", "options")
"""Columns that hold all choices of a question."""

_RIGHT = (
    "answer_idx",
    "answer_index",
    "answer_key",
    "answerKey",
    "cop",
    "correct",
    "label",
    "answer",
    "target",
)
"""Columns that may name the right one, the most telling first."""

_LABELS = ("label", "labels", "key", "keys")
_TEXTS = ("text", "texts", "value", "values")
_LETTERED = re.compile(r"\s*\(?([A-J])[).:]\s*(.*)", re.DOTALL)
_COLUMN = re.compile(r"(?i:op|option|choice)[ _-]?([A-Ja-j])|([A-J])")


@dataclass(frozen=True)
class Choices:
    labels: tuple[str, ...]
    """What the source calls them."""
    texts: tuple[str, ...]

    def lines(self) -> str:
        """A line for each, with the letters from A on."""
        return "\n".join(
            f"{letter}. {text}" for letter, text in zip(string.ascii_uppercase, self.texts, strict=False)
        )

    def right(self, columns: Mapping[str, Any]) -> str | None:
        """The letter of the right one; None where no column of the row tells."""
        for name in _RIGHT:
            place = self._place(columns.get(name))
            if place is not None:
                return string.ascii_uppercase[place]
        return None

    def _place(self, answer: Any) -> int | None:
        """Where the answer is: given as a label, as a text, or as a number from 0, in a text too."""
        if isinstance(answer, float) and answer.is_integer():  # a column of whole numbers with gaps
            answer = int(answer)
        if isinstance(answer, bool) or not isinstance(answer, str | int):
            return None
        said = _bare(str(answer))
        for names in (self.labels, self.texts) if isinstance(answer, str) else (self.labels,):
            matching = [place for place, name in enumerate(names) if _bare(name) == said]
            if len(matching) == 1:
                return matching[0]
        return int(said) if said.isdecimal() and int(said) < len(self.texts) else None


def _bare(text: str) -> str:
    return text.strip(" ().").casefold()


def choices_of(columns: Mapping[str, Any]) -> Choices | None:
    """The choices of a row: from a column of `LISTS`, or from a column for each; None: it has none."""
    for name in LISTS:
        if (found := read_choices(columns.get(name))) is not None:
            return found
    return _by_column(columns)


def read_choices(value: Any) -> Choices | None:
    """The choices in a value: texts, objects with label and text, an object of labels and texts; or JSON."""
    if isinstance(value, str):
        value = _from_json(value)
    if isinstance(value, Mapping):
        return _by_label(value)
    if not isinstance(value, list) or len(value) < 2:
        return None
    if all(isinstance(entry, Mapping) for entry in value):
        labels = [next((entry[key] for key in _LABELS if key in entry), None) for entry in value]
        texts = [next((entry[key] for key in _TEXTS if key in entry), None) for entry in value]
        return None if None in labels or None in texts else _made(labels, texts)
    if any(isinstance(entry, list | dict) or entry is None for entry in value):
        return None
    return _made(string.ascii_uppercase[: len(value)], value)


def _from_json(text: str) -> Any:
    """What stands in a cell of a CSV file."""
    try:
        return json.loads(text) if text.lstrip().startswith(("[", "{")) else None
    except (ValueError, RecursionError):
        return None


def _by_label(value: Mapping[str, Any]) -> Choices | None:
    labels = next((value[key] for key in _LABELS if isinstance(value.get(key), list)), None)
    texts = next((value[key] for key in _TEXTS if isinstance(value.get(key), list)), None)
    if labels is not None and texts is not None:
        return _made(labels, texts) if len(labels) == len(texts) > 1 else None
    given = {label: text for label, text in sorted(value.items()) if text is not None}
    if len(given) < 2 or any(isinstance(text, list | dict) for text in given.values()):
        return None
    return _made(list(given), list(given.values()))


def _by_column(columns: Mapping[str, Any]) -> Choices | None:
    """One column for each choice: A, B, ..., or with a word before the letter."""
    found = {}
    for name, value in columns.items():
        match = _COLUMN.fullmatch(name)
        if match and value is not None and not isinstance(value, list | dict):
            found[(match[1] or match[2]).upper()] = value
    letters = sorted(found)
    if len(letters) < 2 or letters != list(string.ascii_uppercase[: len(letters)]):
        return None
    return _made(letters, [found[letter] for letter in letters])


def _made(labels: Any, texts: Any) -> Choices | None:
    if len(texts) > len(string.ascii_uppercase):
        return None
    said = [written(text) for text in texts]
    own = [_LETTERED.fullmatch(text) for text in said]
    if all(match and match[1] == letter for match, letter in zip(own, string.ascii_uppercase, strict=False)):
        said = [match[2] for match in own if match]  # "A) 21", as AQuA writes them
    return Choices(tuple(written(label) for label in labels), tuple(said))
