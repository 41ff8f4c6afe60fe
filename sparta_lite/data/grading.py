r"""Marks for responses: which answer does one give, and is it the right one?

The answer that is *stated last* counts: ``\boxed{...}``, ``#### ...``, "The answer is ...", "Answer: ...".
What follows to explain it does not, nor a turn that the model wrote for others, nor what it only thought.
Without such a statement a response must leave no doubt in its first words or its last sentence, else it is
unparsed. `docs/grading.md` has the table of forms.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

from sparta_lite.data.clauses import DOUBT
from sparta_lite.data.expressions import is_number, is_words, same_expression
from sparta_lite.data.latex import one_line, undressed
from sparta_lite.data.read_expressions import (
    read_expression,
    read_last_expression,
    read_last_number_or_emphasis,
    read_words,
)
from sparta_lite.data.read_letters import OUTRIGHT, only_letter, read_letter
from sparta_lite.data.read_numbers import read_number
from sparta_lite.data.statements import RECONSIDERED, Kind, Statement, heads, stated
from sparta_lite.data.task import Mark, Question
from sparta_lite.engine.spoken import spoken

_LONGEST = 6000
"""Characters at the end of a response that are read: all of 1500 tokens and more."""
_LONGEST_LINE = 500

_Reader = Callable[[str, Kind], "str | None"]

_CHOSEN = (
    r"(?P<doing>[^.\n]{0,20})\b(?:choose|select|pick|go\s+with|opt\s+for|(?:['’]d|would)\s+say"
    r"|(?:think|believe)\s+(?:that\s+)?it(?:['’]s|\s+is))\b[\s:*_]*"
)
_ANSWER = heads("answers?")
_CHOICE = heads("answer|choice|option", _CHOSEN)
_VERDICT = heads("answer|choice|response|verdict|statement|claim", _CHOSEN)
_IS_ANSWER = re.compile(
    r"(?P<value>(?:[^\n.;!?]|\.(?=\d)){1,60}?)\s+(?:is|are|would\s+be)\s+(?:the|our|my)\s+"
    r"(?:(?:final|correct|right)\s+){0,2}answers?\b",
    re.IGNORECASE,
)
_NEVER = re.compile(r"(?!)(?P<value>)")

_COURTESY = re.compile(
    r"[^.!?\n]*\b(?:I\s+hope|hope\s+(?:this|that|it)|let\s+me\s+know|feel\s+free|thank\s+you|thanks|happy\s+to\s+help)\b[^\n]*$",
    re.IGNORECASE,
)
_SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z*$\\(\"'\d])")
_UNSURE = re.compile(
    r"\bnot\b|n['’]t\b|\bnever\b|\bcannot\b|\bneither\b|\bnor\b|\bmaybe\b|\bperhaps\b|\bmight\b|\b(?-i:may)\b|\bcould\b|\beither\b"
    r"|\bunless\b|\bsuppose\b|\bassum|\bwrong\b|\bincorrect\b|\bdoubt\b|\bunlikely\b|\bguess|\blet\b(?!\s+(?:me|us)\b|['’]s)|\bif\b[^.]*\bwould\b",
    re.IGNORECASE,
)
_NOT_THAT = re.compile(r",\s+(?:and\s+)?(?:not|rather than|instead of)\s+[^,;]*$", re.IGNORECASE)
_NUMBERED = re.compile(r"\d+[.)]\s")
_CONCLUSION = re.compile(r"=|\b(?:so|thus|therefore|hence|total|altogether)\b", re.IGNORECASE)
_CONCLUDES = re.compile(r"[,;]\s|\b(?:so|but|therefore|thus|hence)\b", re.IGNORECASE)

_AFTER_WORD = (
    r"(?=[\"'’*_)\]}$]*(?:\s*(?:$|[.,;:!?(\n—–-])"
    r"|\s+(?:because|since|as|given|it|this|that|the|he|she|they|in|under|due)\b))"
)


def grade_number(question: Question, response: str) -> Mark:
    """The gold answer is a number; currency, units and thousands separators around it do not matter."""
    said = _said(_readable(response), [read_number], read_last_number_or_emphasis)
    return _mark(question, said, same_expression)


def grade_expression(question: Question, response: str) -> Mark:
    """The gold answer is LaTeX, or a word in it; expressions of the same value or meaning are right."""
    gold = question.answer or ""
    if re.fullmatch(r"\s*\\text\w*\{\s*\(?[A-J]\)?\s*\}\s*", gold):
        return grade_choice(Question(question.text, undressed(gold).strip(" ()")), response)
    numeric = is_number(gold)

    def read(said: str, kind: Kind) -> str | None:
        found = read_expression(said, kind)
        return read_number(said, kind) if found is None and numeric else found

    readers = [read, read_words] if is_words(gold) else [read]
    return _mark(question, _said(_readable(response), readers, read_last_expression), same_expression)


def grade_choice(question: Question, response: str) -> Mark:
    """The gold answer is a letter, A to J."""
    text = _readable(response)
    found = stated(text, _CHOICE, OUTRIGHT)
    said = _first(found.statements, read_letter)
    if said is None and not found.taken_back:
        said = only_letter(text, _last_line(text))
    return _mark(question, said, str.__eq__)


def grade_label(question: Question, response: str) -> Mark:
    """The gold answer is yes, no or neutral."""
    return _mark(question, _word(response, {"yes": "yes", "no": "no", "neutral": "neutral"}), str.__eq__)


def grade_truth(question: Question, response: str) -> Mark:
    """The gold answer is yes or no; true and false are taken for them."""
    words = {"yes": "yes", "no": "no", "true": "yes", "false": "no", "not true": "no", "not false": "yes"}
    return _mark(question, _word(response, words), str.__eq__)


def _mark(question: Question, said: str | None, same: Callable[[str, str], bool | None]) -> Mark:
    if question.answer is None:
        raise ValueError("a question without an answer cannot be graded")
    alike = same(question.answer, said) if said else None
    if alike is None:
        return "unparsed"
    return "right" if alike else "wrong"


def _readable(response: str) -> str:
    """What a response says itself, its end if that is long, with its formulas on one line each."""
    return one_line(spoken(response)[-_LONGEST:])


def _said(text: str, readers: Sequence[_Reader], read_last: Callable[[str], str | None]) -> str | None:
    """What the last statement in ``text`` says, or where there is none its first line or last sentence.

    Args:
        text: see `_readable`.
        readers: the first that makes something of any statement counts.
        read_last: makes something of a last sentence that is no statement.
    """
    found = stated(text, _ANSWER, _IS_ANSWER)
    for read in readers:
        for statement in found.statements:
            said = read(statement.text, statement.kind)
            if said is not None:
                return DOUBT if _ends_elsewhere(text[statement.end :], said, read_last) else said
    sentence = _last_sentence(text[found.taken_back :])
    last = None if _ANSWER.search(sentence) else read_last(sentence)
    if found.taken_back:
        return last
    line = text.strip().split("\n")[0].strip()
    first = readers[0](line, "bare") if len(line.split()) <= 3 and not _NUMBERED.match(line) else None
    if first and last and _CONCLUSION.search(sentence) and same_expression(first, last) is not True:
        return DOUBT
    return first or last


def _ends_elsewhere(rest: str, said: str, read_last: Callable[[str], str | None]) -> bool:
    """Whether a response thinks again behind its answer and its last sentence comes to another one."""
    again = RECONSIDERED.search(rest)
    late = read_last(_last_sentence(rest[again.end() :])) if again else None
    return bool(late) and same_expression(said, late or "") is not True


def _first(statements: Sequence[Statement], read: _Reader) -> str | None:
    """What the first of ``statements`` says that is one."""
    return next((said for each in statements if (said := read(each.text, each.kind)) is not None), None)


def _word(response: str, words: Mapping[str, str]) -> str | None:
    """Which of ``words`` the response decides for, as the label that it stands for."""
    names = "|".join(sorted(words, key=len, reverse=True))
    decided = re.compile(
        rf"[^\w\\]*(?:(?:likely|probably|clearly|definitely)\s+)?({names}){_AFTER_WORD}", re.I
    )
    other = re.compile(rf"[^\w\n]*(?:(?:or|and)\b)?[^\w\n]*({names})\b", re.I)

    def read(said: str, kind: Kind) -> str | None:
        said = undressed(said)
        found = decided.match(said)
        if found is None or (kind == "bare" and re.match(r"\W*\w", said[found.end() :])):
            return None
        label = words[found[1].lower()]
        beside = other.match(said, found.end())
        return DOUBT if beside and words[beside[1].lower()] != label else label

    text = _readable(response)
    found = stated(text, _VERDICT, _NEVER)
    said = _first(found.statements, read)
    if said is not None or found.taken_back:
        return said
    alone = re.fullmatch(rf"\W*({names})\W*", _last_line(text), re.I)
    edges = {read(text, "named"), words[alone[1].lower()] if alone else None} - {None}
    return edges.pop() if len(edges) == 1 else None


def _last_line(text: str) -> str:
    lines = [line for line in text.split("\n") if line.strip()]
    while len(lines) > 1 and _COURTESY.fullmatch(lines[-1]):
        lines.pop()
    return lines[-1] if lines else ""


def _last_sentence(text: str) -> str:
    """The last sentence, unless that asks, denies or doubts, or was cut off in a box."""
    line = _COURTESY.sub("", _last_line(text)[-_LONGEST_LINE:]).strip()
    sentence = _SENTENCE.split(line)[-1].strip()
    if "\\boxed" in line or sentence.rstrip("*_ ").endswith("?"):
        return ""
    sentence = _NOT_THAT.sub("", sentence)
    return "" if _UNSURE.search(_CONCLUDES.split(sentence)[-1]) else sentence
