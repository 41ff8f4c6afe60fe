"""Rows with named columns, from a file, a directory or the dataset hub.

JSON and CSV are read here: the library ``datasets`` knows no mapping of ids or of splits, the published JSON
forms, its CSV reader turns texts such as "007" and "None" into something else, and neither could name the row
of a fault. Parquet, directories and the hub go through ``datasets``, which runs no code that comes with data.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparta_lite.errors import SpartaError

WHOLE = ""
"""The name of the only split of a file that has none."""

_LINES = (".jsonl", ".ndjson")
_TABLES = {".csv": ",", ".tsv": "\t"}
_FORMS = (".json", *_LINES, *_TABLES, ".parquet")
_NOWHERE = "no such file; give a file, or a hub dataset as owner/name"
_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
_CONDITION = re.compile(r"\s*([^=!]*[^=!\s])\s*(!?=)\s*(.*?)\s*", re.DOTALL)
_AND = re.compile(r"\s+and\s+(?=(?:(?!\sand\s)[^=!])*[^=!\s]\s*!?=)")


@dataclass(frozen=True)
class Row:
    place: str
    """Where it stands, for a message."""
    value: Any
    """An object with named columns in a sound file."""


Splits = Mapping[str, Callable[[], list[Row]]]
"""Name -> a function that gives the rows: a split that nobody asks for is never built."""


def read_rows(
    path: str, subset: str | None = None, split: str | None = None, condition: str | None = None
) -> list[Row]:
    """The rows of one split.

    Args:
        path: a JSON, JSONL, CSV, TSV or Parquet file, a directory that ``datasets`` reads, or the id of a hub
            dataset; ``PATH#SPLIT`` names the split as well.
        subset: which configuration of a hub dataset.
        split: None takes the only one, or the one called ``train``.
        condition: keep rows with ``column=value`` or ``column!=value``, several joined by ``and``. Values are
            compared as text; a row without the column has the value ``null``.

    Raises:
        SpartaError: the source cannot be reached or read, has no such split, or no row is left.
    """
    name, named = parted(path)
    splits = read_splits(name, subset)
    rows = splits[split_name(name, splits, split or named)]()
    return rows if condition is None else keep(rows, condition, name)


def read_splits(path: str, subset: str | None = None) -> Splits:
    """All splits of ``path``, which names none itself; `WHOLE` is the name of an only one that has none."""
    place = Path(path)
    if place.is_dir() or is_hub_id(path):
        return _datasets(path, subset)
    if subset is not None:
        raise SpartaError(f"{path}: a file has no subsets; remove the subset {subset!r}")
    form = place.suffix.lower()
    if form not in _FORMS:
        raise SpartaError(f"{path}: is none of {', '.join(_FORMS)}; give a file of one of these forms")
    content = _bytes(place)
    if form == ".parquet":
        return {WHOLE: lambda: _parquet(place)}
    text = _text(content, place)
    if form in _TABLES:
        return {WHOLE: lambda: _separated(text, place, _TABLES[form])}
    if form in _LINES:
        return {WHOLE: lambda: _lines(text, place)}
    return _json(text, place)


def split_name(path: str, splits: Splits, wanted: str | None) -> str:
    """Which split of ``path`` is meant: ``wanted``, else the only one, else ``train``.

    Raises:
        SpartaError: there is none such.
    """
    names = ", ".join(splits)
    if wanted is None and len(splits) == 1:
        return next(iter(splits))
    if wanted is None and "train" not in splits:
        raise SpartaError(f"{path}: has {len(splits)} splits; choose one of {names}")
    if wanted is not None and WHOLE in splits:
        raise SpartaError(f"{path}: has no splits; leave {wanted!r} out")
    if wanted is not None and wanted not in splits:
        raise SpartaError(f"{path}: has no split {wanted!r}; it has: {names}")
    return wanted or "train"


def keep(rows: list[Row], condition: str, name: str) -> list[Row]:
    """The ``rows`` of ``name`` that ``condition`` lets pass; see `read_rows`."""
    wanted = []
    for part in _AND.split(condition):
        found = _CONDITION.fullmatch(part)
        if found is None:
            raise SpartaError(f"data.filter {condition!r}: give column=value or column!=value, joined by and")
        wanted.append(found.groups())
    columns = {column for row in rows if isinstance(row.value, dict) for column in row.value}
    for column, _, _ in wanted:
        if rows and column not in columns:
            raise SpartaError(
                f"data.filter {condition!r}: {name} has no column {column!r}; its columns: "
                f"{', '.join(sorted(columns)) or 'none'}"
            )
    kept = [
        row
        for row in rows
        if not isinstance(row.value, dict)  # a fault of its own, which is named where texts are taken
        or all((_written(row.value.get(c)) == value) == (sign == "=") for c, sign, value in wanted)
    ]
    if not kept:
        raise SpartaError(f"data.filter {condition!r}: keeps none of the {len(rows)} rows of {name}")
    return kept


def parted(path: str) -> tuple[str, str | None]:
    """``PATH#SPLIT`` as path and split; a hash in the name of an existing file is no split."""
    name, hash_, split = path.rpartition("#")
    if hash_ and not Path(path).exists():
        return name, split
    return path, None


