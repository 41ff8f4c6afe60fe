"""Rows from the text of a file: JSON in the shapes that tools write, JSON lines, CSV and TSV.

They are read here and not by the library ``datasets`` (4.8.5), even where that has found the files. Its JSON
reader makes timestamps of a column of ISO dates, declared as text or not, and 7 of "007" in a column with a
number; its CSV reader makes a number of "007" and null of "None". It knows no mapping of ids, columns or
splits, and cannot name the row of a fault.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from sparta_lite.data.row import WHOLE, Row, Splits, kind, listed, numbered
from sparta_lite.errors import SpartaError, shown

LINES = (".jsonl", ".ndjson")
TABLES = {".csv": ",", ".tsv": "\t"}
TEXTS = (".json", *LINES, *TABLES)
"""Endings of the files that are read here; each may be followed by ``.gz``."""

_WRAPPERS = ("data", "rows", "examples", "items", "instances", "records", "samples", "questions")
_SPLIT_NAMES = ("train", "training", "test", "testing", "validation", "valid", "val", "dev", "eval")
_SPACE = re.compile(r"\s*")
_LINE_END = re.compile("\r\n|\n|\r")
_LONGEST_FIELD = 2**31 - 1  # what the csv module can take on every system
_DEEP = "is nested too deeply; give a list of flat objects"


def text_form(name: str) -> str | None:
    """Which of `TEXTS` the file called ``name`` is, compressed or not; None: none of them."""
    plain = name.lower().removesuffix(".gz")
    return next((form for form in TEXTS if plain.endswith(form)), None)


def read_text_file(file: Path, name: str) -> Splits:
    """All splits of a file of one of `TEXTS`.

    Args:
        file: where it lies.
        name: what it is called, for its form and for messages.

    Raises:
        SpartaError: it cannot be read, or is not what its name says; the splits raise it as well.
    """
    form = text_form(name)
    text = _decoded(content_of(file), name)
    if form in TABLES:
        return {WHOLE: lambda: _separated(text, name, TABLES[form])}
    if form in LINES and not text.lstrip().startswith("["):
        return {WHOLE: lambda: _lines(text, name)}
    return _json(text, name)


def content_of(file: Path) -> bytes:
    """What the file holds, unpacked where it is a gzip.

    Raises:
        SpartaError: it cannot be read, or holds nothing.
    """
    try:
        content = file.read_bytes()
        if content.startswith(b"\x1f\x8b"):
            content = gzip.decompress(content)
    except FileNotFoundError as error:
        raise SpartaError(f"{file}: no such file; give a file, or a hub dataset as owner/name") from error
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise SpartaError(f"{file}: cannot be unpacked ({error}); give it uncompressed") from error
    except (OSError, ValueError) as error:
        said = error.strerror if isinstance(error, OSError) else error
        raise SpartaError(f"{file}: {said}; give a file that can be read") from error
    if not content.strip():
        raise SpartaError(f"{file}: is empty; give a file with at least one row")
    return content


def _decoded(content: bytes, name: str) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise SpartaError(
            f"{name}, line {line}: is not UTF-8 (byte {error.start}); save the file in that encoding"
        ) from error


# --- tables of text


def _separated(text: str, name: str, delimiter: str) -> list[Row]:
    before = csv.field_size_limit(_LONGEST_FIELD)
    try:
        return _table_rows(text, name, delimiter)
    finally:
        csv.field_size_limit(before)


def _table_rows(text: str, name: str, delimiter: str) -> list[Row]:
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    rows = []
    try:
        _require_header(reader.fieldnames or (), name)
        for number, value in enumerate(reader, start=1):
            if None in value or None in value.values():
                raise SpartaError(
                    f"{name}, row {number} (line {reader.line_num}): has other columns than the first line; "
                    "quote fields that hold the separator"
                )
            rows.append(Row(f"row {number}", value))
    except csv.Error as error:
        raise SpartaError(
            f"{name}, line {reader.reader.line_num}: not valid CSV ({error}); quote fields that hold quotes "
            "or the separator, and double the quotes in them"
        ) from error
    return rows


def _require_header(columns: Sequence[str], name: str) -> None:
    if (repeated := _repeated(columns)) is not None:
        raise SpartaError(f"{name}: has two columns called {shown(repeated)}; rename one")
    if len(columns) == 1 and (other := next((sign for sign in ";\t|" if sign in columns[0]), None)):
        raise SpartaError(
            f"{name}: its columns seem to be separated by {shown(other)}; save it with commas, or with tabs "
            "as .tsv"
        )


# --- JSON


def _lines(text: str, name: str) -> list[Row]:
    rows = []
    for number, line in enumerate(_LINE_END.split(text), start=1):
        if line.strip():
            rows.append(Row(f"row {number}", _line(line.strip(), f"{name}, row {number}")))
    return rows


def _line(line: str, where: str) -> Any:
    try:
        return _parsed(line)
    except RecursionError as error:
        raise SpartaError(f"{where}: {_DEEP}") from error
    except ValueError as error:  # a number of 5000 digits is a mere ValueError
        if line.endswith(","):
            raise SpartaError(
                f"{where}: ends in a comma; write one object a line and nothing between them, or a list in a "
                ".json file"
            ) from error
        raise SpartaError(f"{where}: not valid JSON ({error}); write one object a line") from error


def _json(text: str, name: str) -> Splits:
    try:
        document = _parsed(text)
    except json.JSONDecodeError as error:
        if error.msg == "Extra data":  # JSON lines under the wrong name are common
            return {WHOLE: lambda: numbered(_one_after_another(text, name))}
        raise SpartaError(
            f"{name}, line {error.lineno}: not valid JSON ({error.msg}); mend it, or write one object a "
            "line as .jsonl"
        ) from error
    except RecursionError as error:
        raise SpartaError(f"{name}: {_DEEP}") from error
    except ValueError as error:
        raise SpartaError(f"{name}: not valid JSON ({error}); mend it") from error
    splits = _splits(document, name)
    if splits is None:
        raise SpartaError(
            f"{name}: holds {kind(document)}; give a list of objects, or a mapping of ids, columns or splits "
            "to them"
        )
    return splits


def _one_after_another(text: str, name: str) -> Iterator[Any]:
    """The values that stand in ``text`` with nothing but space between them."""
    decoder = json.JSONDecoder(object_pairs_hook=_once)
    start, number = _past_space(text, 0), 1
    while start < len(text):
        where = f"{name}, row {number}"
        try:
            value, end = decoder.raw_decode(text, start)
        except RecursionError as error:
            raise SpartaError(f"{where}: {_DEEP}") from error
        except ValueError as error:
            said = error.msg if isinstance(error, json.JSONDecodeError) else error
            raise SpartaError(f"{where}: not valid JSON ({said}); write one object a line") from error
        yield value
        start, number = _past_space(text, end), number + 1


def _past_space(text: str, start: int) -> int:
    found = _SPACE.match(text, start)
    return found.end() if found else start


def _parsed(text: str) -> Any:
    return json.loads(text, object_pairs_hook=_once)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object, of which JSON's readers would keep the last of two values for one key."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError(f"the key {shown(_repeated(name for name, _ in pairs))} stands twice in one object")
    return found


def _repeated(names: Iterable[str]) -> str | None:
    """The first of ``names`` that more than one are; None: there is none."""
    return next((name for name, count in Counter(names).items() if count > 1), None)


def _splits(document: Any, name: str) -> Splits | None:
    """What a JSON document holds; None where no rows can be seen in it."""
    if isinstance(document, list):
        return {WHOLE: lambda: numbered(document)}
    if not isinstance(document, dict) or not document:
        return None
    if _of_viewer(document.get("rows")):
        return {WHOLE: lambda: numbered(entry["row"] for entry in document["rows"])}
    if (columns := _columns(document, name)) is not None:
        return {WHOLE: columns}
    if not all(map(str.isdecimal, document)) and all(_is_table(*each) for each in document.items()):
        return {key: _table(value, name) for key, value in document.items()}
    if (splits := _wrapped(document, name)) is not None:
        return splits
    if all(isinstance(value, dict) for value in document.values()):
        return {WHOLE: lambda: [Row(f"row {shown(key)}", value) for key, value in document.items()]}
    return None


def _wrapped(document: dict[str, Any], name: str) -> Splits | None:
    """The rows, or splits of them, that stand beside a version, a licence, ..."""
    known = {key: value for key, value in document.items() if key.lower() in (*_WRAPPERS, *_SPLIT_NAMES)}
    tables = {key: _table(value, name) for key, value in known.items() if _is_table(key, value)}
    if tables:
        return tables
    inner = [value for value in known.values() if isinstance(value, dict)]
    return _splits(inner[0], name) if len(inner) == 1 else None


def _is_table(key: str, value: Any) -> bool:
    """Whether ``value`` holds rows: a list with objects, by id, or, under the name of a split, by column."""
    if isinstance(value, list):
        return not value or any(isinstance(entry, dict) for entry in value)
    if not isinstance(value, dict):
        return False
    by_id = all(isinstance(entry, dict) for entry in value.values())
    if key.lower() in (*_SPLIT_NAMES, *_WRAPPERS):
        return by_id or _columns(value, key) is not None
    return by_id and not _by_label(value)


def _table(value: Any, name: str) -> Callable[[], list[Row]]:
    if isinstance(value, list):
        return lambda: numbered(value)
    return _columns(value, name) or (lambda: [Row(f"row {shown(key)}", row) for key, row in value.items()])


def _of_viewer(rows: Any) -> bool:
    """Whether these are rows as the hub's viewer hands them out, each in an object with its number."""
    return (
        isinstance(rows, list)
        and bool(rows)
        and all(isinstance(entry, dict) and {"row_idx", "row"} <= entry.keys() for entry in rows)
    )


