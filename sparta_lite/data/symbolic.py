r"""Expressions with variables, roots and functions: math-verify reads them, kept to what it can do.

math-verify 0.9.0 adds whole factors that stand side by side, (2)(3) being 5, drops subscripts of numbers,
takes the last letter of ``12t`` for a unit, calls numbers equal whose difference is below 1e-15, and rounds
decimals after six places. So decimals arrive as fractions here, factors with a dot between them, units were
taken off before, and expressions that have a value are compared by it, in 300 digits. It enforces its time
limits by signals, which reach the main thread alone and no multiplication of giant numbers, so expressions
of hostile size never get there.
"""

from __future__ import annotations

import logging
import math
import re
import threading
from typing import Any

from sparta_lite.data.latex import group
from sparta_lite.data.numerals import side_by_side, unmixed

_LONGEST = 200
_SECONDS = 5
_LARGEST_POWER = 10_000
"""The product of all numbers in exponents: what towers and chains of powers come to."""
_LARGEST_FACTORIAL = 3_000
_DIGITS, _LOST = 300, 20
"""Decimal places that are computed, and how many of them may be lost to rounding."""

_ENDLESS = re.compile(
    r"\\(?:sum|prod|int|oint|lim|infty\s*!)|!\s*!|[)\]}]\s*!|\*\*|\d{31,}|\\binom.*\d{4,}", re.DOTALL
)
_FACTORIAL = re.compile(r"(\d+)\s*!")
_POWER = re.compile(r"(?<=[\d)}\]])\s*\^\s*")
_DECIMAL = re.compile(r"(?<![\w.])(\d*)\.(\d+)")
_SUBSCRIPT_OF_NUMBER = re.compile(r"\d\s*\}?\s*_")
_GROUP_BEHIND_NUMBER = re.compile(r"\d\s*\{")
_DEGREES = re.compile(r"(\d+(?:\.\d+)?)\s*\^\s*\{?\s*\\circ\s*\}?")
_FACTORS = re.compile(r"(_(?:\{[^{}]*\}|\w)\s*\(?)|(?<=[\d)!])\s*(?=\(|\\binom|(?<=\))\d)")


def same_value(gold: str, said: str) -> bool | None:
    """Whether two expressions are equal for all values of their variables; None where that cannot be told."""
    gold, said = unmixed(gold), unmixed(said)
    if any(_is_hostile(text) or _is_unreadable(text) for text in (gold, said)):
        return None
    answer, right = _parsed(said), _parsed(gold)
    if answer is None or right is None:
        return None
    library = _math_verify()
    try:
        return bool(library.utils.timeout(_seconds())(_compared)(right, answer))
    except (
        Exception,
        library.errors.TimeoutException,
    ):  # it gives up on many things, too slow or not covered
        return None


def _is_hostile(text: str) -> bool:
    """Whether reading ``text`` could take forever: too long, endless, or of astronomic size."""
    if len(text) > _LONGEST or text.count("{") != text.count("}") or _ENDLESS.search(text):
        return True
    if any(len(number) > 4 or int(number) > _LARGEST_FACTORIAL for number in _FACTORIAL.findall(text)):
        return True
    powers = []
    for power in _POWER.finditer(text):
        rest = text[power.end() :]
        exponent = group(rest) if rest.startswith("{") else rest if rest.startswith("(") else rest[:1]
        if exponent is None or "^" in exponent or "!" in exponent:
            return True
        powers += [int(number) for number in re.findall(r"\d+", exponent)]
    return math.prod(max(number, 1) for number in powers) > _LARGEST_POWER


def _is_unreadable(text: str) -> bool:
    """Whether math-verify would read something else than what stands there."""
    return (
        any(mark in text for mark in ("...", "%", ":"))
        or side_by_side(text)
        or any(pattern.search(text) for pattern in (_SUBSCRIPT_OF_NUMBER, _GROUP_BEHIND_NUMBER))
    )


def _parsed(text: str) -> Any:
    library = _math_verify()
    # Without its own repairs: they drop units, and variables with them.
    from latex2sympy2_extended import NormalizationConfig  # type: ignore[import-untyped]

    text = _DEGREES.sub(r"\\frac{\1 \\pi}{180}", text)
    text = _FACTORS.sub(lambda found: found[1] or r" \cdot ", text)
    text = _DECIMAL.sub(lambda found: rf"\frac{{{found[1]}{found[2]}}}{{{10 ** len(found[2])}}}", text)
    try:
        found = library.parse(
            f"\\boxed{{{text}}}",
            extraction_config=[
                library.LatexExtractionConfig(
                    normalization_config=NormalizationConfig(
                        basic_latex=True, units=False, malformed_operators=False, nits=False, boxed="all"
                    )
                )
            ],
            fallback_mode="no_fallback",
            parsing_timeout=_seconds(),
            raise_on_error=True,
        )
    except (Exception, library.errors.TimeoutException):  # its grammar fails in many ways: cannot be read
        return None
    return _with_imaginary_unit(found[0]) if found else None


def _with_imaginary_unit(expression: Any) -> Any:
    """``expression`` with the letter i for the root of -1, which math-verify takes for a variable."""
    import sympy  # type: ignore[import-untyped]

    try:
        letters = [symbol for symbol in expression.free_symbols if symbol.name == "i"]
        return expression.subs(dict.fromkeys(letters, sympy.I)) if letters else expression
    except Exception:
        return expression


def _compared(gold: Any, answer: Any) -> bool:
    import sympy

    if isinstance(gold, sympy.Expr) and isinstance(answer, sympy.Expr):
        if not gold.free_symbols | answer.free_symbols:
            values = gold.doit(), answer.doit()
            if all(value.is_Rational for value in values):
                return bool(values[0] == values[1])
        alike = {_agree(gold, answer, sign) for sign in (1, -1)} - {None}
        if alike:
            return alike == {True}
    return bool(
        _math_verify().verify(
            gold, answer, allow_set_relation_comp=True, timeout_seconds=None, raise_on_error=True
        )
    )


def _agree(gold: Any, answer: Any, sign: int) -> bool | None:
    """Whether both have the same value with some numbers of one sign put in for their letters.

    None where one has none, as an undefined function. To simplify the difference could take forever.
    """
    import sympy

    names = sorted({symbol.name for symbol in gold.free_symbols | answer.free_symbols})
    numbers = {name: sign * sympy.Rational(7 + 4 * place, 5 + 3 * place) for place, name in enumerate(names)}
    values = []
    for expression in (gold, answer):
        put = {symbol: numbers[symbol.name] for symbol in expression.free_symbols}
        values.append(expression.subs(put).evalf(_DIGITS))
    first, second = values
    if not (first.is_number and second.is_number and first.is_finite and second.is_finite):
        return None
    near = sympy.Float(10) ** (_LOST - _DIGITS)
    larger = max(sympy.Abs(first).evalf(), sympy.Abs(second).evalf())
    if 0 in (first, second):
        return bool(larger < near)
    return bool(sympy.Abs(first - second).evalf() <= larger * near)


def _math_verify() -> Any:
    import math_verify  # type: ignore[import-untyped]
    import math_verify.errors  # type: ignore[import-untyped]
    import math_verify.utils  # type: ignore[import-untyped]

    # It warns about every expression that it gives up, and about limits of time that are switched off.
    logging.getLogger("math_verify").setLevel(logging.ERROR)
    return math_verify


def _seconds() -> int | None:
    return _SECONDS if threading.current_thread() is threading.main_thread() else None
