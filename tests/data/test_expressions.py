"""Which pairs of answers mean the same: closed forms on one side, what is written like them on the other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import math_verify
import pytest
from math_verify.errors import TimeoutException

from sparta_lite.data.expressions import same_expression
from sparta_lite.data.grading import grade_expression
from sparta_lite.data.task import Question

SAME = [
    # numbers side by side, thousands, mixed numbers
    ("11/2", "5 1/2"),
    ("\\frac{5}{2}", "2\\frac12"),
    ("-2.5", "-2 1/2"),
    ("2.5\\pi", "2\\frac12 \\pi"),
    ("10000", "10\\,000"),
    ("10000", "10{,}000"),
    ("10000", "10,\\!000"),
    ("10000", "10 000"),
    ("10000", "10'000"),
    ("1234", "1,234"),
    ("6", "(2)(3)"),
    ("9", "3(3)"),
    ("20", "2\\binom{5}{3}"),
    # exactly the same number
    ("10^{-3}", "10^-3"),
    ("10^{-3}", "1/1000"),
    ("\\frac13", "0.\\overline{3}"),
    ("\\frac13", "0.(3)"),
    ("\\frac13", "0.\\bar3"),
    ("\\frac17", "0.\\dot{1}4285\\dot{7}"),
    ("\\frac{1}{2^{99}}", "2^{-99}"),
    ("-\\frac{33}{65}", "\\frac{-33}{65}"),
    ("1500", "1.5 \\times 10^3"),
    ("1500000", "1.5 million"),
    ("2", "\\log_{10}100"),
    ("3", "\\sqrt[3]{27}"),
    ("\\cos 60^\\circ", "\\frac12"),
    # percentages, by the form of the first
    ("50\\%", "50"),
    ("50", "50%"),
    ("0.5", "50%"),
    ("\\frac{1}{20}", "5\\%"),
    # bases
    ("52_8", "52_{8}"),
    ("52_8", "(52)_8"),
    ("52_8", "52 base 8"),
    ("1010_2", "1010_{\\text{two}}"),
    ("52", "52_{10}"),
    # units
    ("15", "15\\mathrm{~cm}"),
    ("15", "15 \\mathrm{~km} / \\mathrm{h}"),
    ("15", "15 \\mathrm{m} \\mathrm{s}^{-1}"),
    ("15", "15\\text{ m}^2"),
    ("15", "15^\\circ"),
    ("15\\text{ cm}", "15 cm"),
    # lists, tuples, equations, relations
    ("1,2", "2, 1"),
    ("(1,2)", "1,2"),
    ("-2021, 2021", "\\pm 2021"),
    ("(2,3)", "x=2, y=3"),
    ("x=5", "5"),
    ("1/3", "x = 1/3 \\approx 0.33"),
    ("34x+45y+100=0", "-34x-45y-100=0"),
    ("x < 1", "-x > -1"),
    ("(5,\\infty)", "x > 5"),
    ("-2 \\le x \\le 7", "x \\in [-2,7]"),
    # mathematics
    ("(x+1)^2", "x^2+2x+1"),
    ("-1", "i^2"),
    ("5", "(2+i)(2-i)"),
    ("\\frac{\\sqrt{2}}{2}", "\\frac{1}{\\sqrt{2}}"),
    (
        "\\begin{pmatrix}6 & 8\\end{pmatrix}",
        "\\begin{pmatrix}1 & 2\\end{pmatrix} + \\begin{pmatrix}5 & 6\\end{pmatrix}",
    ),
]

OTHER = [
    ("7", "3 4"),
    ("12", "3 4"),
    ("34", "3 4"),
    ("3", "5 1/2"),
    ("1", "1 1/2"),
    ("0", "10\\,000"),
    ("10", "10 000"),
    ("5", "(2)(3)"),
    ("12", "2\\binom{5}{3}"),
    ("5", "5,5"),
    ("5.5", "5,5"),
    ("100", "1,00"),
    ("1.234", "1,234"),
    ("101_2", "101_3"),
    ("52_8", "52_9"),
    ("52_8", "52"),
    ("42", "52_8"),
    ("52", "52_8"),
    ("\\frac{1}{2^{99}}", "\\frac{1}{2^{98}}"),
    ("x/2^{98}", "x/2^{99}"),
    ("\\sqrt{2}/2^{200}", "\\sqrt{2}/2^{201}"),
    ("\\pi+2^{-99}", "\\pi+2^{-98}"),
    ("(2^{-98}, 1)", "(2^{-99}, 1)"),
    ("1/2004!", "1/2006!"),
    ("x^2+1", "(x+y+z+1)^{50}"),
    ("x", "\\sqrt{x^2}"),
    ("\\frac{1}{3}", "0.333333333"),
    ("\\sqrt{17}", "4.123106"),
    ("1 - \\frac{1}{e}", "1 + \\frac{1}{\\mathrm{e}}"),
    ("12", "12t"),
    ("x", "x + 3t"),
    ("12", "12 x"),
    ("15\\text{ cm}", "15\\text{ m}"),
    ("\\$15", "15\\text{ cents}"),
    ("50\\%", "0.5"),
    ("0.5", "50"),
    ("50", "0.5"),
    ("x=5", "y=5"),
    ("2x+z=1", "1"),
    ("5", "x \\neq 5"),
    ("(1,2)", "(2,1)"),
    ("(1,2)", "[1,2]"),
    ("\\{1,2\\}", "(1,2)"),
    ("3100", "(3,100)"),
    ("1,2", "1,2,3"),
    ("3:4", "6:8"),
    ("\\infty", "-\\infty"),
    ("i", "-i"),
    ("f(x)", "f(y)"),
    ("\\text{odd}", "ddo"),
]

UNREADABLE = [
    ("1", "0.999..."),
    ("5", ""),
    ("5", "\\sum_{n=1}^{5} 1"),
    ("5", "x_"),
    ("8", "2^{3^{1}}"),
]


@pytest.mark.parametrize(("gold", "said"), SAME)
def test_same(gold: str, said: str) -> None:
    assert same_expression(gold, said) is True


@pytest.mark.parametrize(("gold", "said"), OTHER)
def test_not_the_same(gold: str, said: str) -> None:
    assert same_expression(gold, said) is False


@pytest.mark.parametrize(("gold", "said"), UNREADABLE)
def test_what_cannot_be_read_is_neither_right_nor_wrong(gold: str, said: str) -> None:
    assert same_expression(gold, said) is None
    assert grade_expression(Question("?", gold), f"\\boxed{{{said}}}") == "unparsed"


def fails(error: BaseException) -> Callable[..., Any]:
    def failing(*_: object, **__: object) -> Any:
        raise error

    return failing


@pytest.mark.parametrize("name", ["parse", "verify"])
@pytest.mark.parametrize("error", [TimeoutException(), ValueError("no grammar"), RecursionError()])
def test_a_library_that_fails_leaves_an_answer_unparsed(
    monkeypatch: pytest.MonkeyPatch, name: str, error: BaseException
) -> None:
    monkeypatch.setattr(math_verify, name, fails(error))
    for gold in ("x < \\sqrt{2}", "x > 1"):
        assert grade_expression(Question("?", gold), "\\boxed{-x > -\\sqrt{2}}") == "unparsed"
    assert grade_expression(Question("?", "\\frac12"), "\\boxed{0.5}") == "right"