def _columns(document: dict[str, Any], name: str) -> Callable[[], list[Row]] | None:
    """The rows of a document that is ordered by column, in one of pandas' and ``datasets``' three ways.

    Raises:
        SpartaError: its columns have different lengths.
    """
    names, data = document.get("columns"), document.get("data")
    if isinstance(names, list) and isinstance(data, list) and all(isinstance(row, list) for row in data):
        return _of_lists(names, data, name)
    if _by_label(document):
        labels = next(iter(document.values()))
        return lambda: [
            Row(f"row {shown(label)}", {column: document[column][label] for column in document})
            for label in labels
        ]
    lists = [value for value in document.values() if isinstance(value, list)]
    if len(lists) < len(document) or all(isinstance(entry, dict) for value in lists for entry in value):
        return None
    if len({len(value) for value in lists}) > 1:
        lengths = listed(f"{column} {len(value)}" for column, value in document.items())
        raise SpartaError(f"{name}: its columns have different lengths ({lengths}); give each row a value")
    return lambda: numbered(dict(zip(document, row, strict=True)) for row in zip(*lists, strict=True))


def _of_lists(names: list[Any], data: list[list[Any]], name: str) -> Callable[[], list[Row]]:
    for number, row in enumerate(data, start=1):
        if len(row) != len(names):
            raise SpartaError(
                f"{name}, row {number}: has {len(row)} values for {len(names)} columns; give each column one"
            )
    return lambda: numbered(dict(zip(map(str, names), row, strict=True)) for row in data)


def _by_label(document: dict[str, Any]) -> bool:
    """Whether it maps columns to the values of numbered rows, as pandas writes a table by default."""
    columns = list(document.values())
    if not columns or not all(isinstance(column, dict) and column for column in columns):
        return False
    labels = list(columns[0])
    return (
        all(label.isdecimal() for label in labels)
        and not all(name.isdecimal() for name in document)
        and all(list(column) == labels for column in columns)
        and not all(isinstance(value, dict) for column in columns for value in column.values())
    )