def require_source(path: str) -> None:
    """Refuse a path, with or without its split, at which nothing stands; the hub is not asked.

    Raises:
        SpartaError: it is neither there nor the id of a hub dataset.
    """
    name, _ = parted(path)
    if not is_hub_id(name) and not Path(name).exists():
        raise SpartaError(f"{name}: {_NOWHERE}")


def is_hub_id(path: str) -> bool:
    """Whether ``path`` stands for a dataset on the hub: ``owner/name``, and nothing of that name is here."""
    form = Path(path).suffix.lower()
    return _HUB_ID.fullmatch(path) is not None and form not in _FORMS and not Path(path).exists()


def kind(value: Any) -> str:
    """What ``value`` is, for a message."""
    names = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


def _datasets(name: str, subset: str | None) -> Splits:
    library = _library()
    try:
        loaded = library.load_dataset(name, name=subset)
    except Exception as error:  # whatever the library raises, the user can only mend name, subset or line
        raise SpartaError(f"{name}: {_cause(error)}") from error

    def rows_of(split: str) -> Callable[[], list[Row]]:
        return lambda: _numbered(loaded[split])

    return {str(split): rows_of(split) for split in loaded}


def _cause(error: Exception) -> str:
    """One line on why ``datasets`` failed, and what to do instead."""
    said = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, (ConnectionError, TimeoutError)) or "Couldn't reach" in said:
        return "the dataset hub cannot be reached; check the connection, or set the path to a local copy"
    if type(error).__name__ == "DatasetNotFoundError":
        return "no such dataset on the hub, or it may not be read; check the name, or run `hf auth login`"
    if "script" in said:
        return "comes as a program, which is never run; choose a dataset in JSON, CSV or Parquet"
    if "Config name is missing" in said or "BuilderConfig" in said:
        return f"needs another subset ({said})"
    return f"cannot be read ({said}); check the name, or set the path to a local file"


def _library() -> Any:
    import datasets  # type: ignore[import-untyped]

    return datasets


def _parquet(file: Path) -> list[Row]:
    try:
        return _numbered(_library().load_dataset("parquet", data_files=str(file), split="train"))
    except Exception as error:
        said = " ".join(str(error).split())
        raise SpartaError(f"{file}: is no Parquet file that can be read ({said}); write it anew") from error


def _bytes(file: Path) -> bytes:
    try:
        content = file.read_bytes()
    except FileNotFoundError as error:
        raise SpartaError(f"{file}: {_NOWHERE}") from error
    except OSError as error:
        raise SpartaError(f"{file}: {error.strerror}; give a file that can be read") from error
    if not content.strip():
        raise SpartaError(f"{file}: is empty; give a file with at least one row")
    return content


def _text(content: bytes, file: Path) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise SpartaError(
            f"{file}, line {line}: is not UTF-8 (byte {error.start}); save the file in that encoding"
        ) from error


def _separated(text: str, file: Path, delimiter: str) -> list[Row]:
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    rows = []
    try:
        for number, value in enumerate(reader, start=1):
            if None in value or None in value.values():
                raise SpartaError(
                    f"{file}, row {number} (line {reader.line_num}): has other columns than the first line; "
                    "quote fields that hold the separator"
                )
            rows.append(Row(f"row {number}", value))
    except csv.Error as error:
        raise SpartaError(f"{file}, line {reader.line_num}: not valid CSV ({error})") from error
    return rows


def _json(text: str, file: Path) -> Splits:
    try:
        document = json.loads(text)
    except json.JSONDecodeError as error:
        if error.msg == "Extra data":  # JSON lines under the wrong name are common
            return {WHOLE: lambda: _lines(text, file)}
        raise SpartaError(f"{file}, line {error.lineno}: not valid JSON ({error.msg})") from error
    except ValueError as error:
        raise SpartaError(f"{file}: not valid JSON ({error})") from error
    except RecursionError as error:
        raise SpartaError(f"{file}: is nested too deeply; give a list of flat objects") from error
    if isinstance(document, dict) and document and all(_is_table(table) for table in document.values()):
        return {name: _deferred(table) for name, table in document.items()}
    if _is_table(document):
        return {WHOLE: _deferred(document)}
    raise SpartaError(
        f"{file}: holds {kind(document)}; give a list of objects, or a mapping of ids or splits to them"
    )


def _lines(text: str, file: Path) -> list[Row]:
    rows = []
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                rows.append(Row(f"row {number}", json.loads(line)))
            except (ValueError, RecursionError) as error:  # a number of 5000 digits is a mere ValueError
                raise SpartaError(f"{file}, row {number}: not valid JSON ({error})") from error
    return rows


def _is_table(value: Any) -> bool:
    """Whether ``value`` is a list, or a mapping of ids to objects."""
    return isinstance(value, list) or (
        isinstance(value, dict) and all(isinstance(row, dict) for row in value.values())
    )


def _deferred(table: Any) -> Callable[[], list[Row]]:
    if isinstance(table, dict):
        return lambda: [Row(f"row {name!r}", value) for name, value in table.items()]
    return lambda: _numbered(table)


def _numbered(values: Iterable[Any]) -> list[Row]:
    return [Row(f"row {number}", value) for number, value in enumerate(values, start=1)]


def _written(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
