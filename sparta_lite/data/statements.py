r"""Where a response states its answer: boxes, hash lines, "the answer is ...", and what takes that back.

Text is one that `sparta_lite.data.latex.one_line` has written. What stands at a place is read elsewhere.
"""

from __future__ import annotations

import bisect
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from sparta_lite.data.latex import boxed

_MOST = 20
"""How many statements are tried, from the last one back."""
_LONGEST = 300
_NEAR = 150
"""How far behind "wait" a correction may stand."""

_BE = r"(?:\b(?:is|are|was|equals)\b(?:[\s*_]*:)?|\b(?:would|must|should|has\sto)\sbe\b|:|=)"
_HEADS = (
    # The answer (to the question) is ..., Answer: ...
    r"\b(?:{nouns}|ans)\b(?P<between>[^.:=?\n]{{0,60}}?)" + _BE + r"[\s*_]*",
    # a heading, the answer below it
    r"^[#*_>\s]*(?:the\s+)?(?:final\s+|correct\s+)?(?:{nouns})[ \t*_]*\n+\s*",
    # Answer (B), Ans. 5
    r"^[#*_> \t]*(?:final\s+|correct\s+)?(?:{nouns}|ans)\b\.?[*_]*(?![*_:])[ \t]*[-–—>]*[ \t]*"
    r"(?=[-($\[\\\d]|[*_]{{1,2}}[($\d]|[*_]*[A-J]\b)",
)
_HASH = re.compile(r"^[ \t]*\#{4,}[ \t]*|(?<=[^\#\n])\#{4}[ \t]*", re.MULTILINE)
_TAG = re.compile(r"<(answer|final_answer|final)>(.{0,600}?)</\1>", re.DOTALL | re.IGNORECASE)

_DENIED = re.compile(r"\bnot\b|n['’]t\b|\bnever\b|\bcannot\b|\bno longer\b", re.IGNORECASE)
_DENIED_BEFORE = re.compile(
    r"(?:\bnot|n['’]t|\bnever|\bdoubt|\bunlikely|\bwrong|\bfalse|\bincorrect)\b(?![^.,;:\n]*\b(?:but|so|and)\b)"
    r"[^.,;:\n]{0,40}$",
    re.IGNORECASE,
)
_ANOTHERS = re.compile(
    r"\b(?:wrong|incorrect|false|intermediate|partial|initial|previous|earlier|naive|tempting|first|old|sample|example"
    r"|intuitive|student['’]?s?)\s+$",
    re.IGNORECASE,
)
_OF_A_PART = re.compile(
    r"\b(?:part|step|first|second|third|sub-?\w+|intermediate|choices|options|key)\b", re.IGNORECASE
)
_SUPPOSED = re.compile(
    r"\b(?:if|whether|suppos(?:e|ing)|assum(?:e|ing)|imagine)\b(?:(?!\bthen\b)[^.,;:\n])*$|\blet\s+(?:the|my|our)\s+$",
    re.IGNORECASE,
)
_WOULD_BE = re.compile(r"\b(?:if|had|were)\b[^.\n]*$", re.IGNORECASE)
_SENTENCE_END = re.compile(r"[.!?](?=[\s*\"')]|$)|\n")

_WRONG = r"(?:\w+\s+)?(?:wrong|incorrect|false|impossible|not\s+(?:right|correct|possible)|a\s+mistake)\b"
_THAT_IS = r"(?:that|this|it|which)(?:['’]s|\s+(?:is|was|seems|must\s+be))\s+"
_OOPS = r"(?:wait|hold\s+on|hmm+|oops|actually|sorry)"
_TAKEN_BACK = re.compile(
    rf"\W*(?:(?:but|no|oh|however|{_OOPS})\W+)*(?:{_THAT_IS}{_WRONG}|(?:that|this|it)\s+(?:is|was)n['’]t\s+(?:right|correct)"
    r"|(?:scratch|disregard|ignore|forget)\s+that\b)",
    re.IGNORECASE,
)
_MISTAKEN = re.compile(
    rf"\b{_OOPS}\b\W+(?:\w+\W+){{0,3}}?(?:that|this|it|I|(?:my|the)\s+answer)\b[^.\n]{{0,30}}"
    r"\b(?:wrong|incorrect|mistake|error|not\s+right|miscounted|miscalculated)\b"
    r"|\bscratch\s+that\b|\bI\s+(?:was\s+wrong|made\s+an?\s+(?:\w+\s+)?(?:mistake|error))\b",
    re.IGNORECASE,
)
_SECOND_THOUGHT = re.compile(
    rf"\b(?:{_OOPS}|no(?=,)|correction|on\s+second\s+thought|scratch\s+that|rather|instead|(?<!anything\s)(?<!nothing\s)(?<!none\s)(?<!all\s)but|however|I\s+meant?|make\s+that"
    r"|let\s+me\s+(?:correct|re-?check|double-?check|re-?compute|re-?calculate|verify|check)(?:\s+(?:that|this|it|myself))?)\b(?:[\s,.:;!]|[—–-]+(?=\s))*",
    re.IGNORECASE,
)
_IT_IS = re.compile(
    r"\b(?:it|that|this)(?:['’]s|\s+(?:is|should\s+be|must\s+be|would\s+be|has\s+to\s+be|equals|makes|gives))\s+"
    r"|\b(?:should|must)\s+be\s+",
    re.IGNORECASE,
)
RECONSIDERED = re.compile(rf"\b(?:{_OOPS}|on\s+second\s+thought|correction)\b", re.IGNORECASE)

