"""Plausibly wrong solutions, made from GSM8K's published ones: one slip, carried on to the end.

A published solution annotates its steps, ``<<16-3-4=9>>9``. One result is changed as somebody who slips
would change it: its last digit that is not 0 by one or two, or a product by one factor too many or too few,
if that leaves more than half and less than twice of it. Whatever follows is worked out anew from it, in the
annotations and in the words, so that every other step stays true and the text is the same but for the
numbers that the slip reaches.

A question is left out where the rule cannot tell which numbers those are: where a result that changes is a
number of the question, or stood in the solution before; where an annotation is no plain sum or not true; or
where every slip leads to a negative number, to more than two decimals, or back to the right answer.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction

from sparta_lite.randomness import generator

_NUMBER = re.compile(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?(?!\d)|\d+(?:\.\d+)?|\.\d+")
_STEP = re.compile(r"<<([^<>=]+)=([^<>=]+)>>")
_ANSWER = re.compile(r"\n####\s*(.+?)\s*$")
_WORDS = "one two three four five six seven eight nine ten eleven twelve"
_NAMED = {word: Fraction(value) for value, word in enumerate(_WORDS.split(), start=1)}
_NAMED |= {"once": Fraction(1), "twice": Fraction(2), "double": Fraction(2), "triple": Fraction(3)}
_NAMED |= {"dozen": Fraction(12), "couple": Fraction(2), "twenty": Fraction(20), "hundred": Fraction(100)}
_OPERATIONS: dict[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


@dataclass(frozen=True)
class Pair:
    """A question with a right and a wrong solution, both without annotations."""

    row: int
    """Of the file, from 0."""
    question: str
    right: str
    wrong: str


def make_pair(row: int, question: str, answer: str, seed: int) -> Pair | None:
    """The pair of one row of the published file; None where the rule does not serve it."""
    wrong = slip(question, answer, seed, row)
    return None if wrong is None else Pair(row, question, plain(answer), plain(wrong))


def slip(question: str, answer: str, seed: int, row: int) -> str | None:
    """A wrong solution in the form of the published one, annotations included; None: see above."""
    found = _ANSWER.search(answer)
    steps = list(_STEP.finditer(answer))
    if not found or not steps:
        return None
    results = [_value(step[1]) for step in steps]
    if any(worked is None or worked != _number(step[2]) for worked, step in zip(results, steps, strict=True)):
        return None
    if results[-1] != _number(found[1]):
        return None
    tries = [(number, changed) for number, step in enumerate(steps) for changed in _slips(step[1], step[2])]
    generator("slip", seed, row).shuffle(tries)
    given = _numbers(question) | {value for word, value in _NAMED.items() if word in question.lower()}
    for number, changed in tries:
        if _number(steps[number][1]) is not None:  # `<<20=20>>` behind an equation in words is no sum
            continue
        text = _carry(answer, steps[number].start(), changed, given)
        if text is not None and _final(text) != _final(answer):
            return text
    return None


def plain(answer: str) -> str:
    """A solution without annotations, its answer in words."""
    return _ANSWER.sub(r"\nThe answer is \1.", _STEP.sub("", answer))


def _slips(sum_: str, written: str) -> Iterator[Fraction]:
    """Wrong results that somebody might get."""
    result = _number(written)
    assert result is not None
    digits = written.replace(",", "").rstrip("0") if "." not in written else written
    places = len(written.replace(",", "")) - len(digits) if "." not in written else -_decimals(written)
    unit = Fraction(10) ** places
    found = [result + times * unit for times in (-2, -1, 1, 2)]
    factors = re.fullmatch(r"\s*([\d.]+)\s*\*\s*([\d.]+)\s*", sum_)
    if factors:
        found += [result + sign * Fraction(factor) for factor in factors.groups() for sign in (-1, 1)]
    yield from (each for each in dict.fromkeys(found) if result < 2 * each < 4 * result)


def _carry(answer: str, start: int, changed: Fraction, given: set[Fraction]) -> str | None:
    """The solution with another result of the step at ``start``; None where that is not to be carried on."""
    news: dict[Fraction, Fraction] = {}
    head, rest = answer[:start], answer[start:]
    seen = _numbers(_STEP.sub("", head)) | given  # the words before the step may name the result already
    written: list[str] = []
    while rest:
        step = _STEP.search(rest)
        words = rest[: step.start()] if step else rest
        written.append(_reword(words, news))
        seen |= _numbers(words)
        if step is None:
            break
        sum_ = _reword(step[1], news)
        old, new = _number(step[2]), changed if len(written) == 1 else _value(sum_)
        if old is None or new is None:
            return None
        if new != old or old in news:
            # Whether such a number means this result, or something else, cannot be told.
            if old in seen or not _writable(new, step[2]) or news.get(old, new) != new:
                return None
            news[old] = new
        written.append(f"<<{sum_}={_write(news.get(old, old), step[2])}>>")
        rest = rest[step.end() :]
        if not (following := _NUMBER.match(rest)) or _number(following[0]) != old:
            return None
        seen |= {old}
    return head + "".join(written)


def _reword(text: str, news: Mapping[Fraction, Fraction]) -> str:
    def put(found: re.Match[str]) -> str:
        value = _number(found[0])
        return found[0] if value is None or value not in news else _write(news[value], found[0])

    return _NUMBER.sub(put, text)


def _writable(value: Fraction, like: str) -> bool:
    """Whether it is a number such as stands there: positive, whole where that is, of two decimals at most."""
    places = max(2, _decimals(like)) if "." in like else 0
    return value > 0 and (value * 10**places).denominator == 1


def _write(value: Fraction, like: str) -> str:
    places = _decimals(like)
    while (value * 10**places).denominator != 1:
        places += 1
    whole = round(value * 10**places)
    text = str(whole).zfill(places + 1)
    text = f"{text[:-places]}.{text[-places:]}" if places else text
    if "," not in like:
        return text
    before, point, after = text.partition(".")
    return f"{int(before):,}{point}{after}"


def _decimals(written: str) -> int:
    return len(written.partition(".")[2])


def _numbers(text: str) -> set[Fraction]:
    return {value for found in _NUMBER.findall(text) if (value := _number(found)) is not None}


def _number(text: str) -> Fraction | None:
    text = text.strip().lstrip("$")
    return Fraction(text.replace(",", "")) if _NUMBER.fullmatch(text) else None


def _final(answer: str) -> Fraction | None:
    found = _ANSWER.search(answer)
    return _number(found[1]) if found else None


def _value(sum_: str) -> Fraction | None:
    """What a sum of plain numbers comes to, exactly; None where it is none."""
    try:
        return _worked(ast.parse(sum_.strip(), mode="eval").body)
    except (SyntaxError, ValueError, ZeroDivisionError):
        return None


def _worked(node: ast.expr) -> Fraction:
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATIONS:
        return _OPERATIONS[type(node.op)](_worked(node.left), _worked(node.right))
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_worked(node.operand)
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        return Fraction(str(node.value))
    raise ValueError("no plain sum")
