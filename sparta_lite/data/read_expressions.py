r"""The mathematics that a statement gives: the formula with which it begins, those that it lists, its words.

See `sparta_lite.data.read_numbers` for what readers return.
"""

from __future__ import annotations

import re

from sparta_lite.data.clauses import DOUBT, STOP, asserted, without_markup, words
from sparta_lite.data.latex import FUNCTIONS, formulas, leading_mathematics, split, without_commands
from sparta_lite.data.read_numbers import read_last_number, read_number
from sparta_lite.data.statements import Kind

_ALONE = ("line", "bare")
_QUOTES = " *_\"'“”‘’"
_UNIT_LETTER = re.compile(r"^(-?[\d.,/]+)\s+[mghslLNJWVACF](?:[²³]|\^\{?\d\}?)?$")
_PLAIN = re.compile(r"(?:[a-zA-Z]\s*=\s*)?-?\d[\d,.]*(?<![.,])")
_AND = r"\s*(?:[,;]\s*(?:(?:and|or)\s+)?|(?:and|or)\s+)"
_AND_BETWEEN = re.compile(_AND, re.IGNORECASE)
_AND_ANOTHER = re.compile(_AND + r"(?=\$|-?[\d.]|[a-zA-Z]\s*=)", re.IGNORECASE)
_NAMES_IT = re.compile(r"\s*(?:=|is|equals|are)\s*(?=\$|-?\d)")
_BEHIND = re.compile(
    rf"\s*(?:\\?%|{words('percent pct percentage hundred thousand million billion trillion')}"
    r"|(?:in\s+)?base\s+\w+)",
    re.IGNORECASE,
)
_OR = re.compile(r"\s*,?\s*or\b", re.IGNORECASE)
_ENDS_IN_OR = re.compile(r"\bor\s*$", re.IGNORECASE)
_VERB = re.compile(r"\b(?:is|are|was|equals)\s+(?!not\b)|(?<=\s)=\s+", re.IGNORECASE)
_BECAUSE = re.compile(r",?\s+(?:because|since)\b", re.IGNORECASE)
_IS_MATHEMATICS = re.compile(
    r"\d|\\[a-zA-Z]|[^\x00-\x7f]|^\W*[a-zA-Z]\W*$|[a-zA-Z)]\s*[-+*/^=<>]\s*[a-zA-Z(]"
)
_PROSE = re.compile(rf"(?<![a-zA-Z])(?!(?:{FUNCTIONS}|and|or)\b)[a-zA-Z]{{3,}} +[a-zA-Z]+")
_EMPHASIZED = re.compile(r"\*\*([^*\n]{1,60})\*\*|\\textbf\s*\{([^{}]{1,60})\}")


def read_expression(said: str, kind: Kind = "named") -> str | None:
    """The mathematics that a statement gives."""
    text = asserted(without_markup(said))
    if text is None or not text.strip():
        return None
    if kind == "boxed" and _is_formula(text):
        return said
    listed = _listed(text)
    if listed is not None:
        return listed
    sentence = _sentence(text.replace(r"\$", "").replace("$", ""))
    begins = _leading(sentence)
    if begins is not None:
        return None if kind in _ALONE and len(sentence) > len(begins) + 15 else begins
    verb = _VERB.search(sentence)
    return read_expression(sentence[verb.end() :]) if verb and kind not in _ALONE else None


def read_words(said: str, kind: Kind = "named") -> str | None:
    """The words of a statement, up to where it explains them."""
    text = asserted(without_markup(said))
    if text is None or kind in _ALONE:
        return None
    sentence = _sentence(text)
    verb = _VERB.search(sentence)
    return (sentence[verb.end() :] if verb else sentence).strip(" .:,") or None


def read_last_expression(sentence: str) -> str | None:
    """What a sentence says that something is, else its last formulas, its last number, or what stands out."""
    clause = split(without_markup(sentence), _BECAUSE)[0]
    for verb in reversed(list(_VERB.finditer(clause))):
        if listed := _listed(clause[verb.end() :]):
            return listed
    return _last_formulas(clause) or read_last_number_or_emphasis(sentence)


def read_last_number_or_emphasis(sentence: str) -> str | None:
    """The number that stands out in a sentence, else that in which it ends up, else words that stand out."""
    outstanding = [found[1] or found[2] for found in _EMPHASIZED.finditer(sentence)]
    numbers = {read_number(each, "bare") for each in outstanding} - {None}
    if len(numbers) == 1:
        return numbers.pop()
    last = read_last_number(sentence)
    return outstanding[-1] if last is None and outstanding else last


def _sentence(text: str) -> str:
    return split(text, STOP)[0].strip(_QUOTES)


def _listed(text: str) -> str | None:
    """The formula with which ``text`` begins, and those that it lists with it."""
    items: list[str] = []
    place = 0
    spans = {found.start(): found for found in formulas(text) if _is_formula(found[1])}
    while found := spans.get(place) or (_PLAIN.match(text, place) if items else None):
        items.append(found[1] if found.start() in spans else found[0])
        place = found.end()
        if behind := _BEHIND.match(text, place):
            items[-1] += behind[0]
            place = behind.end()
        if named := _NAMES_IT.match(text, place):
            items.pop()
            place = named.end()
        elif another := _AND_ANOTHER.match(text, place):
            place = another.end()
        else:
            break
    if items and _OR.match(text, place):
        return DOUBT
    return ", ".join(item.strip().rstrip(".,;") for item in items) or None


def _last_formulas(clause: str) -> str | None:
    """The last formula of a clause that has a number in it, with those that are listed before it."""
    found = [formula for formula in formulas(clause) if _is_formula(formula[1])]
    if not found:
        return None
    first = next((formula for formula in reversed(found) if re.search(r"\d", formula[1])), found[-1])
    for formula in reversed(found[: found.index(first)]):
        if not _AND_BETWEEN.fullmatch(clause, formula.end(), first.start()):
            break
        first = formula
    return _listed(clause[first.start() :])


def _leading(sentence: str) -> str | None:
    """The mathematics with which a sentence begins; None where it begins with a word."""
    text = leading_mathematics(sentence)
    if text is None:
        return None
    if behind := _BEHIND.match(sentence, len(text)):
        text += behind[0]
    if _ENDS_IN_OR.search(text):
        return DOUBT
    text = _UNIT_LETTER.sub(r"\1", re.sub(r"(?:\band)?[\s,;:(]*$", "", text))
    return text if _IS_MATHEMATICS.search(text) else None


def _is_formula(content: str) -> bool:
    """Whether what stands between two dollars is mathematics: $5 because it costs $ is none."""
    return not _PROSE.search(without_commands(content))
