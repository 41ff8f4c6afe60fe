"""Damage to one file of a run or an ablation: seeded, and of a named kind."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

from .odd import DAMAGES, odd

_MARK = "the damage"
_WRITTEN: dict[str, Callable[[Random], str]] = {
    "nested deeply": lambda random: random.choice(
        ("[" * 20_000 + "]" * 20_000, '{"a":' * 20_000 + "1" + "}" * 20_000)
    ),
    "thousands of digits": lambda random: random.choice(("", "-")) + "9" * 5_000,
    "no finite number": lambda random: random.choice(("NaN", "Infinity", "-Infinity", "1e999", "9" * 400)),
    "half a surrogate pair": lambda random: '"\\ud800"',
}
"""What is written in place of a value."""

KINDS = (*DAMAGES, *_WRITTEN, "key dropped", "key renamed", "key added", "odd value", "other value")
""""other value" leaves a value of the same type: most records still parse, and nothing but a digest tells."""


def damage(path: Path, kind: str, seed: int) -> bool:
    """Damage a file in place; False, where the kind does not fit what it holds, and it is as it was.

    Args:
        path: the file.
        kind: one of ``KINDS``.
        seed: decides where.
    """
    random = Random(f"{kind} {seed} {path.name}")
    before = path.read_bytes()
    after = DAMAGES[kind](before, random) if kind in DAMAGES else _in_json(path, before, kind, random)
    if after == before:
        return False
    path.write_bytes(after)
    return True


def _in_json(path: Path, data: bytes, kind: str, random: Random) -> bytes:
    """One value of the document, or of one of its lines, is changed."""
    lines = data.splitlines(keepends=True) if path.suffix == ".jsonl" else [data]
    number = random.randrange(max(len(lines), 1))
    try:
        document = json.loads(lines[number])
    except (ValueError, IndexError):
        return data
    places = list(_places(document))
    if not places:
        return data
    holder, key = random.choice(places)
    _change(holder, key, kind, random)
    text = json.dumps(document, ensure_ascii=False, indent=1 if path.suffix == ".json" else None) + "\n"
    if kind in _WRITTEN:
        text = text.replace(f'"{_MARK}"', _WRITTEN[kind](random))
    lines[number] = text.encode("utf-8", "surrogatepass")
    return b"".join(lines)


def _change(holder: Any, key: Any, kind: str, random: Random) -> None:
    match kind:
        case "key dropped":
            del holder[key]
        case "key renamed" if isinstance(holder, dict):
            holder[f"{key}x"] = holder.pop(key)
        case "key added" if isinstance(holder, dict):
            holder["added"] = odd(random)
        case "odd value":
            holder[key] = odd(random)
        case "other value":
            holder[key] = _other(holder[key], random)
        case _ if kind in _WRITTEN:
            holder[key] = _MARK


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every (container, key) inside ``value``."""
    for key, inner in list(value.items() if isinstance(value, dict) else enumerate(value)):
        yield value, key
        if isinstance(inner, dict | list):
            yield from _places(inner)


def _other(value: Any, random: Random) -> Any:
    """Of the same type, and mostly as valid as the one before."""
    match value:
        case bool():
            return not value
        case int():
            return abs(value + random.choice((-1, 1)))
        case float():
            return value * (1 + random.choice((-1e-3, 1e-3)))
        case str():
            return random.choice((f"{value} ", f"{value[:-1]}z"))
        case list():
            return random.choice((value[:-1], [*value, *value[-1:]], value[::-1]))
        case dict():
            return dict(list(value.items())[:-1])
        case _:
            return value
