"""JSON read as types: what does not fit them is refused in one line that says where it stands.

pydantic parses and checks in one step, so that what Python's own parser lets through or trips over (NaN,
numbers of thousands of digits, nesting thousands deep, halves of surrogate pairs) is refused here as well.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic_core import from_json

from sparta_lite.errors import SpartaError, shown

T = TypeVar("T")

Count = Annotated[int, Field(ge=0, le=2**53)]
Positive = Annotated[int, Field(ge=1, le=2**53)]
Number = Annotated[float, Field(ge=-1e30, le=1e30)]
"""A finite number whose square, and whose sums, are finite too."""
Moment = Annotated[float, Field(ge=0, le=1e11)]
"""Seconds since 1970, in a year that has four digits."""
Seconds = Annotated[float, Field(ge=-1e11, le=1e11)]
"""A clock may be set back while it measures."""

RESTORE = "the file was changed or is damaged: restore it from a copy"
"""What to do about a file that no command makes anew."""

_CONFIG = ConfigDict(strict=True, allow_inf_nan=False)
_QUOTED = 40  # characters of a wrong value that a message repeats


class Form(Generic[T]):
    """How records of one kind are read from JSON.

    Args:
        kind: a dataclass of JSON's types and of others like it. Keys that it does not know are passed over.
        advice: what to do about a record that does not fit.
    """

    def __init__(self, kind: type[T], advice: str = RESTORE) -> None:
        self._kind = kind
        self._advice = advice

    @cached_property
    def _adapter(self) -> TypeAdapter[T | None]:
        # Of a bare dataclass pydantic takes no configuration.
        kind: Any = self._kind | None
        return TypeAdapter(kind, config=_CONFIG)

    def of(self, data: bytes, where: str) -> T:
        """One record.

        Args:
            data: JSON in UTF-8.
            where: file, and line where it has several.

        Raises:
            SpartaError: it is no JSON, or does not fit.
        """
        try:
            found = self._adapter.validate_json(data)
        except ValidationError as error:
            raise SpartaError(f"{where}: {_fault(error)}; {self._advice}") from error
        if found is None:
            raise SpartaError(f"{where}: is null, not an object; {self._advice}")
        return found

    def file(self, path: Path) -> T:
        """The one record that a file holds.

        Raises:
            SpartaError: see ``of``; or the file cannot be read.
        """
        return self.of(read_bytes(path), str(path))

    def lines(self, data: bytes, path: Path) -> list[T]:
        """One record a line; a last line without its newline (a write that was cut off) is left out.

        Raises:
            SpartaError: see ``of``; it names the line.
        """
        return [self.of(text, where) for text, where in whole_lines(data, path)]


def whole_lines(data: bytes, path: Path) -> Iterator[tuple[bytes, str]]:
    """Every whole line, and what to call it."""
    for number, text in enumerate(data.split(b"\n")[:-1], start=1):
        yield text, f"{path}, line {number}"


def read_bytes(path: Path) -> bytes:
    """``Path.read_bytes``.

    Raises:
        SpartaError: the file is missing or cannot be read.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise SpartaError(f"{path}: no such file; restore it from a copy, or give another place") from error
    except OSError as error:
        raise SpartaError(f"{path}: {error.strerror or error}; give a file that can be read") from error


def parse(data: bytes, where: str) -> Any:
    """Any JSON, without NaN and infinity.

    Raises:
        SpartaError: it is none.
    """
    try:
        return from_json(data, allow_inf_nan=False)
    except ValueError as error:
        raise SpartaError(f"{where}: not valid JSON ({_place(str(error))}); {RESTORE}") from error


def _fault(error: ValidationError) -> str:
    """What is wrong first, of all that is."""
    faults = error.errors(include_url=False)
    first = faults[0]
    parent = first["loc"][:-1]
    if first["type"] == "json_invalid":
        return f"not valid JSON ({_place(first['ctx']['error'])})"
    if first["type"] == "missing":
        lacking = [_short(each["loc"][-1]) for each in faults if _is_missing(each, parent)]
        inside = f"{_dotted(parent)} " if parent else ""
        return f"{inside}lacks {', '.join(lacking)}"
    wanted = str(first["msg"]).replace("Input should be", "it should be").replace("Value error, ", "")
    if first["type"] == "value_error":
        return f"{_dotted(first['loc'])}: {wanted}" if first["loc"] else wanted
    inside = f"{_dotted(first['loc'])} is" if first["loc"] else "is"
    return f"{inside} {shown(first['input'], _QUOTED)}; {wanted}"


def _is_missing(fault: Any, parent: tuple[int | str, ...]) -> bool:
    return bool(fault["type"] == "missing" and fault["loc"][:-1] == parent)


def _dotted(place: tuple[int | str, ...]) -> str:
    return ".".join(map(_short, place))


def _short(key: int | str) -> str:
    plain = isinstance(key, int) or (key.isidentifier() and len(key) <= _QUOTED)
    return str(key) if plain else shown(key, _QUOTED)


def _place(said: str) -> str:
    """Without "line 1", which is all that the parser was shown of a file."""
    return re.sub(r" at line \d+ column (\d+)", r", column \1", said)
