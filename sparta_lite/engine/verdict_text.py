"""The score that a judge's written reply gives, in sampled rounds.

A judge is asked for ``{"score": n}``. What counts is one score from 1 to 10 whose end is to be seen; a reply
that gives two, another scale, or a number that is none of these has failed, and a failure is no vote.
``docs/judging.md`` has the table of forms.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, Literal

from sparta_lite.engine.spoken import spoken

_LOWEST, _HIGHEST = 1, 10

_LONGEST = 4_000

_QUOTE = r"\\?[\"'“”‘’]"
_FIELD = re.compile(
    rf"(?:(?<![\w\"'\\]){_QUOTE}|(?<=[{{,])\s*)score(?:{_QUOTE})?\s*[:：]\s*"
    rf"(?P<value>{_QUOTE}[^\"'“”‘’\n]{{0,40}}{_QUOTE}|[^,}}\n\"'“”]{{0,40}})(?:\s*[,}}]|[^\S\n]*\n)",
    re.IGNORECASE,
)
_CUT_OFF = re.compile(rf"{_QUOTE}score{_QUOTE}\s*[:：][^,}}]*$", re.IGNORECASE)
_PLACEHOLDER = re.compile(r"\W*[a-zA-Z]?\W*|<.*>")

_DIGITS = r"\d{1,4}(?:\.\d{1,20})?"
_SCALE = (
    r"\s*(?:(?:/|\(?out\s+of)\s*(?P<scale>\d{1,6}|ten)|"
    r"\(?(?:on|in)\s+a\s+scale\s+(?:of|from)\s+1\s*(?:to|-|–)\s*(?P<highest>\d{1,6}))"
)
_VALUE = re.compile(rf"(?P<score>-?(?!0\d){_DIGITS})(?:{_SCALE}\)?)?", re.IGNORECASE)
_ON_SCALE = re.compile(
    rf"(?<![\w./-])(?:(?P<other>{_DIGITS})\s*(?:-|–|—|~|to|or|and)\s*)?(?P<score>{_DIGITS}){_SCALE}(?![\w/]|\.\d)",
    re.IGNORECASE,
)
_ALONE = re.compile(
    rf"\b(?:score|rating|grade|rate)\b[^\n\d]{{0,40}}\d|^[^\w\n]*{_DIGITS}[^\w\n]*$",
    re.IGNORECASE | re.MULTILINE,
)
"""A number that is said to be a score, or stands alone in its line."""
_NUMBER = re.compile(rf"(?<![\w.]){_DIGITS}(?![\w.])")
_EMPHASIS = re.compile(rf"(?<![\w*])([*_]{{1,3}})({_DIGITS})\1(?![\w*])")
"""A number in bold or italics."""

Unparsed = Literal[
    "no score", "several scores", "cut off", "no number", "no scale", "another scale", "out of range"
]
"""Why a reply gives no score.

``no score``: it says nothing of one. ``several scores``: they differ. ``cut off``: its end is missing. ``no
number``: what stands there is none. ``no scale``: a number in words that does not say of how many. ``another
scale``: of other than ten. ``out of range``: not from 1 to 10.
"""


@dataclass(frozen=True)
class Verdict:
    """What a reply comes to: a score from 1 to 10, or why there is none."""

    score: float | None
    unparsed: Unparsed | None = None


def read_verdict(text: str) -> Verdict:
    """The one score from 1 to 10 that a reply gives, or why it gives none."""
    text = _EMPHASIS.sub(r"\2", spoken(text)[:_LONGEST])
    values = [value for value in _fields(text) if not _PLACEHOLDER.fullmatch(value)]
    if values:
        found = {_in_field(value) for value in values}
    else:
        found = {_on_scale(each) for each in _ON_SCALE.finditer(text)}
    if len(found) == 1:
        return found.pop()
    return Verdict(None, "several scores" if found else _without_any(text))


def _fields(text: str) -> list[str]:
    """The values of all fields called score, in whole JSON objects and in what looks like one."""
    values: list[str] = []
    rest, start = "", 0
    place = text.find("{")
    while place >= 0:
        try:
            whole, end = _JSON.raw_decode(text, place)
        except (ValueError, RecursionError):
            end = place + 1
        else:
            values += _scores_in(whole)
            rest, start = rest + text[start:place], end
        place = text.find("{", end)
    looks = _FIELD.finditer(rest + text[start:])
    return values + [found["value"].strip("\\\"'“”‘’ ") for found in looks]


class _Pairs(list[tuple[str, Any]]):
    """A JSON object whose keys may repeat."""


_JSON = json.JSONDecoder(object_pairs_hook=_Pairs, parse_int=str, parse_float=str)


def _scores_in(value: Any) -> list[str]:
    if isinstance(value, _Pairs):
        own = [str(each) for key, each in value if key.strip().casefold() == "score"]
        return own + [score for _, each in value for score in _scores_in(each)]
    return [score for each in value for score in _scores_in(each)] if isinstance(value, list) else []


def _in_field(value: str) -> Verdict:
    if found := _VALUE.fullmatch(value):
        return _score(found)
    return Verdict(None, "several scores" if len(_NUMBER.findall(value)) > 1 else "no number")


def _on_scale(found: re.Match[str]) -> Verdict:
    return Verdict(None, "several scores") if found["other"] else _score(found)


def _score(found: re.Match[str]) -> Verdict:
    if (found["scale"] or found["highest"] or "10").lower() not in ("10", "ten"):
        return Verdict(None, "another scale")
    score = float(found["score"])
    return Verdict(score) if _LOWEST <= score <= _HIGHEST else Verdict(None, "out of range")


def _without_any(text: str) -> Unparsed:
    """Why neither a whole field nor a number on a scale was found."""
    if _CUT_OFF.search(text):
        return "cut off"
    return "no scale" if _ALONE.search(text) else "no score"
