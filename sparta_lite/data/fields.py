"""Text out of a row's columns: one column, or a template over several."""

from __future__ import annotations

import difflib
import math
import re
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sparta_lite.data.choices import LISTS, read_choices
from sparta_lite.data.messages import is_conversation, opening_of, transcript, written_out
from sparta_lite.data.row import FaultError, Row, all_columns, columns_of, cut, kind, listed, written
from sparta_lite.errors import SpartaError, shown

_PATH = re.compile(r"([^.\[\]]+)((?:\.[^.\[\]]+|\[[^\[\]]+\])+)")
_STEP = re.compile(r"\.([^.\[\]]+)|\[([^\[\]]+)\]")


@dataclass(frozen=True)
class Template:
    """Text over the columns of a row."""

    parts: tuple[tuple[str, str | None], ...]
    """Text, and the column behind it."""
    setting: str = "data.template"
    """What a user sets it with."""

    @property
    def columns(self) -> list[str]:
        return [name for _, name in self.parts if name is not None]

    def filled(self, row: Row) -> str:
        """The text; a column that the row lacks, or that is null, is empty.

        Raises:
            FaultError: a column holds no text, or all are empty.
        """
        values = [_field(row, name, self.setting) for name in self.columns]
        if not any(value.strip() for value in values):
            raise FaultError("is blank")
        behind = iter(values)
        return "".join(text + (next(behind) if name is not None else "") for text, name in self.parts)


def parsed(template: str, path: str, setting: str = "data.template") -> Template:
    """A template such as ``"{title}\\n{body}"``; ``{a.b}`` and ``{a[0]}`` reach into a column.

    Raises:
        SpartaError: its braces do not match, or it names no column.
    """
    try:
        found = list(string.Formatter().parse(template))
    except ValueError as error:
        raise SpartaError(
            f'{setting} {shown(template)}: {error}; write columns as "{{name}}" and a plain brace twice'
        ) from error
    # What Python takes for a format is part of the column's name here.
    parts = tuple(
        (text, None if name is None else name + (f"!{how}" if how else "") + (f":{form}" if form else ""))
        for text, name, form, how in found
    )
    if not any(name for _, name in parts):
        raise SpartaError(
            f'{setting} {shown(template)} names no column of {path}; write columns as "{{name}}"'
        )
    return Template(parts, setting)


def text_of(row: Row, column: str, setting: str = "data.template") -> str:
    """The text in a column; of a conversation the user's first turn.

    Raises:
        FaultError: the row has no such text.
    """
    value = value_of(row, column)
    messages = messages_in(value)
    if messages is not None:
        return opening_of(messages).text
    if isinstance(value, str):
        return value
    raise FaultError(f"holds {kind(value)} in column {shown(column)}, no text", _way(column, value, setting))


def messages_in(value: Any) -> Sequence[Any] | None:
    """The messages that a value is: in a list, alone, written out, or a transcript; None: it is none."""
    if isinstance(value, str):
        return written_out(value) or transcript(value)
    if isinstance(value, Mapping) and is_conversation([value]):
        return [value]
    return value if is_conversation(value) else None


def value_of(row: Row, column: str) -> Any:
    """What stands in a column; ``a.b`` and ``a[0]`` reach into it where no column is called so.

    Raises:
        FaultError: nothing does.
    """
    columns = columns_of(row)
    if column in columns:
        return columns[column]
    path = _PATH.fullmatch(column)
    if path is None or path[1] not in columns:
        raise FaultError(f"has no column {shown(column)}")
    value = columns[path[1]]
    for step in _STEP.finditer(path[2]):
        value = _inside(value, step[1] or step[2], column)
    return value


def checked(text: str) -> str:
    """``text`` itself.

    Raises:
        FaultError: it is blank, or no tokenizer could take it.
    """
    if not text.strip():
        raise FaultError("is blank")
    return encodable(text)


def encodable(text: str) -> str:
    """``text`` itself, which may be empty.

    Raises:
        FaultError: no tokenizer could take it.
    """
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise FaultError("holds half of a surrogate pair")
    return text


def require_columns(rows: Sequence[Row], names: Sequence[str], path: str) -> None:
    """Refuse a column that no row has at all.

    Raises:
        SpartaError: there is one.
    """
    columns = all_columns(rows)
    for name in names:
        inside = _PATH.fullmatch(name)
        if columns and name not in columns and (inside is None or inside[1] not in columns):
            nearest = difflib.get_close_matches(name[:100], columns, n=1)
            meant = f" (did you mean {shown(nearest[0])}?)" if nearest else ""
            raise SpartaError(f"{path}: has no column {shown(name)}{meant}; its columns: {listed(columns)}")


def _field(row: Row, column: str, setting: str) -> str:
    """A column in a template: text, a number, lettered choices; empty where there is nothing."""
    columns = columns_of(row)
    if column not in columns and _PATH.fullmatch(column) is None:
        return ""
    value = value_of(row, column)
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if column in LISTS and (choices := read_choices(value)) is not None:
        return choices.lines()
    if isinstance(value, list | dict | str):
        return text_of(row, column, setting)
    return written(value)


def _inside(value: Any, step: str, column: str) -> Any:
    if value is None:
        return None
    if isinstance(value, Mapping):
        return value.get(step)
    if isinstance(value, list) and step.isdecimal():
        return value[int(step)] if int(step) < len(value) else None
    raise FaultError(f"has nothing at {shown(column)}")


def _way(column: str, value: Any, setting: str) -> str:
    """The setting that would read what is no text."""
    name = cut(column, 40)
    if isinstance(value, list) and value and isinstance(value[0], str):
        return f'{setting}: "{{{name}[0]}}" reads the first of a list'
    if isinstance(value, Mapping) and value:
        return f'{setting}: "{{{name}.{cut(next(iter(value)), 40)}}}" reads a part of an object'
    if isinstance(value, int | float) and not isinstance(value, bool):
        return f'{setting}: "{{{name}}}" reads numbers as text'
    return "mend or remove them"
