r"""Marks for responses: which answer does one give, and is it the right one?

The answer that is *stated last* counts: ``\boxed{...}``, ``#### ...``, "The answer is ...", "Answer: ...".
Without such a statement a response must leave no doubt in its first words or last line, else it is unparsed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from decimal import Decimal

from sparta_lite.data.expressions import boxes, same_expression
from sparta_lite.data.task import Mark, Question

_LONGEST = 6000
"""Characters at the end of a response that are read: all of 1500 tokens and more."""

_STATEMENTS = 20
"""How many statements are tried, from the last one back."""

_DOUBT = ""
"""What a statement says that names two answers: it counts, and nothing can be made of it."""

_Reader = Callable[[str], "str | None"]

_STATED = (
    r"\b(?:{nouns})\b(?P<between>[^.:=\n]{{0,60}}?)(?:\bis\b(?:[\s*_]*:)?|\b(?:would|must|should) be\b|:|=)"
    r"[\s*_]*(?=(?P<said>[^\n]{{0,300}}))"  # ahead: another statement may follow on the line
    r"|\#\#\#\#[ \t]*(?=(?P<marked>[^\n]{{0,300}}))"
)
_CHOSEN = r"|(?P<doing>[^.\n]{0,20})\b(?:choose|select|pick)\b[\s:*_]*(?=(?P<chosen>[^\n]{0,300}))"
_ANSWER = re.compile(_STATED.format(nouns="answer"), re.IGNORECASE)
_CHOICE = re.compile(_STATED.format(nouns="answer|choice|option") + _CHOSEN, re.IGNORECASE)
_VERDICT = re.compile(
    _STATED.format(nouns="answer|choice|response|verdict|statement|claim") + _CHOSEN, re.IGNORECASE
)
_DENIED = re.compile(r"\bnot\b|n['’]t\b|\bnever\b", re.IGNORECASE)

_DRESS = re.compile(r"\\(?:text|textbf|mathrm|mathbf|mathit|textit)\s*\{([^{}]*)\}")
_CLAUSE = re.compile(r"[.;!?](?=[\s*]|$)|,(?=\s+[^\s\d])|,?\s(?:because|since|as|so|which|where|and not)\b")
_SENTENCE = re.compile(r"(?<!\\)[.;?](?=[\s*]|$)|,?\s(?:because|since|so|which|where)\b")
_DELIMITED = re.compile(r"(?<!\\)\$\$(.+?)\$\$|(?<!\\)\$((?:\\.|[^$\\])+)\$|\\\((.+?)\\\)|\\\[(.+?)\\\]")

_NUMBER = re.compile(r"(?<![\w.)^])-?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|(?<![\w.])-?\.\d+")
_OPERATED = re.compile(r"\\|\d\s*[/^*+×÷!]|\d\s*-\s*\d")

# A letter is none in "C. difficile", "B12", "A's" or "Aspirin"; "B. blank 1: ..." repeats an option.
_ALONE = r"(?![\w'’-])(?!\.\s+(?!blank\b)[a-z])"
_LETTER = re.compile(rf"[^\w\\]*(?:(?:option|choice|letter|answer)\s+)?[^\w\\]*([A-H]){_ALONE}(?!\s+[a-z])")
_LETTER_WHY = re.compile(
    rf"[^\w\\]*(?:(?:option|choice|letter|answer)\s+)?[^\w\\]*([B-H]){_ALONE}|[^\w\\]*([A-H])(?=\s+(?:because|since|as|is)\b)"
)
_SMALL_LETTER = re.compile(r"[^\w\\]*(?:option\s+)?\(?([a-h])(?:\)|[\s.*\"'$]*$)")
_OTHER_LETTER = re.compile(r"[^\w]*(?:or|and|/|,|&)[^\w]*(?:option\s+)?\(?([A-H])(?![\w'’])")
_RIGHT_LETTER = re.compile(
    r"(?:\b(?:option|choice|answer)\s+\(?|(?:^|[.\n])\s*[(*]*)([A-H])[)*]*\s+is\s+(?:the\s+)?(?:correct|right|best)\b",
    re.IGNORECASE,
)
_MARKED_LETTER = re.compile(
    rf"\(([A-H])\)|\*\*([A-H])\b|(?<![\w'’.-])([A-H])(?=[.):,](?:\s|$)){_ALONE}|^\W*([A-H])\W*$", re.MULTILINE
)

_AFTER_WORD = (
    r"(?=[\"'’*_)\]}$]*(?:\s*(?:$|[.,;:!?(\n—–-])"
    r"|\s+(?:because|since|as|given|it|this|that|the|he|she|they|in|under|due)\b))"
)


def grade_number(question: Question, response: str) -> Mark:
    """The gold answer is a number; currency, units and thousands separators around it do not matter."""
    text = response[-_LONGEST:]
    said = _stated(text, _ANSWER, _number)
    return _mark(question, _last_number(text) if said is None else said, same_expression)


def grade_expression(question: Question, response: str) -> Mark:
    """The gold answer is LaTeX, or a word in it; expressions of the same value or meaning are right."""
    text = response[-_LONGEST:]
    said = _stated(text, _ANSWER, _expression) or _stated(text, _ANSWER, _prose)
    return _mark(question, said or _last_expression(text), same_expression)


def grade_choice(question: Question, response: str) -> Mark:
    """The gold answer is a letter, A to H."""
    text = response[-_LONGEST:]
    said = _stated(text, _CHOICE, _letter, _RIGHT_LETTER)
    return _mark(question, _only_letter(text) if said is None else said, str.__eq__)


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


def _stated(
    text: str, statement: re.Pattern[str], read: _Reader, outright: re.Pattern[str] | None = None
) -> str | None:
    """What the last statement in ``text`` that ``read`` understands says; None where there is none."""
    places: list[tuple[int, str]] = boxes(text)
    for found in statement.finditer(text):
        parts = found.groupdict()
        denied = _DENIED.search((parts["between"] or "") + (parts.get("doing") or ""))
        said = next(parts[name] for name in ("said", "marked", "chosen") if parts.get(name) is not None)
        # What a box holds stands at its own place.
        if not denied and not said.lstrip(" $*\\([").startswith("boxed"):
            places.append((found.start(), said))
    if outright is not None:
        places += [(found.start(1), found[1].upper()) for found in outright.finditer(text)]
    for _, said in sorted(places, reverse=True)[:_STATEMENTS]:
        answer = read(said)
        if answer is not None:
            return answer
    return None


def _number(said: str) -> str | None:
    """The one number of a statement, or the arithmetic in it."""
    if _DENIED.match(said):
        return None
    clause = _CLAUSE.split(_bare(said))[0].rpartition("=")[2].strip()
    numbers = {_value(number) for number in _NUMBER.findall(clause)}
    if not numbers and not re.search(r"\d", clause):
        return None
    if _OPERATED.search(clause):
        return clause
    return str(numbers.pop()) if len(numbers) == 1 else _DOUBT


def _last_number(text: str) -> str | None:
    """The last number of the last line, unless that line was cut off in a box."""
    line = _last_line(text)
    numbers = [] if "\\boxed" in line else _NUMBER.findall(_bare(line))
    return str(_value(numbers[-1])) if numbers else None


def _bare(text: str) -> str:
    r"""``text`` without the dress of a number: ``**$1{,}200\%**``."""
    text = re.sub(r"\\[$%,!;: ]|[$%€£*°]|\\(?:left|right|quad|,)", "", _DRESS.sub(r" \1 ", text))
    return text.replace("{,}", ",").replace("−", "-")


def _value(number: str) -> Decimal:
    return Decimal(number.replace(",", ""))


def _expression(said: str) -> str | None:
    """The mathematics of a statement."""
    if _DENIED.match(said):
        return None
    if formulas := _formulas(said):
        return ", ".join(formulas)
    prose = _prose(said)
    return prose if prose and re.search(r"[\d\\]|^\W*[a-zA-Z]\W*$", prose) else None


def _prose(said: str) -> str | None:
    """What a statement says before it goes on to explain: the answer may be a word."""
    if _DENIED.match(said):
        return None
    return _SENTENCE.split(said.strip(" *"))[0].lstrip(" *:").rstrip(" *.:") or None


def _last_expression(text: str) -> str | None:
    """The last formula of the last line, or, where that is plain, its last number."""
    line = _last_line(text)
    formulas = _formulas(line)
    return formulas[-1].rpartition("=")[2] if formulas else _last_number(line)


def _formulas(text: str) -> list[str]:
    return ["".join(groups).strip().rstrip(".,") for groups in _DELIMITED.findall(text)]


def _letter(said: str) -> str | None:
    said = _DRESS.sub(r"\1", said).replace("$", "")
    found = _LETTER.match(said) or _LETTER_WHY.match(said)
    if found is None:
        small = _SMALL_LETTER.match(said)
        return small[1].upper() if small else None
    letter = found[found.lastindex or 1]
    other = _OTHER_LETTER.match(said, found.end())
    return _DOUBT if other and other[1] != letter else str(letter)


def _only_letter(text: str) -> str | None:
    """The letter with which the response begins or ends, if it marks no other."""
    marked = [next(letter for letter in letters if letter) for letters in _MARKED_LETTER.findall(text)]
    if len(set(marked)) != 1:
        return None
    edges = (text.lstrip(" *(\n"), _last_line(text).lstrip(" *("))
    return marked[0] if any(re.match(rf"(?:Option\s+)?{marked[0]}(?!\w)", edge) for edge in edges) else None


def _word(response: str, words: Mapping[str, str]) -> str | None:
    """Which of ``words`` the response decides for, as the label that it stands for."""
    names = "|".join(sorted(words, key=len, reverse=True))
    decided = re.compile(
        rf"[^\w\\]*(?:(?:likely|probably|clearly|definitely)\s+)?({names}){_AFTER_WORD}", re.I
    )
    other = re.compile(rf"[^\w]*(?:(?:or|and)\b)?[^\w]*({names})\b", re.I)

    def read(said: str) -> str | None:
        said = _DRESS.sub(r"\1", said)
        found = decided.match(said)
        if found is None:
            return None
        label = words[found[1].lower()]
        beside = other.match(said, found.end())
        return _DOUBT if beside and words[beside[1].lower()] != label else label

    text = response[-_LONGEST:]
    said = _stated(text, _VERDICT, read)
    if said is not None:
        return said
    alone = re.fullmatch(rf"\W*({names})\W*", _last_line(text), re.I)
    edges = {read(text), words[alone[1].lower()] if alone else None} - {None}
    return edges.pop() if len(edges) == 1 else None


def _last_line(text: str) -> str:
    return next((line for line in reversed(text.split("\n")) if line.strip()), "")
