"""A user's file of instructions, and which of them an iteration uses."""

from __future__ import annotations

import difflib
import json
import string
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparta_lite.errors import SpartaError
from sparta_lite.randomness import generator

_LINES = (".jsonl", ".ndjson")


@dataclass(frozen=True)
class Instructions:
    """The texts in the file's order, each once."""

    texts: tuple[str, ...]
    duplicates: int
    """Rows that were left out because an earlier one says the same."""


@dataclass(frozen=True)
class _Row:
    place: str
    """Where it stands, for a message."""
    value: Any


def load_instructions(path: str, column: str | None, template: str | None) -> Instructions:
    """Read the instructions of a JSON or JSONL file.

    JSON may be a list of objects, a mapping of ids to objects, or a mapping of splits to either; of several
    splits ``FILE#SPLIT`` picks one. JSONL has one object a line.

    Args:
        path: the file, with ``#SPLIT`` where it has several.
        column: the column that holds the instruction; or
        template: text over the columns of a row, ``"{instruction}\\n{input}"``; single parts may be empty.

    Raises:
        SpartaError: the file cannot be read, or a row has no such text; it names file and row.
    """
    file, split = _parted(path)
    rows = _rows(file, split)
    if not rows:
        raise SpartaError(f"{path}: holds no instructions; give a file with at least one row")
    parts = [("", column)] if column is not None else _parsed(template or "", path)
    texts = [_text(row, parts, path) for row in rows]
    unique = tuple(dict.fromkeys(texts))
    return Instructions(unique, duplicates=len(texts) - len(unique))


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


def _parted(path: str) -> tuple[Path, str | None]:
    name, hash_, split = path.rpartition("#")
    if hash_ and not Path(path).exists():
        return Path(name), split
    return Path(path), None


def _rows(file: Path, split: str | None) -> list[_Row]:
    text = _read(file)
    if file.suffix.lower() not in (".json", *_LINES):
        raise SpartaError(f"{file}: is neither .json nor .jsonl; give a file of one of these forms")
    if file.suffix.lower() in _LINES:
        return _lines(file, text, split)
    try:
        document = json.loads(text)
    except json.JSONDecodeError as error:
        if error.msg == "Extra data":  # JSON lines under the wrong name are common
            return _lines(file, text, split)
        raise SpartaError(f"{file}, line {error.lineno}: not valid JSON ({error.msg})") from error
    except ValueError as error:
        raise SpartaError(f"{file}: not valid JSON ({error})") from error
    except RecursionError as error:
        raise SpartaError(f"{file}: is nested too deeply; give a list of flat objects") from error
    return _table(_split(document, file, split))


def _read(file: Path) -> str:
    try:
        text = file.read_bytes().decode("utf-8-sig")
    except FileNotFoundError as error:
        raise SpartaError(f"{file}: no such file; set data.path to a JSON or JSONL file") from error
    except OSError as error:
        raise SpartaError(f"{file}: {error.strerror}; set data.path to a file that can be read") from error
    except UnicodeDecodeError as error:
        raise SpartaError(f"{file}: is not UTF-8 (byte {error.start}); save it in that encoding") from error
    if not text.strip():
        raise SpartaError(f"{file}: is empty; give a file with at least one row")
    return text


def _lines(file: Path, text: str, split: str | None) -> list[_Row]:
    if split is not None:
        raise SpartaError(f"{file}: JSON lines have no splits; remove #{split}")
    rows = []
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                rows.append(_Row(f"row {number}", json.loads(line)))
            except (ValueError, RecursionError) as error:  # a number of 5000 digits is a mere ValueError
                raise SpartaError(f"{file}, row {number}: not valid JSON ({error})") from error
    return rows


def _split(document: Any, file: Path, split: str | None) -> Any:
    """The one table of ``document`` that is meant."""
    splits = document if isinstance(document, dict) and document else {}
    if not all(_is_table(table) for table in splits.values()):
        splits = {}
    if split is not None:
        if split not in splits:
            names = ", ".join(splits) or "none"
            raise SpartaError(f"{file}: has no split {split!r}; it has: {names}")
        return splits[split]
    if len(splits) > 1:
        choices = ", ".join(f"{file.name}#{name}" for name in splits)
        raise SpartaError(f"{file}: has {len(splits)} splits; set data.path to one of {choices}")
    if splits:
        return next(iter(splits.values()))
    if isinstance(document, list) or (isinstance(document, dict) and _is_mapping_of_rows(document)):
        return document
    raise SpartaError(
        f"{file}: holds {_kind(document)}; give a list of objects, or a mapping of ids or splits to them"
    )


def _is_table(value: Any) -> bool:
    return isinstance(value, list) or (isinstance(value, dict) and _is_mapping_of_rows(value))


def _is_mapping_of_rows(value: dict[str, Any]) -> bool:
    return all(isinstance(row, dict) for row in value.values())


def _table(table: Any) -> list[_Row]:
    if isinstance(table, dict):
        return [_Row(f"row {name!r}", value) for name, value in table.items()]
    return [_Row(f"row {number}", value) for number, value in enumerate(table, start=1)]


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


def _text(row: _Row, parts: Sequence[tuple[str, str | None]], path: str) -> str:
    where = f"{path}, {row.place}"
    if not isinstance(row.value, dict):
        raise SpartaError(f"{where}: is {_kind(row.value)}; give an object with named columns")
    text = "".join(_filled(row.value, parts, where))
    if not text.strip():
        raise SpartaError(f"{where}: the instruction is blank; fill it in or remove the row")
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise SpartaError(
            f"{where}: the instruction holds half of a surrogate pair; repair or remove the row"
        )
    return text


def _filled(row: dict[str, Any], parts: Sequence[tuple[str, str | None]], where: str) -> Iterator[str]:
    for text, column in parts:
        yield text
        if column is None:
            continue
        if column not in row:
            nearest = difflib.get_close_matches(column, row, n=1)
            meant = f" did you mean {nearest[0]!r}?" if nearest else ""
            columns = ", ".join(row) or "none"
            raise SpartaError(f"{where}: has no column {column!r};{meant} Its columns: {columns}")
        if not isinstance(row[column], str):
            raise SpartaError(f"{where}: column {column!r} holds {_kind(row[column])}; it must be text")
        yield row[column]


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")
