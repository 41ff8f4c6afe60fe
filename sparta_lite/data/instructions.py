"""Instructions from any rows, and which of them an iteration uses."""

from __future__ import annotations

import difflib
import string
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from sparta_lite.data.rows import Row, kind, parted, read_rows
from sparta_lite.errors import SpartaError
from sparta_lite.randomness import generator

_Taken = TypeVar("_Taken")
_SHOWN = 5  # places that a message names


@dataclass(frozen=True)
class Instructions:
    """The texts in the source's order, each once."""

    texts: tuple[str, ...]
    duplicates: tuple[str, ...] = ()
    """Places of the rows that were left out because an earlier one says the same."""
    skipped: tuple[str, ...] = ()
    """The rows that were left out because they hold no instruction: place and reason."""

    def notices(self, source: str) -> Iterator[str]:
        """What a user should hear about rows of ``source`` that were left out."""
        if self.duplicates:
            yield f"{source}: {len(self.duplicates)} duplicate rows were left out: {some(self.duplicates)}"
        if self.skipped:
            yield f"{source}: {len(self.skipped)} rows were skipped: {some(self.skipped)}"


class FaultError(Exception):
    """What is wrong with one row."""


def load_instructions(
    path: str,
    column: str | None,
    template: str | None,
    subset: str | None = None,
    split: str | None = None,
    condition: str | None = None,
) -> Instructions:
    """Read instructions by column or template.

    Args:
        path, subset, split, condition: see `sparta_lite.data.rows.read_rows`.
        column: the column that holds the instruction; or
        template: text over the columns of a row, ``"{instruction}\\n{input}"``; single parts may be empty.

    Raises:
        SpartaError: the source cannot be read, no row has the column, or more than half of the rows hold no
            such text; it names source and row.
    """
    rows = read_rows(path, subset, split, condition)
    parts = [("", column)] if column is not None else _parsed(template or "", path)
    _require_columns(rows, [name for _, name in parts if name is not None], path)
    taken, skipped = sound(rows, lambda row: checked("".join(_filled(row, parts))), path)
    return unique(taken, skipped)


def unique(taken: Sequence[tuple[Row, str]], skipped: Sequence[str]) -> Instructions:
    """Every text of ``taken`` once."""
    texts: dict[str, None] = {}
    duplicates = []
    for row, text in taken:
        if text in texts:
            duplicates.append(row.place)
        texts[text] = None
    return Instructions(tuple(texts), tuple(duplicates), tuple(skipped))


def sound(
    rows: Sequence[Row], take: Callable[[Row], _Taken], path: str
) -> tuple[list[tuple[Row, _Taken]], list[str]]:
    """What ``take`` makes of the rows, and place and reason of those for which it raises `FaultError`.

    Raises:
        SpartaError: there are no rows, or more than half of them have faults.
    """
    if not rows:
        raise SpartaError(f"{path}: holds no instructions; give a file with at least one row")
    taken, skipped = [], []
    for row in rows:
        try:
            taken.append((row, take(row)))
        except FaultError as fault:
            skipped.append(f"{row.place} {fault}")
    if 2 * len(skipped) > len(rows):
        raise SpartaError(
            f"{path}: {len(skipped)} of {len(rows)} rows cannot be used: {some(skipped)}; mend or remove them"
        )
    return taken, skipped


def some(places: Sequence[str]) -> str:
    """The first few of ``places``."""
    more = len(places) - _SHOWN
    return ", ".join(places[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def draw(size: int, count: int, seed: int, iteration: int) -> list[int]:
    """Indices of the ``count`` instructions, out of ``size``, that an iteration (from 0) uses.

    The iterations walk through one shuffled pass over the data after another, so that nothing returns before
    everything was used; pass p is shuffled by (seed, p) alone.
    """
    chosen: list[int] = []
    start = iteration * count
    while len(chosen) < count:
        number, place = divmod(start + len(chosen), size)
        order = list(range(size))
        generator("instructions", seed, number).shuffle(order)
        chosen += order[place : place + count - len(chosen)]
    return chosen


def text_of(row: Row, column: str) -> str:
    """The text in a column.

    Raises:
        FaultError: the row has no such text.
    """
    if not isinstance(row.value, dict):
        raise FaultError(f"is {kind(row.value)}, no object with named columns")
    if column not in row.value:
        raise FaultError(f"has no column {column!r}")
    if not isinstance(row.value[column], str):
        raise FaultError(f"holds {kind(row.value[column])} in column {column!r}, no text")
    text: str = row.value[column]
    return text


def checked(text: str) -> str:
    """``text`` itself.

    Raises:
        FaultError: it is blank, or no tokenizer could take it.
    """
    if not text.strip():
        raise FaultError("is blank")
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise FaultError("holds half of a surrogate pair")
    return text


def _filled(row: Row, parts: Sequence[tuple[str, str | None]]) -> Iterator[str]:
    for text, column in parts:
        yield text
        if column is not None:
            yield text_of(row, column)


def _parsed(template: str, path: str) -> list[tuple[str, str | None]]:
    """The template as (text, column after it)."""
    try:
        parts = [(text, name) for text, name, _, _ in string.Formatter().parse(template)]
    except ValueError as error:
        raise SpartaError(
            f'data.template {template!r}: {error}; write columns as "{{name}}" and a plain brace twice'
        ) from error
    if not any(name for _, name in parts):
        raise SpartaError(
            f'data.template {template!r} names no column of {path}; write columns as "{{name}}"'
        )
    return parts


def _require_columns(rows: Sequence[Row], names: Sequence[str], path: str) -> None:
    """Refuse a column that no row has at all."""
    columns = dict.fromkeys(column for row in rows if isinstance(row.value, dict) for column in row.value)
    for name in names:
        if columns and name not in columns:
            nearest = difflib.get_close_matches(name, columns, n=1)
            meant = f" (did you mean {nearest[0]!r}?)" if nearest else ""
            raise SpartaError(
                f"{parted(path)[0]}: has no column {name!r}{meant}; its columns: {', '.join(columns)}"
            )
