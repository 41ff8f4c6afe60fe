"""Where an answer begins and ends: behind words that lead up to it, before those that explain it."""

from __future__ import annotations

import re

DOUBT = ""
"""What readers make of a statement that names two answers: it counts, and nothing can be made of it."""


def words(text: str) -> str:
    """A pattern for any of the words of ``text``; an underscore stands for a space."""
    return r"\b(?:" + "|".join(word.replace("_", r"\s+") for word in text.split()) + r")\b"


_MARKUP = re.compile(r"\*\*|`|(?<![\w\\])_{1,2}(?=\w)|(?<=\w)__(?!\w)")
_SURE = (
    "definitely certainly clearly simply probably actually obviously surely most likely just also of_course"
)

# Words that lead up to an answer. An article is one only before a word: a + b begins with a letter.
_HEDGE = words(
    "actually therefore thus hence so then now also again indeed just only simply exactly precisely about"
    " approximately roughly around probably likely clearly definitely certainly"
    " still a_total_of equal_to given_by at_least at_most usd rs"
)
_ARTICLE = words("the an?") + r"(?=\s+[a-zA-Z]{2}|\s*\$)"
_KIND = words(
    "number value amount total interval set point pair ordered_pair function polynomial"
    " expression matrix vector of"
)
_LEAD = re.compile(rf"(?:[\s,:;\"'>=~]|\\approx|{_HEDGE}|{_ARTICLE}|{_KIND}(?=\s))*", re.IGNORECASE)

_EXPLAINS = r",?\s+" + words(
    "because since as so which where given when while if thus therefore hence for_which that_is but"
)
_EXCLUDES = rf",?\s+(?:and\s+)?{words('not rather_than instead_of as_opposed_to unlike excluding')}"
_GOES_ON = (
    r",(?=\s+(?!(?:or|and)\b)[a-zA-Z]{2})|,?\s+and\b(?=,|\s+[a-zA-Z]{2})|\s[-–—]{1,2}\s(?=[a-zA-Z])|\s—\s"
)
_ENDS = r"(?=[\s\"')\]]|$)"
STOP = re.compile(rf"[.;!?]{_ENDS}|{_EXPLAINS}|{_EXCLUDES}|{_GOES_ON}", re.IGNORECASE)
"""What ends an answer: a sentence's end, an explanation, another answer that it is not."""
STOP_IN_BOX = re.compile(rf"[.;?]{_ENDS}|{_EXPLAINS}|{_EXCLUDES}|{_GOES_ON}", re.IGNORECASE)
"""The same where an exclamation mark means a factorial."""

_DENIES = rf"\W*(?:{words(_SURE)}\s+){{0,2}}"
_DENIED = re.compile(
    _DENIES + words("not never neither no_longer cannot anything_but other_than none"), re.IGNORECASE
)
_INSTEAD = re.compile(
    _DENIES + r"not\b[^.\n]{1,60}?(?:\bbut(?:\s+rather)?|\bit\s+is|\bit['’]s)\s+(?P<instead>.+)",
    re.IGNORECASE,
)


def without_markup(text: str) -> str:
    """``text`` without Markdown's bold, italics and code."""
    return _MARKUP.sub("", text)


def affirmed(text: str) -> str | None:
    """What ``text`` does not deny: all of it; of "not 4 but 5" the 5; of "not 4" nothing, which is None."""
    if instead := _INSTEAD.match(text):
        return instead["instead"]
    return None if _DENIED.match(text) else text


def asserted(text: str) -> str | None:
    """What ``text`` affirms, from the answer on."""
    text_affirmed = affirmed(text)
    return None if text_affirmed is None else without_lead(text_affirmed)


def without_lead(text: str) -> str:
    """``text`` without words like "therefore", "about" and "the number"."""
    lead = _LEAD.match(text)
    return text[lead.end() :] if lead else text
