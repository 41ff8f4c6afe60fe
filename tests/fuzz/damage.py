"""Damage to a file of a run, an ablation, an adapter or a base: seeded, of one named kind at a time."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

Place = tuple[Any, Any]
"""A list or a dictionary of a JSON document, and the index or key of one of its values."""

SUFFIXES = (".json", ".jsonl", ".yaml", ".safetensors")

DEEP = 20_000
"""Levels of nesting, more than Python's parser and its stack take."""
DIGITS = 5000
"""Of a whole number, more than Python reads or writes."""

_OTHERS: tuple[Any, ...] = (
    None,
    True,
    "text",
    "",
    -1,
    0,
    7,
    2.5,
    1e300,
    10**30,
    [],
    {},
    [None],
    {"a": 1},
    [[1, 2]],
)
_WILD = ("NaN", "Infinity", "-Infinity", "1e999", "-1e999", "9" * 400, "1e308", "-0.0", "1e-320")


def damage(path: Path, kind: str, seed: int) -> str | None:
    """Damage a file in place.

    Args:
        path: the file.
        kind: one of ``KINDS``.
        seed: decides where.

    Returns:
        What was done, for people; None where the kind does not fit the file, which is as it was.
    """
    rng = random.Random(f"{kind} {seed} {path.name}")
    before = path.read_bytes()
    if kind in _OF_BYTES:
        after, said = _OF_BYTES[kind](before, rng)
    elif path.suffix in (".json", ".jsonl"):
        after, said = _of_json(path, kind, before, rng)
    else:
        return None
    if after == before:
        return None
    path.write_bytes(after)
    return f"{path.name}, {kind}: {said}"


def damaged_file(
    root: Path, seed: int, suffixes: tuple[str, ...] = (".json", ".jsonl", ".yaml", ".safetensors")
) -> Path:
    """One of the files below ``root`` that have these suffixes, the rarer names as often as the others."""
    files = sorted(path for path in root.rglob("*") if path.is_file() and path.suffix in suffixes)
    names = sorted({path.name for path in files})
    rng = random.Random(f"file {seed}")
    name = rng.choice(names)
    return rng.choice([path for path in files if path.name == name])


Made = tuple[bytes, str]


def _truncate(data: bytes, rng: random.Random) -> Made:
    end = rng.randrange(max(len(data), 1))
    return data[:end], f"cut to {end} of {len(data)} bytes"


def _empty(data: bytes, rng: random.Random) -> Made:
    return b"", "emptied"


def _not_utf8(data: bytes, rng: random.Random) -> Made:
    at = rng.randrange(len(data) + 1)
    return data[:at] + b"\xff\xfe\x80" + data[at:], f"bytes that are no UTF-8 at {at}"


def _null_byte(data: bytes, rng: random.Random) -> Made:
    at = rng.randrange(len(data) + 1)
    return data[:at] + b"\0" + data[at:], f"a null byte at {at}"


def _flip_bit(data: bytes, rng: random.Random) -> Made:
    if not data:
        return data, ""
    at, bit = rng.randrange(len(data)), rng.randrange(8)
    return data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :], f"bit {bit} of byte {at} flipped"


def _lines(change: Callable[[list[bytes], random.Random], str]) -> Callable[[bytes, random.Random], Made]:
    def made(data: bytes, rng: random.Random) -> Made:
        lines = data.splitlines(keepends=True)
        if len(lines) < 2:
            return data, ""
        said = change(lines, rng)
        return b"".join(lines), said

    return made


def _swap(lines: list[bytes], rng: random.Random) -> str:
    one, other = rng.sample(range(len(lines)), 2)
    lines[one], lines[other] = lines[other], lines[one]
    return f"lines {one + 1} and {other + 1} swapped"


def _drop_line(lines: list[bytes], rng: random.Random) -> str:
    number = rng.randrange(len(lines))
    del lines[number]
    return f"line {number + 1} dropped"


def _double_line(lines: list[bytes], rng: random.Random) -> str:
    number = rng.randrange(len(lines))
    lines.insert(rng.randrange(len(lines) + 1), lines[number])
    return f"line {number + 1} doubled"


_OF_BYTES: dict[str, Callable[[bytes, random.Random], Made]] = {
    "truncated": _truncate,
    "empty": _empty,
    "not UTF-8": _not_utf8,
    "null byte": _null_byte,
    "bit flipped": _flip_bit,
    "lines swapped": _lines(_swap),
    "line dropped": _lines(_drop_line),
    "line doubled": _lines(_double_line),
}


def _of_json(path: Path, kind: str, data: bytes, rng: random.Random) -> Made:
    """One value of the document, or of one of its lines, is changed in the text."""
    if path.suffix == ".jsonl":
        lines = data.splitlines(keepends=True)
        if not lines:
            return data, ""
        number = rng.randrange(len(lines))
        changed, said = _document(lines[number], kind, rng, None)
        lines[number] = changed + b"\n"
        return b"".join(lines), f"line {number + 1}, {said}"
    return _document(data, kind, rng, 1)


_MARK = "\x01damage\x01"


def _document(data: bytes, kind: str, rng: random.Random, indent: int | None) -> Made:
    try:
        document = json.loads(data)
    except ValueError:
        return data, ""
    places = list(_places(document, ""))
    if not places:
        return data, ""
    (holder, key), name = rng.choice(places)
    written: str | None = None
    if kind == "key dropped":
        del holder[key]
    elif kind == "key renamed":
        if not isinstance(holder, dict):
            return data, ""
        holder[f"{key}x"] = holder.pop(key)
    elif kind == "key added":
        if isinstance(holder, dict):
            holder["added"] = rng.choice(_OTHERS)
        else:
            holder.append(rng.choice(_OTHERS))
    elif kind == "other type":
        holder[key] = rng.choice(_OTHERS)
    elif kind == "other value":
        holder[key] = _other(holder[key], rng)
    elif kind == "long text":
        holder[key] = "x" * 10_000
    else:
        holder[key] = _MARK
        written = _TEXTS[kind](rng)
    text = json.dumps(document, indent=indent, ensure_ascii=False)
    if written is not None:
        text = text.replace(json.dumps(_MARK), written)
    return text.encode("utf-8", "surrogatepass"), f"{name[1:]} {written or ''}"[:80]


def _places(value: Any, name: str) -> Any:
    """Every value inside a document, with its dotted name."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (value, key), f"{name}.{key}"
        yield from _places(inner, f"{name}.{key}")


def _other(value: Any, rng: random.Random) -> Any:
    """Of the same type, and mostly as valid as the one before."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return max(0, value + rng.choice((-1, 1)))
    if isinstance(value, float):
        return value * (1 + rng.choice((-1, 1)) * 1e-3)
    if isinstance(value, str):
        return f"{value} " if rng.random() < 0.5 else value[:-1] + "z"
    if isinstance(value, list):
        return value[:-1] if rng.random() < 0.5 else [*value, *value[-1:]]
    return dict(list(value.items())[:-1])


_TEXTS: dict[str, Callable[[random.Random], str]] = {
    "nested deeply": lambda rng: rng.choice(("[" * DEEP + "]" * DEEP, '{"a":' * DEEP + "1" + "}" * DEEP)),
    "thousands of digits": lambda rng: rng.choice(("", "-")) + "9" * DIGITS,
    "no finite number": lambda rng: rng.choice(_WILD),
    "half a surrogate pair": lambda rng: '"\\ud800"',
}

KINDS = (
    *_OF_BYTES,
    *_TEXTS,
    *("key dropped", "key renamed", "key added", "other type", "other value", "long text"),
)
