"""One row of a source, and what can be wrong with it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from sparta_lite.errors import SpartaError

WHOLE = ""
"""The name of the only split of a file that has none."""

_Taken = TypeVar("_Taken")
_SHOWN = 5  # places that a message names
_ROOM = 180  # characters of them
_LISTED = 120  # characters of names that it lists
_KINDS = {
    dict: "an object",
    list: "a list",
    str: "a text",
    bool: "true or false",
    int: "a number",
    float: "a number",
    type(None): "null",
}


@dataclass(frozen=True)
class Row:
    place: str
    """Where it stands, for a message."""
    value: Any
    """An object with named columns in a sound file."""


Splits = Mapping[str, Callable[[], list[Row]]]
"""Name -> a function that gives the rows: a split that nobody asks for is never built."""


class FaultError(Exception):
    """What is wrong with one row, and what to do where most rows have the same."""

    def __init__(self, reason: str, advice: str = "mend or remove them") -> None:
        super().__init__(reason)
        self.advice = advice


def numbered(values: Iterable[Any]) -> list[Row]:
    """The rows in their order, called ``row 1`` and so on."""
    return [Row(f"row {number}", value) for number, value in enumerate(values, start=1)]


def columns_of(row: Row) -> Mapping[str, Any]:
    """The row's columns; none where it is no object."""
    return row.value if isinstance(row.value, dict) else {}


def all_columns(rows: Sequence[Row]) -> list[str]:
    """Every column that some row has, in the order of the first that has it."""
    return list(dict.fromkeys(column for row in rows for column in columns_of(row)))


def kind(value: Any) -> str:
    """What ``value`` is, for a message."""
    return _KINDS.get(type(value), f"a {type(value).__name__}")


def written(value: Any) -> str:
    """``value`` as text: a text is itself, anything else what JSON calls it, else what Python does."""
    if type(value) not in _KINDS or isinstance(value, str):
        return str(value)
    try:
        return json.dumps(value, ensure_ascii=False, default=str)
    except (TypeError, ValueError, RecursionError):
        return f"<{type(value).__name__}>"  # too deep to be written, and equal to nothing that a user writes


def sound(
    rows: Sequence[Row], take: Callable[[Row], _Taken], path: str, what: str = "instructions"
) -> tuple[list[tuple[Row, _Taken]], list[str]]:
    """What ``take`` makes of the rows, and place and reason of those for which it raises `FaultError`.

    Raises:
        SpartaError: there are no rows, or more than half of them have faults.
    """
    if not rows:
        raise SpartaError(f"{path}: holds no {what}; give a file with at least one row")
    taken, skipped, advice = [], [], ""
    for row in rows:
        try:
            if not isinstance(row.value, dict):
                raise FaultError(f"is {kind(row.value)}, no object with named columns")
            taken.append((row, take(row)))
        except FaultError as fault:
            skipped.append(f"{row.place} {fault}")
            advice = advice or fault.advice
    if 2 * len(skipped) > len(rows):
        raise SpartaError(
            f"{path}: {len(skipped)} of {len(rows)} rows cannot be used: {some(skipped)}; {advice}"
        )
    return taken, skipped


def some(places: Sequence[str]) -> str:
    """The first few of ``places``."""
    return _first(places[:_SHOWN], len(places), _ROOM)


def listed(names: Iterable[object]) -> str:
    """The first few of ``names`` that come with a source, each shortened."""
    given = [cut(str(name), 40) for name in names]
    return _first(given, len(given), _LISTED) or "none"


def _first(given: Sequence[str], total: int, room: int) -> str:
    """As many of ``given``, which begin ``total``, as fit into ``room`` characters, one at least."""
    count = next((n for n in range(1, len(given)) if len(", ".join(given[: n + 1])) > room), len(given))
    return ", ".join(given[:count]) + (f" and {total - count} more" if total > count else "")


def cut(text: str, limit: int) -> str:
    """``text`` on one line, in at most ``limit`` characters."""
    text = "".join(each if each.isprintable() else " " for each in text[: limit + 1])
    return text if len(text) <= limit else f"{text[: limit - 3]}..."
