"""Odd values, and what can happen to a file: the material of every kind of input."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from random import Random
from typing import Any

NEST = 20_000  # brackets: far beyond what a recursive reader takes

VALUES: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    -1,
    1,
    2,
    1.5,
    -0.0,
    1e308,
    5e-324,
    float("inf"),
    float("-inf"),
    float("nan"),
    2**31,
    2**63,
    10**40,
    10**400,
    "",
    " ",
    "x",
    "0",
    "1e999",
    "null",
    "true",
    "~",
    "~nobody/x",
    "../..",
    "/",
    "a\nb",
    "a\x00b",
    "\x1b[2J\x1b[31mred",
    "\ud800",
    "\u202eright to left",
    "é" * 300,
    "x" * 10_000,
    "9" * 5_000,
    "{}",
    "{question}{response}",
    "{",
    "%s %n",
    "(a+)+$",
    "[",
    "*",
    [],
    [[]],
    [None],
    ["a", 1, None],
    {},
    {"a": {}},
    {"": ""},
    {"x" * 2_000: 1},
)
"""In place of what a file or a setting should hold."""

_DEEP = "[" * NEST + "]" * NEST
_LONG = "7" * 5_000


def odd(random: Random) -> Any:
    """One of ``VALUES``, sometimes inside a list or a mapping."""
    value = copy.deepcopy(random.choice(VALUES))
    wrapped = random.random()
    if wrapped < 0.05:
        return [value] * random.choice((1, 3, 50))
    if wrapped < 0.1:
        return {"a": value, "b": odd(random)}
    return value


def spoilt(value: Any, random: Random) -> Any:
    """A copy of a JSON value in which one place holds something else, is gone, or is there again."""
    root = [copy.deepcopy(value)]
    places = list(_places(root))
    holder, key = random.choice(places)
    change = random.random()
    if change < 0.65:
        holder[key] = odd(random)
    elif change < 0.8 and holder is not root:
        del holder[key]
    elif change < 0.9 and isinstance(holder, dict):
        holder[random.choice(("", "x", "extra", str(key).upper()))] = odd(random)
    elif isinstance(holder, list) and holder is not root:
        holder.extend([holder[key]] * random.choice((1, 2, 40)))
    else:
        holder[key] = [holder[key]]
    return root[0]


def _places(holder: Any, depth: int = 0) -> Any:
    """Every (container, key) inside ``holder``."""
    items = list(enumerate(holder) if isinstance(holder, list) else holder.items())
    for key, value in items:
        yield holder, key
        if isinstance(value, list | dict) and depth < 8:
            yield from _places(value, depth + 1)


def written(value: Any) -> bytes:
    """As JSON; infinities and half surrogate pairs included, as careless writers leave them."""
    return json.dumps(value, ensure_ascii=True).encode()


def _inserted(data: bytes, random: Random, piece: bytes) -> bytes:
    place = random.randrange(len(data) + 1)
    return data[:place] + piece + data[place:]


def _number_grown(data: bytes, random: Random) -> bytes:
    digits = [place for place, byte in enumerate(data) if chr(byte).isdigit()]
    if not digits:
        return data + _LONG.encode()
    place = random.choice(digits)
    return data[:place] + _LONG.encode() + data[place + 1 :]


def _flipped(data: bytes, random: Random) -> bytes:
    if not data:
        return b"\xff"
    place = random.randrange(len(data))
    return data[:place] + bytes([data[place] ^ (1 << random.randrange(8))]) + data[place + 1 :]


def _shuffled(data: bytes, random: Random) -> bytes:
    lines = data.splitlines(keepends=True)
    random.shuffle(lines)
    return b"".join(lines)


def _line_doubled(data: bytes, random: Random) -> bytes:
    lines = data.splitlines(keepends=True)
    return b"".join([*lines, *lines[-1:]]) if random.random() < 0.5 else b"".join(lines[:1] + lines)


def _line_dropped(data: bytes, random: Random) -> bytes:
    lines = data.splitlines(keepends=True)
    gone = random.randrange(len(lines) + 1)
    return b"".join(line for number, line in enumerate(lines) if number != gone)


DAMAGES: dict[str, Callable[[bytes, Random], bytes]] = {
    "empty": lambda data, random: b"",
    "cut": lambda data, random: data[: random.randrange(len(data) + 1)],
    "head cut": lambda data, random: data[random.randrange(len(data) + 1) :],
    "bit flipped": _flipped,
    "not utf-8": lambda data, random: _inserted(data, random, b"\xff\xfe\xe9"),
    "null bytes": lambda data, random: _inserted(data, random, b"\0" * random.choice((1, 4096))),
    "byte order mark": lambda data, random: b"\xef\xbb\xbf" + data,
    "utf-16": lambda data, random: data.decode("utf-8", "ignore").encode("utf-16"),
    "carriage returns": lambda data, random: data.replace(b"\n", b"\r\n"),
    "nested": lambda data, random: _inserted(data, random, _DEEP.encode()),
    "nested alone": lambda data, random: _DEEP.encode(),
    "long number": _number_grown,
    "long number alone": lambda data, random: _LONG.encode(),
    "another document": lambda data, random: data + data,
    "lines shuffled": _shuffled,
    "line doubled": _line_doubled,
    "line dropped": _line_dropped,
    "garbage": lambda data, random: random.randbytes(random.choice((1, 100, 5_000))),
    "text": lambda data, random: b"not what you think\n" * random.choice((1, 300)),
    "null": lambda data, random: b"null",
    "list": lambda data, random: b"[]",
    "number": lambda data, random: b"1e400",
}
"""What happens to a file's bytes, whatever they hold."""


def damaged(data: bytes, random: Random) -> bytes:
    """``data`` after one of ``DAMAGES``."""
    return DAMAGES[random.choice(list(DAMAGES))](data, random)
