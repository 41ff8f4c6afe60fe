r"""Numbers exactly as they are written: whole ones, decimals, fractions, mixed numbers, powers of ten.

Values are fractions of whole numbers, so that two which differ in the hundredth place differ here. All text
is in the spelling of `sparta_lite.data.latex.spelt`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

_LONGEST = 200
_LARGEST_POWER = 2000

_DIGITS = r"(?:\d{1,3}(?:,\d{3})+(?!,?\d)|\d+)"
_DECIMAL = rf"(?:{_DIGITS}(?:\.\d+)?|\.\d+)"
_MINUS = r"(?:-\s*)?"


def _value(digits: str) -> Fraction:
    return Fraction(digits.replace(",", "").replace(" ", ""))


def _endless(found: re.Match[str]) -> Fraction:
    """0.1(6): the part that repeats counts as so many ninths."""
    whole, once, again = found[1] or "0", found[2], found[3] or found[4]
    first = Fraction(int(whole + once), 10 ** len(once))
    return first + Fraction(int(again), (10 ** len(again) - 1) * 10 ** len(once))


def _scientific(found: re.Match[str]) -> Fraction:
    exponent = int(next(power for power in found.groups()[1:] if power is not None))
    if abs(exponent) > _LARGEST_POWER:
        raise ValueError("a power of ten that no answer has")
    return _value(found[1] or "1") * Fraction(10) ** exponent


def _fraction(found: re.Match[str]) -> Fraction:
    above, below = (part for part in found.groups() if part is not None)
    return _value(above) / _value(below)


def _mixed(found: re.Match[str]) -> Fraction:
    whole, above, below = (part for part in found.groups() if part is not None)
    part = Fraction(int(above), int(below))
    if part >= 1:
        raise ValueError("a whole number beside an improper fraction: a sum or a product")
    return _value(whole) + part


_FRACTION = rf"\\frac\{{\s*({_MINUS}{_DECIMAL})\s*\}}\s*\{{\s*({_MINUS}{_DECIMAL})\s*\}}"
_FORMS: tuple[tuple[str, Callable[[re.Match[str]], Fraction]], ...] = (
    (r"(\d*)\.(\d*)(?:\\(?:overline|bar|dot)\s*\{(\d+)\}|\((\d+)\))", _endless),
    (
        rf"({_DECIMAL})(?:\s*(?:\\times|\\cdot|\*)\s*10\s*\^\s*\{{\s*([+-]?\d+)\s*\}}|[eE]([+-]?\d+)(?![\w.]))"
        r"|10\s*\^\s*\{\s*([+-]?\d+)\s*\}",
        _scientific,
    ),
    (
        rf"({_DIGITS})(?:\s+(?:and\s+)?(\d+)\s*/\s*(\d+)|\s*(?:and\s+)?\\frac\{{\s*(\d+)\s*\}}\s*\{{\s*(\d+)\s*\}})",
        _mixed,
    ),
    (rf"{_FRACTION}|({_DECIMAL})\s*/\s*({_DECIMAL})", _fraction),
    (rf"({_DECIMAL})", lambda found: _value(found[1])),
)
"""How a number is written, the longest form first, and what it comes to; signs stand before it."""

_NUMERAL = [(re.compile(form), value) for form, value in _FORMS]

_BASES = {
    "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10,
    "eleven": 11, "twelve": 12, "sixteen": 16,
}  # fmt: skip
_BASED = re.compile(
    r"[({]?\s*(-?[0-9A-Fa-f]+(?:\.[0-9A-Fa-f]+)?)\s*[)}]?\s*"
    r"(?:_\s*(?:(\d)|\{\s*\(?\s*(\d+|[a-z]+)\s*\)?\s*\})|(?:\s+in)?\s+base[- ](\d+|[a-z]+))"
)
_BESIDE = re.compile(r"\d\s+\.?\d|\d\s*\\frac\{\s*-?\d+\s*\}\s*\{\s*\d+\s*\}")
_MIXED = re.compile(r"(?<![\w.}])(\d{1,20})\s*\\frac\{\s*(\d{1,20})\s*\}\{\s*(\d{1,20})\s*\}")


@dataclass(frozen=True)
class Numeral:
    """A number where it stands in a text."""

    start: int
    end: int
    value: Fraction


@dataclass(frozen=True)
class Based:
    """A numeral in a base: 52 in base 8 is no other numeral, not even one of the same value."""

    digits: str
    base: int


def number(text: str) -> Fraction | None:
    """The number that ``text`` is; None where it is none, or something to be worked out."""
    text = text.strip()
    if len(text) > _LONGEST:
        return None
    sign, bare = ("-", text[1:].strip()) if text.startswith("-") else ("", text.removeprefix("+").strip())
    found = numeral_at(bare, 0)
    if found is None or found.end != len(bare):
        return None
    return -found.value if sign else found.value


def numeral_at(text: str, place: int) -> Numeral | None:
    """The unsigned number that begins at ``place``, as long as it can be."""
    for pattern, value in _NUMERAL:
        found = pattern.match(text, place)
        if found is not None:
            try:
                return Numeral(place, found.end(), value(found))
            except (ValueError, ZeroDivisionError):
                return None
    return None


def based(text: str) -> Based | None:
    """The numeral with a base that ``text`` is: `101_2`, `1A_{16}`, "52 base 8"."""
    found = _BASED.fullmatch(text.strip())
    if found is None:
        return None
    name = found[2] or found[3] or found[4]
    base = int(name) if name.isdigit() else _BASES.get(name, 0)
    return Based(found[1].upper().lstrip("0") or "0", base) if base > 1 else None


def side_by_side(text: str) -> bool:
    """Whether numbers stand in ``text`` with nothing between them: neither a product nor a sum."""
    return _BESIDE.search(text) is not None


def unmixed(text: str) -> str:
    """``text`` with mixed numbers as fractions, whatever stands behind them."""

    def fraction(found: re.Match[str]) -> str:
        whole, above, below = map(int, found.groups())
        return rf"\frac{{{whole * below + above}}}{{{below}}}" if above < below else found[0]

    return _MIXED.sub(fraction, text)
