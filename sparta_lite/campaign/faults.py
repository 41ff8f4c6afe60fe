"""What is wrong with settings, in one line of plain sentences."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator
from datetime import date
from typing import Any

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from sparta_lite.campaign.settings import Config, Section
from sparta_lite.campaign.settings.ranges import allowed, words
from sparta_lite.errors import LONGEST, shortened, shown

_AS_TEXT = (bool, int, float, date)


def explained(error: ValidationError, source: str, from_sets: Collection[str]) -> str:
    """As many of the faults as one line has room for, each with its dotted key and what is allowed.

    Args:
        error: of ``Config``.
        source: where the settings come from.
        from_sets: the keys that stood in ``--set``.
    """
    clauses = list(_clauses(error, from_sets))
    kept = len(clauses)
    while kept > 1 and len(_line(source, clauses, kept)) > LONGEST:
        kept -= 1
    return _line(source, clauses, kept)


def _line(source: str, clauses: list[str], kept: int) -> str:
    left = len(clauses) - kept
    more = f"; mend these and {left} more" if left else ""
    return f"{source}: {'; '.join(clauses[:kept])}{more}"


def _clauses(error: ValidationError, from_sets: Collection[str]) -> Iterator[str]:
    for fault in error.errors(include_url=False):
        key = ".".join(str(part) for part in fault["loc"])
        name = ("--set " if key in from_sets else "") + shortened(key, 80)
        value, field = fault["input"], _field(key)
        if fault["type"] in ("extra_forbidden", "invalid_key"):
            yield f"{name} is unknown; did you mean {_nearest(key)}?"
        elif fault["type"] == "value_error":
            said = str(fault["ctx"]["error"])
            lacks_key = said.startswith("is ")
            yield f"{name} {said}" if lacks_key else f"{'--set ' if key in from_sets else ''}{said}"
        elif section(key) is not None or not key:
            yield f"{name} is {shown(value)}; it should be a mapping of its settings"
        else:
            yield f"{name} is {shown(value)}; it should be {_wanted(fault, field)}"


def _wanted(fault: Any, field: FieldInfo | None) -> str:
    value, kind = fault["input"], fault["type"]
    quoted = " in quotation marks" if kind == "string_type" and isinstance(value, _AS_TEXT) else ""
    if field is None:  # inside a list or a mapping
        if kind == "string_type":
            return f"text{quoted}"
        return str(fault["msg"]).replace("Input should be ", "").replace("a valid number", "a number")
    if quoted:
        return f"text{quoted}"
    return allowed(field) + (_meant(fault, field) if kind == "literal_error" else "")


def section(name: str) -> type[Section] | None:
    """The class of the section of that name."""
    field = Config.model_fields.get(name)
    kind = field.annotation if field else None
    return kind if isinstance(kind, type) and issubclass(kind, Section) else None


def _field(key: str) -> FieldInfo | None:
    first, _, name = key.partition(".")
    kind = section(first)
    return (kind or Config).model_fields.get(name if kind else key)


def _nearest(key: str) -> str:
    """The valid dotted key that ``key`` most likely stands for."""
    start, _, name = key[:100].rpartition(".")
    elsewhere = [valid for valid in _keys() if valid.rpartition(".")[2] == name]
    if elsewhere:
        return " or ".join(elsewhere)
    kind = section(start) if start else Config
    here = list(kind.model_fields) if kind else []
    nearest = difflib.get_close_matches(name, here, n=1, cutoff=0.6)
    if nearest:
        return f"{start}.{nearest[0]}" if start else nearest[0]
    return difflib.get_close_matches(key[:100], list(_keys()), n=1, cutoff=0.0)[0]


def _keys() -> Iterator[str]:
    for name in Config.model_fields:
        kind = section(name)
        yield name
        if kind:
            yield from (f"{name}.{part}" for part in kind.model_fields)


def _meant(fault: Any, field: FieldInfo) -> str:
    nearest = difflib.get_close_matches(str(fault["input"])[:100], words(field), n=1)
    return f" (did you mean {nearest[0]!r}?)" if nearest else ""
