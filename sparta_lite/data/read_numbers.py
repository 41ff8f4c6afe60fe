r"""The number that a statement gives: the one with which it begins, or the only one in it.

Readers return an answer as text for `sparta_lite.data.expressions.same_expression`, None where a statement
gives none, and `DOUBT` where it gives two.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from sparta_lite.data.clauses import DOUBT, STOP, STOP_IN_BOX, asserted, without_lead, without_markup, words
from sparta_lite.data.latex import leading_mathematics, spelt, split, undressed
from sparta_lite.data.numerals import Numeral, numeral_at
from sparta_lite.data.statements import Kind
from sparta_lite.data.units import is_glued_unit

_DIGIT = re.compile(r"\d")
_EQUALS = re.compile(r"(?<![<>!])=")
_ABOUT = re.compile(r"\\approx(?![a-zA-Z])")
_ASIDE = re.compile(r"\s+\((?!\s*or\b)[^()]*\)")
_SIGN = re.compile(r"[-+]?\s*[£€]?\s*\(?\s*")
_MINUS = re.compile(r"^(?:[–—](?=[\d.])|(?:negative|minus)\s+(?=[\d.]))", re.IGNORECASE)
_COMMAND = re.compile(r"\\(?!(?:frac|times|cdot|div|approx|overline|bar|circ)(?![a-zA-Z]))[a-zA-Z]+")
_PLAIN_WORD = re.compile(r"(?<![\\a-zA-Z])[a-zA-Z]{3,}")

_MULTIPLE = re.compile(rf"\s*({words('hundred thousand million billion trillion')})", re.IGNORECASE)
_PERCENT = re.compile(r"\s*(?:%|percent\b|pct\b|percentage\b(?!\s+points))", re.IGNORECASE)

# What stands behind a number and goes on with it.
_OPERATOR = re.compile(r"\s*(?:[*^!_{\\]|\(\s*-?\d|[+/]\s*[-(\d\\])|\s+-\s+[(\d\\]")
_SECOND = re.compile(
    r"\s*[-–—~/,:;]\s*[.$]?\d|\s+\.?\d|\s*%?\s*(?:to|through|out\s+of|of)\s+\$?\d", re.IGNORECASE
)
_IN_WORDS = re.compile(
    rf"\s*{words('squared cubed factorial doubled halved halves thirds quarters fifths tenths')}|"
    rf"[^.]*?{words('more less fewer greater smaller larger older younger times plus minus divided')}"
    r"[^.]*\d",
    re.IGNORECASE,
)
_OR = re.compile(r"\b(?:or|and)\b\s*(?:[a-zA-Z]\s*=\s*)?[-$\s(]*\.?\d|\bor\s*$", re.IGNORECASE)
_LISTED = re.compile(r",\s+\$?\d[\d.,]*\s+[a-z]+\s*$", re.IGNORECASE)

_BESIDE = words(
    "over under above below between from either up_to exceeds? than beyond almost nearly close_to"
)
_OF = words(
    "half twice double triple thrice quarter third square cube root sum product multiple factor power"
)
_BOUND = re.compile(
    rf"(?:{_BESIDE}|{words('times plus minus')}|{_OF}(?:\s+of)?|[<>]|\\(?:leq|geq|neq))[\s$*]*$",
    re.IGNORECASE,
)
"""What stands before a number and makes another one of it, or no number."""
_WITHIN = re.compile(r"[a-zA-Z_^]\{?-?$")
_NEGATIVE = re.compile(r"(?:^|[^\w)}\s])\s*-\s*$|\s-$")
_NAMED = re.compile(r"(?:[a-zA-Z]\s*=\s*)?[-+£€\s(]*")
_MEASURE = re.compile(rf"\s*\)?\s*(?!{words('times more less fewer of')})[a-zA-Z]{{0,15}}\s*")

_END = re.compile(r"[.;!?]+(?=[\s\"')\]]|$)|,?\s+(?:because|since)\b", re.IGNORECASE)
_CONCLUDES = re.compile(
    rf",?\s+{words('so thus therefore hence then leaving giving makes? equals totals? is are remains?')}\s+"
    r"|,\s+(?=\D)",
    re.IGNORECASE,
)
_QUALIFIES = re.compile(
    rf"\W*{words('after in within for over per from by at on of with or and each')}", re.IGNORECASE
)


def read_number(said: str, kind: Kind = "named") -> str | None:
    """The number that a statement gives, or the arithmetic that comes to it."""
    text = asserted(_plain(said))
    if text is None:
        return None
    clause = split(_signed(text), STOP_IN_BOX if kind == "boxed" else STOP)[0]
    if not _DIGIT.search(clause) or (kind in ("line", "bare") and not _is_bare(clause)):
        return None
    return _exact_and_rounded(clause)


def read_last_number(sentence: str) -> str | None:
    """The number in which a sentence ends up: an equation's last side, its only number, or its end's."""
    clause = split(_plain(sentence), _END)[0]
    if not _DIGIT.search(clause):
        return None
    if _EQUALS.search(clause) or _ABOUT.search(clause):
        return _exact_and_rounded(clause)
    value = _only(clause)
    if value != DOUBT:
        return value
    *before, end = _CONCLUDES.split(clause)
    return _only(end) if before and _DIGIT.search(end) and not _QUALIFIES.match(end) else DOUBT


def _plain(text: str) -> str:
    return spelt(undressed(without_markup(text).replace(r"\$", "").replace("$", "")))


def _signed(text: str) -> str:
    return _MINUS.sub("-", without_lead(text)).strip()


def _exact_and_rounded(clause: str) -> str:
    values = [_side(part) for part in _ABOUT.split(clause) if _DIGIT.search(part)]
    return DOUBT if DOUBT in values else r" \approx ".join(values)


def _side(clause: str) -> str:
    """What a chain of equations comes to: its last side, or its first; x = 5 or x = 6 comes to two things."""
    sides = [_signed(side) for side in _EQUALS.split(clause)]
    if len(sides) > 1 and _OR.search(clause):
        return DOUBT
    if _COMMAND.search(clause) and not _PLAIN_WORD.search(_COMMAND.sub("", clause)):
        return sides[-1]
    for side in (sides[-1], sides[0]):
        sign = _SIGN.match(side)
        found = numeral_at(side, sign.end()) if sign else None
        if sign and found:
            return _value(side, found, "-" if "-" in sign[0] else "")
    return _only(clause)


def _only(clause: str) -> str:
    """The one number of a clause, which may stand there twice."""
    without_asides = _ASIDE.sub("", clause)
    clause = without_asides if _DIGIT.search(without_asides) else clause
    values = set()
    for sign, found in _numbers(clause):
        bounded = _BOUND.search(clause[: found.start - len(sign)])
        here = Numeral(0, found.end - found.start, found.value)
        values.add(DOUBT if bounded else _value(clause[found.start :], here, sign))
    return values.pop() if len(values) == 1 else DOUBT


def _value(text: str, found: Numeral, sign: str) -> str:
    """What the number at the beginning of ``text`` comes to with what stands behind it."""
    rest = _ASIDE.sub("", text[found.end :])
    value = f"{sign}{found.value}"
    if unit := re.match(r"[a-zA-Z]+", rest):
        if unit[0] in ("k", "K"):
            return f"{value} thousand"
        return value if is_glued_unit(unit[0]) else text.split()[0]  # 12cm, but 12x
    if _OPERATOR.match(rest):
        return sign + (leading_mathematics(text[found.start :]) or DOUBT)
    if _SECOND.match(rest) or _IN_WORDS.match(rest) or _OR.search(rest) or _LISTED.search(rest):
        return DOUBT
    if multiple := _MULTIPLE.match(rest):
        return f"{value} {multiple[1]}"
    return f"{value}%" if _PERCENT.match(rest) else value


def _numbers(clause: str) -> Iterator[tuple[str, Numeral]]:
    """The numbers of a clause with their signs, those within words aside: B12, COVID-19, x_2."""
    place = 0
    while match := re.compile(r"\\frac|\.?\d").search(clause, place):
        before = clause[: match.start()]
        found = numeral_at(clause, match.start())
        if found is None or _WITHIN.search(before):
            rest = re.compile(r"\\frac|[\w.]+").match(clause, match.start())
            place = rest.end() if rest else match.end()
        else:
            yield "-" if _NEGATIVE.search(before) else "", found
            place = found.end


def _is_bare(clause: str) -> bool:
    """Whether a clause is a number with its unit, and nothing else."""
    clause = _ASIDE.sub("", clause)
    named = _NAMED.match(clause)
    found = numeral_at(clause, named.end()) if named else None
    return found is not None and _MEASURE.fullmatch(_PERCENT.sub("", clause[found.end :])) is not None