_BESIDE = re.compile(
    r"(?:\s|\$|\\[()]|\\[,;: ]|\\q?quad|[,;&]|\\\\|\b(?:and|or)\b|\\(?:text|mbox)\{\s*,?\s*(?:and|or)\s*\})*",
    re.IGNORECASE,
)
_BEHIND = re.compile(
    r"(?:\s|\$|\\\))*(\\?%|_\{?\d+\}?|(?:percent|pct|percentage|hundred|thousand|million|billion|trillion)\b)"
)
"""What stands behind a box and changes the number in it."""
_NO_BOX = re.compile(
    r"(?:\bnot|n['’]t(?:\s+be)?|\bnever|\bcannot\s+be|\bneither|\bnor)\s*[$\\(\s]*$", re.IGNORECASE
)
_WRONG_BOX = re.compile(
    r"[\s$\\)]*\b(?:is|was)\s+(?:wrong|incorrect|not\s+(?:right|correct))\b", re.IGNORECASE
)
_LABEL = re.compile(r"[#*_>\s]*(?:final\s+|correct\s+)?\w+[\s*_]*:[\s*_]*", re.IGNORECASE)

Kind = Literal["named", "boxed", "line", "bare"]
"""How an answer is stated: with words to explain it, in a box, on a line marked for it, or in passing.

In passing, and on a line, it counts only where nothing else stands beside it."""


@dataclass(frozen=True)
class Statement:
    """An answer, as far as the place where it stands says that it is one."""

    place: int
    end: int
    """Where ``text`` begins, or behind the box that holds it."""
    text: str
    kind: Kind = "named"


@dataclass(frozen=True)
class Stated:
    statements: tuple[Statement, ...]
    """The last one first."""
    taken_back: int
    """Up to where the response has taken everything back; 0: nowhere."""


def heads(nouns: str, more: str = "") -> re.Pattern[str]:
    """What introduces an answer, called by any of ``nouns``; ``more`` is one more pattern."""
    introductions = [head.format(nouns=nouns) for head in _HEADS] + ([more] if more else [])
    return re.compile("|".join(introductions), re.IGNORECASE | re.MULTILINE)


def stated(text: str, introduction: re.Pattern[str], reverse: re.Pattern[str]) -> Stated:
    """All statements of an answer in ``text`` that it does not take back.

    Args:
        text: a response, see `sparta_lite.data.latex.one_line`.
        introduction: see `heads`.
        reverse: what stands behind an answer; its group ``value`` holds that.
    """
    found = [*_boxed(text), *_marked(text), *_reversed(text, reverse)]
    denials = []
    for head in introduction.finditer(text):
        if _is_denied(text, head):
            denials.append(head.end())
        elif (said := _said(text, head)) is not None:
            kind: Kind = "line" if _labels_reasoning(text, head) else "named"
            found.append(Statement(head.start(), head.end(), said, kind))
    if found or denials:
        first = min([each.place for each in found] + denials)
        found += _corrections(text, first, bool(denials))
    found.sort(key=lambda each: each.place)
    back = _taken_back(text, found)
    return Stated(tuple(each for each in reversed(found[-_MOST:]) if each.place >= back), back)


def _boxed(text: str) -> Iterator[Statement]:
    """Boxes; those that nothing but "and" parts are one statement."""
    place = end = -1
    joined: list[str] = []
    for start, behind, content in boxed(text):
        if _NO_BOX.search(text[max(start - 20, 0) : start]) or _WRONG_BOX.match(text, behind):
            continue
        if tail := _BEHIND.match(text, behind):
            content += tail[1]
        between = text[end:start]
        if not (joined and start >= end and _BESIDE.fullmatch(between) and _is_one_list(between)):
            place, joined = start, []
        if content not in joined:
            joined.append(content)
        end = behind
        yield Statement(place if len(joined) == 1 else start, end, ", ".join(joined), "boxed")


