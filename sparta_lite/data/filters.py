"""Which rows a condition keeps."""

from __future__ import annotations

import re

from sparta_lite.data.row import Row, all_columns, listed, written
from sparta_lite.errors import SpartaError, shown

_CONDITION = re.compile(r"\s*([^=!]*[^=!\s])\s*(!?=)\s*(.*?)\s*", re.DOTALL)
_AND = re.compile(r"\s+and\s+(?=(?:(?!\sand\s)[^=!])*[^=!\s]\s*!?=)")


def keep(rows: list[Row], condition: str, name: str) -> list[Row]:
    """The ``rows`` of ``name`` that ``condition`` lets pass; see `sparta_lite.data.rows.read_rows`.

    Raises:
        SpartaError: it is no condition, names no column, or keeps nothing.
    """
    said = f"data.filter {shown(condition)}"
    wanted = []
    for part in _AND.split(condition):
        found = _CONDITION.fullmatch(part)
        if found is None:
            raise SpartaError(f"{said}: give column=value or column!=value, joined by and")
        wanted.append(found.groups())
    columns = set(all_columns(rows))
    for column, _, _ in wanted:
        if rows and column not in columns:
            raise SpartaError(
                f"{said}: {name} has no column {shown(column)}; its columns: {listed(sorted(columns))}"
            )
    kept = [
        row
        for row in rows
        if not isinstance(row.value, dict)  # a fault of its own, which is named where texts are taken
        or all((written(row.value.get(c)) == value) == (sign == "=") for c, sign, value in wanted)
    ]
    if not kept:
        raise SpartaError(f"{said}: keeps none of the {len(rows)} rows of {name}; give another value")
    return kept
