"""What each setting takes, in words: for errors, for the comments of a configuration, and for the docs."""

from __future__ import annotations

import re
import types
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Le, MaxLen, MinLen
from pydantic.fields import FieldInfo


@dataclass(frozen=True)
class Range:
    low: float
    high: float

    def __str__(self) -> str:
        return f"{_number(self.low)} to {_number(self.high)}"


def range_of(field: FieldInfo) -> Range | None:
    """The lowest and the highest value of a number; None where a field is none."""
    if not {int, float} & set(_kinds(field.annotation)):
        return None
    marks = [*field.metadata, *_marks(field.annotation)]
    low = [mark.ge for mark in marks if isinstance(mark, Ge)]
    high = [mark.le for mark in marks if isinstance(mark, Le)]
    return Range(low[0], high[0]) if low and high else None  # type: ignore[arg-type]


def longest(field: FieldInfo) -> int | None:
    """The most characters of a text."""
    return next((mark.max_length for mark in field.metadata if isinstance(mark, MaxLen)), None)


def allowed(field: FieldInfo) -> str:
    """What ``field`` takes, such as 'a whole number from 1 to 1,000, or null'."""
    kinds = list(_kinds(field.annotation))
    found = _allowed(field, kinds)
    return f"{found}, or null" if type(None) in kinds else found


def words(field: FieldInfo) -> tuple[str, ...]:
    """The words that ``field`` has to choose from, if it takes no others."""
    return tuple(
        word for kind in _kinds(field.annotation) if get_origin(kind) is Literal for word in get_args(kind)
    )


def _allowed(field: FieldInfo, kinds: list[Any]) -> str:
    if choice := words(field):
        return ", ".join(map(repr, choice[:-1])) + f" or {choice[-1]!r}"
    if int in kinds or float in kinds:
        ends = range_of(field)
        return f"a {'whole number' if int in kinds else 'number'}" + (f" from {ends}" if ends else "")
    if bool in kinds:
        return "true or false"
    if any(get_origin(kind) is list for kind in kinds):
        return "a list"
    if any(get_origin(kind) is dict for kind in kinds):
        return "text or a mapping" if str in kinds else "a mapping"
    least = 1 if any(isinstance(mark, MinLen) for mark in field.metadata) else 0
    return f"text of {least} to {longest(field):,} characters"


def _kinds(annotation: Any) -> Iterator[Any]:
    """The types that a setting may have, without what is annotated to them."""
    if get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    if get_origin(annotation) in (Union, types.UnionType):
        for part in get_args(annotation):
            yield from _kinds(part)
    else:
        yield annotation


def _marks(annotation: Any) -> Iterator[Any]:
    for part in get_args(annotation) if get_origin(annotation) is not Literal else ():
        yield from part.metadata if isinstance(part, FieldInfo) else _marks(part)


def _number(value: float) -> str:
    if isinstance(value, int) or (value == int(value) and abs(value) < 1e6):
        return f"{int(value):,}"
    return re.sub(r"e\+?(-?)0*", r"e\1", f"{value:g}")
