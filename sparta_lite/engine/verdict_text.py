r"""The score that a judge's written reply gives, in sampled rounds.

A judge is asked for ``{"score": n}``. What counts is one score from 1 to 10 whose end is to be seen; a reply
that gives two, another scale, or a number that is none of these has failed, and a failure is no vote.

==========================================  =======================================================
taken                                       not taken
==========================================  =======================================================
``{"score": 7}``, spaces and lines anywhere  ``{"score": 7``, ``{"score": 07}``: cut off, no number
``{"score": 7, "reason": "ok"}``, any order  ``{"score": 2} or {"score": 8}``: two scores
``{"score": 8.0}``, ``{"score": 8.5}``        ``{"score": 0}``, ``{"score": 11}``, ``{"score": 10.5}``
``{"score": "8"}``, ``{'Score': 8}``          ``{"score": "seven"}``, ``{"score": [7, 8]}``
``{"score": 8/10}``, ``8 out of 10``          ``80/100``, ``4/5``: another scale
``8/10`` in words, where no field is          ``score: 7 or 8``, ``score: 7``, ``7``: on no scale
==========================================  =======================================================
"""

from __future__ import annotations

import json
import re
from typing import Any

from sparta_lite.engine.spoken import spoken

_LOWEST, _HIGHEST = 1, 10

_LONGEST = 4_000

_QUOTE = r"\\?[\"'“”‘’]"
_FIELD = re.compile(
    rf"(?:(?<![\w\"'\\]){_QUOTE}|(?<=[{{,])\s*)score(?:{_QUOTE})?\s*:\s*"
    rf"(?P<value>{_QUOTE}[^\"'“”‘’\n]{{0,40}}{_QUOTE}|[^,}}\n\"'“”]{{0,40}})\s*[,}}]",
    re.IGNORECASE,
)
_PLACEHOLDER = re.compile(r"\W*[a-zA-Z]?\W*|<.*>")
_VALUE = re.compile(
    r"(?P<score>[1-9]\d{0,3}(?:\.\d{1,20})?)(?:\s*(?:/|out\s+of)\s*(?P<scale>\d{1,6}))?", re.IGNORECASE
)
_ON_SCALE = re.compile(
    r"(?<![\w./-])(?P<score>\d{1,4}(?:\.\d{1,20})?)\s*(?:/|out\s+of)\s*(?P<scale>\d{1,6})(?![\w/]|\.\d)",
    re.IGNORECASE,
)


def parse_score(text: str) -> float | None:
    """The one score from 1 to 10 that a reply gives; None where it gives none, or more than one."""
    text = spoken(text)[:_LONGEST]
    values = [value for value in _fields(text) if not _PLACEHOLDER.fullmatch(value)]
    found = [_VALUE.fullmatch(value) for value in values] if values else list(_ON_SCALE.finditer(text))
    scores = {_score(each) for each in found}
    return scores.pop() if len(scores) == 1 else None


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


def _score(found: re.Match[str] | None) -> float | None:
    """The score that was found; None where it is none of 1 to 10."""
    if found is None or found["scale"] not in (None, "10"):
        return None
    score = float(found["score"])
    return score if _LOWEST <= score <= _HIGHEST else None