def _is_one_list(between: str) -> bool:
    """Whether two boxes on both sides of ``between`` are parts of one answer."""
    return not re.search(r"\n\s*\n", between) and (
        "\n" not in between or re.search(r",|;|\b(?:and|or)\b", between) is not None
    )


def _marked(text: str) -> Iterator[Statement]:
    """Lines behind #### and what stands between tags."""
    for mark in _HASH.finditer(text):
        if not re.match(r"\d+[.)]\s+[a-zA-Z]", line := _line(text, mark.end())):  # a heading with a number
            yield Statement(mark.start(), mark.end(), line, "line")
    for tag in _TAG.finditer(text):
        yield Statement(tag.start(), tag.end(), tag[2].strip())


def _reversed(text: str, reverse: re.Pattern[str]) -> Iterator[Statement]:
    """5 is the answer."""
    for found in reverse.finditer(text):
        value = re.split(
            r"(?:^|\b)(?:so|thus|therefore|hence|that|then|and|but)\b|[:,]\s", found["value"], flags=re.I
        )[-1]
        denied = _DENIED_BEFORE.search(text[max(found.start("value") - 60, 0) : found.start("value")])
        if not denied and not re.match(r"\W*(?:if|whether|is|not)\b", value, re.IGNORECASE):
            yield Statement(found.start(), found.end(), value.strip())


def _said(text: str, head: re.Match[str]) -> str | None:
    """What follows a head; None where it is a question, or a box that stands at its own place."""
    said = _line(text, head.end())
    if "\n" in head[0] and said.startswith(("- ", "• ")):
        said = said[2:]
    ends = _SENTENCE_END.search(said)
    if ends is not None and ends[0] == "?":
        return None
    return None if re.match(r"[^\n]{0,80}?\\(?:boxed|fbox)", said[: ends.end() if ends else None]) else said


def _labels_reasoning(text: str, head: re.Match[str]) -> bool:
    """Whether "Answer:" begins a line and a calculation goes on behind its first sentence."""
    begins_line = not text[text.rfind("\n", 0, head.start()) + 1 : head.start()].strip(" #*_>")
    ends = _SENTENCE_END.search(text, head.end())
    return (
        begins_line
        and _LABEL.fullmatch(head[0]) is not None
        and ends is not None
        and re.search(r"\d", text[ends.end() :]) is not None
    )


def _is_denied(text: str, head: re.Match[str]) -> bool:
    """Whether a head introduces no answer, or not the one that was asked for."""
    parts = head.groupdict()
    between = (parts.get("between") or "") + (parts.get("doing") or "")
    before = text[max(head.start() - 60, 0) : head.start()]
    return bool(
        _DENIED.search(between)
        or _OF_A_PART.search(between)
        or _ANOTHERS.search(before)
        or _DENIED_BEFORE.search(before)
        or _SUPPOSED.search(before)
        or (re.search(r"would\s+be", head[0]) and _WOULD_BE.search(before))
    )


def _corrections(text: str, first: int, denied: bool) -> Iterator[Statement]:
    """What is put in the place of an answer: "no, it is 5"; behind ``first``, where one stands."""
    thoughts = list(_SECOND_THOUGHT.finditer(text, first))
    for thought in thoughts:
        yield Statement(thought.start(), thought.end(), _line(text, thought.end()), "bare")
    ends = [thought.end() for thought in thoughts]
    for found in _IT_IS.finditer(text, first):
        earlier = bisect.bisect_right(ends, found.start() + 1)
        if denied or (earlier and found.start() - ends[earlier - 1] <= _NEAR):
            yield Statement(found.start(), found.end(), _line(text, found.end()), "bare")


def _taken_back(text: str, found: list[Statement]) -> int:
    """Up to where answers are taken back: "that is wrong", "I made a mistake"."""
    if not found:
        return 0
    back = [each.start() for each in _MISTAKEN.finditer(text, found[0].place)]
    for each in found:
        if each.kind == "bare":
            continue
        ends = _SENTENCE_END.search(text, each.end)
        aside = re.compile(r"[^.,;\n]{0,30},\s*").match(text, each.end)
        for place in (ends, aside):
            if place is not None and _TAKEN_BACK.match(text, place.end()):
                back.append(place.end())
    return max(back, default=0)


def _line(text: str, place: int) -> str:
    end = text.find("\n", place)
    return text[place : min(len(text) if end < 0 else end, place + _LONGEST)]
