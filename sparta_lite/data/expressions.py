r"""Whether two answers mean the same: numbers, lists, intervals, equations, matrices, words, mathematics.

The form of the gold answer decides where writing leaves a choice:

- Gold 50% takes 50% and 50; gold 50 takes 50 and 50%; gold 0.5 or 1/2 takes 0.5 and 50%.
- Gold with a base takes the same digits in the same base. A comma between digits sets thousands apart where
  three digits follow, else it parts a list: 5,5 is no 5.5.
- Decimals are exact: 0.333 is not 1/3; 0.(3) is.
- A list takes any order, a tuple its own; ``a \pm b`` is a list of two.
- Units are dropped, unless both are known and differ. "x =" is dropped, unless both name something else.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from sparta_lite.data.latex import FUNCTIONS, group, is_enclosed, spelt, split, undressed
from sparta_lite.data.numerals import Based, based, number, side_by_side, unmixed
from sparta_lite.data.symbolic import same_value
from sparta_lite.data.units import Amount, amount

_LONGEST = 600
_DEEPEST = 8
_MOST_PARTS = 40

_AND = (
    r"(?:\\(?:text|mbox|mathrm|textnormal)\s*\{\s*,?\s*(?:and|or)\s*\}|(?<![a-zA-Z\\])(?:and|or)(?![a-zA-Z]))"
)
_COMMA = re.compile(rf"\s*(?:[,;]\s*{_AND}|[;,]|{_AND})\s*")
_COMMA_NOT_IN_THOUSANDS = re.compile(
    rf"\s*(?:[,;]\s*{_AND}|;|(?<!\d),|,(?!\d{{3}}(?!\d))|(?<=\d{{4}}),|{_AND})\s*"
)
_UNION = re.compile(r"\s*\\cup(?![a-zA-Z])\s*")
_EQUALS = re.compile(r"\s*=\s*")
_ABOUT = re.compile(r"\s*(?:\\(?:approx|simeq|sim)(?![a-zA-Z])|~=)\s*")
_FOLLOWS = re.compile(
    r"\s*(?:\\(?:Rightarrow|implies|Longrightarrow|rightarrow|to|iff|therefore|quad)(?![a-zA-Z])|=>|->)\s*"
)
_ROW = re.compile(r"\s*\\\\(?:\s*\[[^\]]*\])?\s*")
_CELL = re.compile(r"\s*(?<!\\)&\s*")
_MATRIX = re.compile(
    r"\[?\s*\\begin\{(?P<name>[pbB]?matrix|smallmatrix|array)\}(?:\{[lcr| ]*\})?"
    r"(?P<rows>(?:(?!\\begin).)*)\\end\{(?P=name)\}\s*\]?",
    re.DOTALL,
)
_TABLE = r"\begin"
_RELATION = re.compile(r"\\(?:leq|geq|neq)(?![a-zA-Z])|[<>]")
_MEMBER = re.compile(r"[^=<>]{1,40}?\s*\\in(?![a-zA-Z])\s*")
_EITHER = re.compile(r"\\[pm][mp](?![a-zA-Z])")
_NAME = re.compile(r"(?:[a-zA-Z|]|\\[a-zA-Z]+|\(\s*[a-zA-Z]\s*,)[^+*/^]*")
_LETTER = re.compile(r"(?:[a-zA-Z]|\\[a-zA-Z]+)(?:_\{?\w+\}?)?")
_RATIO = re.compile(r"([^:]+):([^:]+)(?::([^:]+))?")
_WORDS = re.compile(r"[A-Za-z][A-Za-z'.-]*(?:[ -]+[A-Za-z0-9'.-]+)*")
_FUNCTION = re.compile(FUNCTIONS)
_ARTICLE = re.compile(r"\b(?:a|an|the) ")
_ANY_ORDER = frozenset(("list", "set", "union"))


@dataclass(frozen=True)
class _Several:
    """An answer of several parts."""

    kind: Literal["list", "set", "tuple", "interval", "union", "matrix"]
    parts: tuple[str, ...]
    shape: str = ""
    """The brackets of an interval, the number of columns of a matrix."""


def same_expression(gold: str, said: str) -> bool | None:
    """Whether both mean the same; None where ``said`` cannot be read.

    Args:
        gold: LaTeX, a number or a word.
        said: the same, whatever a model wrote.
    """
    return _same(spelt(gold), spelt(said), _DEEPEST)


def is_number(text: str) -> bool:
    """Whether ``text`` is a number, its unit aside."""
    return _value(amount(_trimmed(spelt(text)))) is not None


def is_words(text: str) -> bool:
    """Whether ``text`` is no mathematics, but words."""
    return _words(_trimmed(spelt(text))) is not None


def _same(gold: str, said: str, depth: int) -> bool | None:
    gold, said = _last_step(_trimmed(gold)), _last_step(_trimmed(said))
    if not said or not gold or len(said) > _LONGEST or depth == 0:
        return None
    if _squeezed(gold) == _squeezed(said):
        return True
    rounded = split(said, _ABOUT)
    if len(rounded) > 1:
        return _same_exact_or_rounded(gold, rounded, depth)
    words = _words(gold)
    if words is not None:
        return words == _words(said)
    wanted = _parts(gold)
    found = _parts(said, len(wanted))
    if len(wanted) > 1 or len(found) > 1:
        return _same_several(_several(gold, wanted), _several(said, found), depth)
    if _RELATION.search(gold) or _RELATION.search(said):
        return same_value(gold, said)
    sides = _sides(gold), _sides(said)
    if len(sides[0]) > 1 or len(sides[1]) > 1:
        return _same_equation(*sides, depth)
    several = _several(gold, wanted), _several(said, found)
    if any(several) and not (_TABLE in gold and _TABLE in said and not all(several)):
        return _same_several(*several, depth)
    return _same_amount(gold, said)


def _same_exact_or_rounded(gold: str, said: Sequence[str], depth: int) -> bool | None:
    """x = 1/3, about 0.33: both are stated, the exact value and the rounded one."""
    alike = [_same(gold, part, depth - 1) for part in said if not _LETTER.fullmatch(part.strip())]
    return True if True in alike else None if None in alike or not alike else False


def _same_several(gold: _Several | None, said: _Several | None, depth: int) -> bool | None:
    if gold is None or said is None or len(gold.parts) != len(said.parts) or len(gold.parts) > _MOST_PARTS:
        return False
    listed = "list" in (gold.kind, said.kind)
    if listed and not {gold.kind, said.kind} <= {"list", "set", "tuple"}:
        return False
    if not listed and (gold.kind, gold.shape) != (said.kind, said.shape):
        return False
    if {gold.kind, said.kind} <= _ANY_ORDER:
        return _same_in_any_order(gold.parts, said.parts, depth)
    alike = [_same(first, second, depth - 1) for first, second in zip(gold.parts, said.parts, strict=True)]
    return False if False in alike else None if None in alike else True


def _same_in_any_order(gold: Sequence[str], said: Sequence[str], depth: int) -> bool | None:
    left = list(said)
    doubt = False
    for part in gold:
        alike = [_same(part, other, depth - 1) for other in left]
        if True in alike:
            del left[alike.index(True)]
        elif None in alike:
            doubt = True
        else:
            return False
    return None if doubt else True


def _same_equation(gold: list[str], said: list[str], depth: int) -> bool | None:
    """Sides of equations, or of chains of them; one side alone is a value."""
    if len(gold) == 1:
        return _same(gold[0], _stated_side(said), depth - 1)
    if len(said) == 1:
        return _same(_stated_side(gold), said[0], depth - 1) if _NAME.fullmatch(gold[0]) else False
    if _NAME.fullmatch(gold[0]) and _NAME.fullmatch(said[0]):
        # x = 5 is not y = 5
        return _same(gold[-1], said[-1], depth - 1) if _squeezed(gold[0]) == _squeezed(said[0]) else False
    return same_value(" = ".join((gold[0], gold[-1])), " = ".join((said[0], said[-1])))


def _stated_side(sides: list[str]) -> str:
    """What a chain of equations comes to: its last side, unless that is but a name for the first."""
    return sides[0] if _LETTER.fullmatch(sides[-1]) and not _LETTER.fullmatch(sides[0]) else sides[-1]


def _same_amount(gold: str, said: str) -> bool | None:
    wanted, found = amount(gold), amount(said)
    if wanted.unit and found.unit and wanted.unit != found.unit:
        return False
    numerals = based(undressed(wanted.text)), based(undressed(found.text))
    if any(numerals):
        return _same_numeral(wanted.text, found.text, *numerals)
    values = _value(wanted), _value(found)
    if values[0] is not None and values[1] is not None:
        return _same_number(values[0], values[1], wanted.percent, found.percent)
    if values[1] is None and side_by_side(unmixed(found.text)):
        return False
    if ":" in wanted.text or ":" in found.text:
        return _same_ratio(wanted.text, found.text)
    if wanted.percent != found.percent and values[0] is None:
        return None
    return same_value(undressed(wanted.text), undressed(found.text))


def _value(found: Amount) -> Fraction | None:
    value = number(undressed(found.text))
    return None if value is None else value * 10**found.power


def _same_number(gold: Fraction, said: Fraction, gold_percent: bool, said_percent: bool) -> bool:
    """Gold below one is a share, of which 50% is a half; any other number of percents is a number."""
    if said_percent and not gold_percent and abs(gold) <= 1:
        return gold == said / 100
    return gold == said


def _same_numeral(gold: str, said: str, wanted: Based | None, found: Based | None) -> bool:
    """One in base ten is the number; in any other base both must have the same digits and the same base."""
    if wanted is not None and found is not None:
        return wanted == found
    numeral, text = (wanted, said) if wanted is not None else (found, gold)
    return numeral is not None and numeral.base == 10 and number(numeral.digits) == number(text)


def _same_ratio(gold: str, said: str) -> bool | None:
    """3:4 is the ratio 3:4, and the fraction 3/4, but no 6:8: that is how times are written, too."""
    found = _RATIO.fullmatch(gold), _RATIO.fullmatch(said)
    if found[0] and found[1]:
        pairs = zip(found[0].groups(), found[1].groups(), strict=True)
        return all(one == other or (one and other and number(one) == number(other)) for one, other in pairs)
    ratio, other = (found[0], number(said)) if found[0] else (found[1], number(gold))
    if ratio is None or other is None or ratio[3]:
        return False if other is None else None
    above, below = number(ratio[1]), number(ratio[2])
    return bool(above is not None and below and other.denominator > 1 and above / below == other)


def _trimmed(text: str) -> str:
    """``text`` without what surrounds it: dollars, bold, quotes, a full stop, braces."""
    text = re.sub(r"(?<!\\)\$", "", text).strip(' "`*')
    text = text if text.endswith("...") else text.rstrip(".,;: ")
    text = re.sub(r"^\\\\|\\\\$", "", text).strip(' "`*')
    if text.startswith("'") and text.endswith("'"):
        text = text[1:-1].strip(" .")
    while text.startswith("{") and group(text) == text[1:-1]:
        text = text[1:-1].strip()
    return text


def _last_step(text: str) -> str:
    """Where a derivation arrives: its last row, behind its last arrow."""
    rows = [row for row in split(text, _ROW) if row.strip()]
    names = [_sides(row)[0] for row in rows]
    if len(rows) > 1 and all(_LETTER.fullmatch(name) for name in names) and len(set(names)) == len(rows):
        return ", ".join(rows)
    text = split(rows[-1], _FOLLOWS)[-1].lstrip(" =") if rows else text
    member = _MEMBER.match(text)
    return text[member.end() :] if member and not _RELATION.search(text) else text


def _sides(text: str) -> list[str]:
    return [side for side in split(text, _EQUALS) if side] or [text]


def _parts(text: str, like: int = 1) -> list[str]:
    """The parts of a list that stands in no brackets; `a \\pm b` is two."""
    parts = split(text, _COMMA_NOT_IN_THOUSANDS)
    if like > len(parts):
        parts = split(text, _COMMA)
    return _each_sign([part for part in parts if part.strip()])


def _each_sign(parts: list[str]) -> list[str]:
    """``parts`` with those that have a plus-minus sign once with plus and once with minus."""
    each: list[str] = []
    for part in parts:
        if len(split(part, _EITHER)) > 1:
            each.append(part.replace(r"\pm", "+").replace(r"\mp", "-").strip().removeprefix("+"))
            each.append(part.replace(r"\pm", "-").replace(r"\mp", "+").strip().removeprefix("+"))
        else:
            each.append(part)
    return each


def _several(text: str, parts: list[str]) -> _Several | None:
    """What ``text`` holds, where that is more than one part."""
    if len(parts) > 1:
        return _Several("list", tuple(parts))
    unions = split(text, _UNION)
    if len(unions) > 1:
        return _Several("union", tuple(unions))
    if table := _MATRIX.fullmatch(text):
        rows = [split(row, _CELL) for row in split(table["rows"].strip(), _ROW) if row.strip()]
        shape = ",".join(str(len(row)) for row in rows)
        return _Several("matrix", tuple(cell.strip() for row in rows for cell in row), shape)
    if text.startswith("\\{") and text.endswith("\\}") and is_enclosed(text):
        return _Several("set", tuple(_inside(text[2:-2])))
    if text[:1] in "([" and text[-1:] in ")]" and is_enclosed(text):
        inside = _inside(text[1:-1])
        brackets = text[0] + text[-1]
        if len(inside) > 1:
            return _Several("tuple" if brackets == "()" else "interval", tuple(inside), brackets)
    return None


def _inside(text: str) -> list[str]:
    """Parts within brackets, where a comma parts numbers too: (1,200) is a pair."""
    spaced = re.search(r",\s", text) is not None
    parts = split(text, _COMMA_NOT_IN_THOUSANDS if spaced else _COMMA)
    return _each_sign([part for part in parts if part.strip()])


def _squeezed(text: str) -> str:
    """``text`` without spaces, those between digits excepted: 1 2 is not 12."""
    return re.sub(r"(?<!\d)\s+|\s+(?!\d)|\{\}", "", undressed(text)).casefold()


def _words(text: str) -> str | None:
    """The words that ``text`` is, articles aside; None where it is mathematics."""
    plain = undressed(text).strip("() ")
    if not _WORDS.fullmatch(plain) or _FUNCTION.fullmatch(plain.casefold()):
        return None
    bare = plain == text.strip("() ")
    if not re.search(r"[A-Za-z]{4}" if bare else r"[A-Za-z]{2}", plain) or (bare and re.search(_AND, plain)):
        return None
    return " ".join(_ARTICLE.sub("", plain.casefold().replace("-", " ")).split()).rstrip(".")
