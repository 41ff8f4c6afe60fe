"""What holds of all numbers: one is itself in every form, and what only stands beside it never counts."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

from hypothesis import given, settings
from hypothesis import strategies as st

from sparta_lite.data.expressions import same_expression
from sparta_lite.data.grading import grade_expression, grade_number
from sparta_lite.data.task import Mark, Question


def mark(grade: Callable[[Question, str], Mark], gold: str, response: str) -> Mark:
    return grade(Question("?", gold), response)


@settings(max_examples=50)
@given(st.fractions(-2000, 2000, max_denominator=99))
def test_a_number_is_itself_in_every_form_and_no_neighbour(value: Fraction) -> None:
    gold = f"\\frac{{{value.numerator}}}{{{value.denominator}}}"
    neighbour = value + Fraction(1, value.denominator)
    near = value + Fraction(1, 10**30)
    for form in written(value):
        assert same_expression(gold, form) is True, form
        assert same_expression(f"{neighbour.numerator}/{neighbour.denominator}", form) is False, form
        assert same_expression(f"{near.numerator}/{near.denominator}", form) is False, form
        assert mark(grade_number, gold, f"The answer is {form}.") == "right", form
        assert mark(grade_expression, gold, f"\\boxed{{{form}}}") == "right", form


def written(value: Fraction) -> list[str]:
    """A number in all the ways in which people write it."""
    sign, above, below = "-" if value < 0 else "", abs(value.numerator), value.denominator
    whole, part = divmod(above, below)
    forms = [
        f"{sign}{above}/{below}",
        f"{sign}\\frac{{{above}}}{{{below}}}",
        f"{sign}\\dfrac {{{above}}} {{{below}}}",
        sign + repeating(whole, part, below),
        f"x = {sign}{above}/{below}",
        f"{sign}{above}/{below} \\text{{ cm}}",
    ]
    if whole and part:
        forms += [f"{sign}{whole} {part}/{below}", f"{sign}{whole}\\frac{{{part}}}{{{below}}}"]
    if not part:
        forms += [
            f"{sign}{whole:,}",
            f"{sign}{whole:,}".replace(",", "{,}"),
            f"{sign}{whole}.00",
            f"{sign}{whole}e0",
        ]
        forms += [f"{sign}{whole:,}".replace(",", separator) for separator in ("\\,", " ", ",\\!", "\u202f")]
        forms += [f"{sign}{whole} \\times 10^{{0}}", f"{sign}{whole * 10} x 10^-1"]
    return forms


def repeating(whole: int, part: int, below: int) -> str:
    """The decimals of whole + part / below by long division, a bar over those that repeat."""
    digits, seen = "", dict[int, int]()
    while part and part not in seen:
        seen[part] = len(digits)
        digit, part = divmod(part * 10, below)
        digits += str(digit)
    if not part:
        return f"{whole}.{digits}" if digits else str(whole)
    return f"{whole}.{digits[: seen[part]]}\\overline{{{digits[seen[part] :]}}}"


@given(st.integers(2, 16), st.integers(2, 16), st.integers(1, 500), st.integers(1, 500))
def test_a_numeral_is_its_digits_and_its_base(base: int, other: int, number: int, another: int) -> None:
    gold = f"{digits(number, base)}_{{{base}}}"
    said = f"{digits(another, other)}_{other}"
    alike = (base, number) == (other, another)
    assert same_expression(gold, said) is (
        True if alike else (number == another if base == other == 10 else False)
    )
    assert same_expression(gold, gold) is True


def digits(number: int, base: int) -> str:
    return (digits(number // base, base) if number >= base else "") + "0123456789ABCDEF"[number % base]


@given(
    st.integers(-999, 999),
    st.integers(-999, 999),
    st.sampled_from(
        [
            "The answer is ${answer}$, since $x = {other}$ is excluded.",
            "${answer}$ because ${other} = y$",
            "The answer is {other}. Wait, no, it is {answer}.",
            "The answer is not {other} but {answer}.",
            "The answer is {answer}, not {other}.",
            "The answer is {answer}.\n\nQuestion: And now?\nAnswer: {other}",
            "{answer}\nUser: And now?\nAssistant: The answer is {other}.",
            "<think>The answer is {other}.</think>\n\\[\n{answer}\n\\]",
            "\\boxed{{{other}}}\n\n\\begin{{align}}\nx &= {other}\\\\\n\\boxed{{{answer}}}\n\\end{{align}}",
            "#### {other}\n#### {answer}",
            "{answer} meters per week ({other} x 9)",
        ]
    ),
)
def test_what_explains_an_answer_does_not_count(answer: int, other: int, form: str) -> None:
    response = form.format(answer=answer, other=other)
    for grade in (grade_number, grade_expression):
        assert mark(grade, str(answer), response) == "right"
        assert mark(grade, str(other), response) == ("right" if answer == other else "wrong")


@given(
    st.integers(-999, 999),
    st.integers(1, 9),
    st.sampled_from(
        [
            "The answer is {answer} or {other}.",
            "The answer is either {answer} or {other}.",
            "The answer is not {answer}.",
            "The answer isn't {answer}.",
            "I do not think that the answer is {answer}.",
            "Is the answer {answer}?",
            "The answer is {answer}. Wait, that's wrong.",
            "The answer is more than {answer}.",
            "The answer is between {answer} and {other}.",
            "So she has {other} eggs after {answer} days.",
            "<think>The answer is {answer}.</think>",
            "The answer is {answer} {other}.",
        ]
    ),
)
def test_a_number_that_is_not_stated_is_never_right(answer: int, more: int, form: str) -> None:
    response = form.format(answer=answer, other=answer + more)
    for grade in (grade_number, grade_expression):
        assert mark(grade, str(answer), response) != "right"
        assert mark(grade, str(answer + more), response) != "right"
