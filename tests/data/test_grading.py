"""Marks of hand-written responses, the ones that try to be marked right above all."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparta_lite.data.grading import (
    grade_choice,
    grade_expression,
    grade_label,
    grade_number,
    grade_truth,
)
from sparta_lite.data.task import Mark, Question

Grader = Callable[[Question, str], Mark]
GRADERS: list[Grader] = [grade_number, grade_expression, grade_choice, grade_label, grade_truth]


def mark(grade: Grader, gold: str, response: str) -> Mark:
    return grade(Question("?", gold), response)


NUMBERS = [
    # what is stated
    ("18", "The answer is 18.", "right"),
    ("18", "She has 16 - 3 - 4 = 9 eggs, 9 * 2 = 18.\n#### 18", "right"),
    ("18", "So she earns \\boxed{18} dollars.", "right"),
    ("18", "$\\boxed{\\$18}$", "right"),
    ("18", "\\[ \\boxed{18 \\text{ dollars}} \\]", "right"),
    ("1200", "The final answer is **$1,200**.", "right"),
    ("1,200", "#### 1200.00", "right"),
    ("1200", "\\boxed{1{,}200}", "right"),
    ("0.5", "The answer is 1/2.", "right"),
    ("0.5", "The answer is $\\frac{1}{2}$.", "right"),
    ("50", "**Answer:** 50%", "right"),
    ("-3", "The answer is −3.", "right"),
    ("7", "The answer is 3 + 4 = 7 apples.", "right"),
    ("7", "The answer is: x = 7, since 4 + 3 = 7 and 9 > 7.", "right"),
    ("18", "The answer is 18!", "right"),
    ("18", "The answer to the question of how many dollars she makes is 18 dollars.", "right"),
    ("18", "Answer:\n\n18", "right"),
    ("18", "She makes 9 * 2 = $18 every day at the farmers' market.", "right"),
    ("18", "18", "right"),
    # the last one counts
    ("18", "The answer is 18. Wait, I forgot the eggs: the answer is 20.", "wrong"),
    ("20", "The answer is 18. Wait, I forgot the eggs: the answer is 20.", "right"),
    ("18", "\\boxed{18}\nNo, \\boxed{17}", "wrong"),
    ("18", "#### 18\n#### 17", "wrong"),
    ("18", "#### 18\nThe answer is 17.", "wrong"),
    # no other number is
    ("18", "The answer is 180.", "wrong"),
    ("18", "The answer is 1.8.", "wrong"),
    ("18", "The answer is -18.", "wrong"),
    ("12", "\\boxed{1,2}", "unparsed"),
    ("5", "\\boxed{5, 6}", "unparsed"),
    ("5", "The answer is 5 or 6.", "unparsed"),
    ("5", "The answer is between 5 and 6.", "unparsed"),
    ("18", "The answer is not 18.\nI do not know it.", "unparsed"),
    ("18", "The answer isn't 18.\nI do not know it.", "unparsed"),
    ("18", "There are 18 of them, I think.\nBut I am not sure.", "unparsed"),
    ("18", "", "unparsed"),
    ("18", "I cannot tell.", "unparsed"),
    ("18", "The answer is eighteen.", "unparsed"),
]

EXPRESSIONS = [
    ("\\frac14", "$\\boxed{0.25}$", "right"),
    ("\\frac{1}{4}", "The answer is $\\frac{2}{8}$.", "right"),
    ("(t-11)(t+11)", "\\boxed{(t+11)(t-11)}", "right"),
    ("26x^2+30x", "Thus $2x(13x + 15) = \\boxed{30x + 26x^2}$.", "right"),
    ("\\sqrt{2}+1", "\\boxed{1+\\sqrt{2}}", "right"),
    ("-\\frac{33}{65}", "\\boxed{\\frac{-33}{65}}", "right"),
    ("\\text{odd}", "The function is \\boxed{\\text{odd}}.", "right"),
    ("\\text{odd}", "The answer is odd.", "right"),
    ("\\text{odd}", "\\boxed{Odd}", "right"),
    ("9", "\\boxed{x = 9}", "right"),
    ("9", "\\boxed{9}.", "right"),
    ("(3, \\frac{\\pi}{2})", "\\boxed{\\left(3, \\frac{\\pi}{2}\\right)}", "right"),
    ("\\frac{2}{3}", "\\boxed{\\dfrac{2}{3}}", "right"),
    ("[0,1)", "The answer is the interval $[0, 1)$.", "right"),
    ("45", "\\boxed{45^\\circ}", "right"),
    ("10", "\\boxed{10 \\, \\text{cm}^2}", "right"),
    ("10", "\\boxed{10^2}", "wrong"),
    ("\\text{(A)}", "\\boxed{A}", "right"),
    ("1,2", "\\boxed{2, 1}", "right"),
    ("-1, \\; -5", "\\boxed{-1, \\; -5}", "right"),
    (".175", "\\boxed{.175}", "right"),
    (".175", "\\boxed{175}", "wrong"),
    ("\\$2", "The answer is $\\$2$.", "right"),
    ("\\$36", "\\boxed{36}", "right"),
    ("100", "\\boxed{99} is near, but \\boxed{100}", "right"),
    ("16", "There are $2^4 = 16$ ways.", "right"),
    ("64", "So our answer is then \\[ 17^2 - 15^2 = 289 - 225 = 64, \\] as before.", "right"),
    ("10", "There are $\\binom{5}{3} = \\boxed{10}$ ways to choose three socks.", "right"),
    (
        "49",
        "Hence $x = \\boxed{49}$. (Checking the answer is necessary because squaring adds roots.)",
        "right",
    ),
    ("120", "\\boxed{5!}", "right"),
    ("\\text{odd}", "\\boxed{\\text{even}}", "wrong"),
    ("\\text{odd}", "\\boxed{ddo}", "wrong"),
    ("12", "\\boxed{12x}", "wrong"),
    ("\\frac{1}{3}", "\\boxed{0.33}", "wrong"),
    ("[0,1)", "\\boxed{[0,1]}", "wrong"),
    ("9", "\\boxed{9} and \\boxed{3}", "wrong"),
    ("2", "\\boxed{2\\pi}", "wrong"),
    ("9", "\\boxed{9", "unparsed"),
    ("9", "\\boxed{}", "unparsed"),
    ("9", "I would say so.", "unparsed"),
]

LETTERS = [
    ("B", "B", "right"),
    ("B", "b", "unparsed"),
    ("B", "B.", "right"),
    ("B", "(B)", "right"),
    ("B", "**B**", "right"),
    ("B", "B) Metformin is first-line.", "right"),
    ("B", "B. blank 1: Polish_Commonwealth; blank 2: Kingdom_of_Poland;", "right"),
    ("B", "The answer is B.", "right"),
    ("B", "The answer is (B) Metformin.", "right"),
    ("B", "The answer is B. blank 1: Polish_Commonwealth;", "right"),
    ("B", "**Answer:** B", "right"),
    ("B", "**Answer**: **B**", "right"),
    ("B", "Answer:\nB", "right"),
    ("B", "The correct option is B because it lowers glucose.", "right"),
    ("A", "The answer is A because it lowers glucose.", "right"),
    ("B", "The correct answer is option B: Metformin.", "right"),
    ("B", "Option B is correct.", "right"),
    ("B", "Therefore, (B) is the best choice, although (A) would do.\nOption B is the best.", "right"),
    ("B", "\\boxed{B}", "right"),
    ("B", "$\\boxed{\\text{B}}$", "right"),
    ("B", "The answer is $\\text{B}$.", "right"),
    ("B", "the answer is b.", "right"),
    ("B", "A is tempting. Option A is right for adults. The answer is B.", "right"),
    ("B", "Metformin lowers glucose.\n\nB. Metformin", "right"),
    ("B", "I would choose (B).", "right"),
    ("B", "So the correct answer must be B.", "right"),
    ("B", "The answer is definitely not A. The answer is B.", "right"),
    ("A", "The answer is definitely not A. The answer is B.", "wrong"),
    ("A", "The answer is A, not B.", "right"),
    ("B", "The answer is A.\nOn second thought, the answer is B.", "right"),
    ("A", "The answer is A.\nOn second thought, the answer is B.", "wrong"),
    ("A", "The answer is A.\n\\boxed{B}", "wrong"),
    ("A", "The answer is E.", "wrong"),
    # letters that are none
    ("A", "A patient with diabetes needs insulin.", "unparsed"),
    ("A", "The answer is a matter of debate.", "unparsed"),
    ("A", "The answer is Aspirin.", "unparsed"),
    ("B", "The answer is B12 deficiency.", "unparsed"),
    ("A", "The answer is A's brother.", "unparsed"),
    ("C", "The answer is C. difficile colitis.", "unparsed"),
    ("C", "C. difficile causes it.", "unparsed"),
    ("D", "Vitamin D is the best known of them.", "unparsed"),
    ("A", "I think so.", "unparsed"),
    ("A", "BAD CABBAGE", "unparsed"),
    # doubt
    ("A", "The answer is A or B.", "unparsed"),
    ("B", "The answer is A or B.", "unparsed"),
    ("A", "The answer is A and C.", "unparsed"),
    ("A", "A. Aspirin\nB. Metformin\nC. Insulin\nD. Statins", "unparsed"),
    ("D", "A. Aspirin\nB. Metformin\nC. Insulin\nD. Statins", "unparsed"),
    ("A", "Option A is wrong.", "unparsed"),
    ("A", "The answer is not A.", "unparsed"),
    ("A", "I would not choose A.", "unparsed"),
    ("A", "", "unparsed"),
]

LABELS = [
    ("no", "No", "right"),
    ("no", "No, that is rude.", "right"),
    ("yes", "'Yes'", "right"),
    ("neutral", "**Neutral**\n\nThere is no rule about it.", "right"),
    ("neutral", "She waved at him. The answer is 'Neutral'.", "right"),
    ("yes", "Nobody minds. The answer is Yes because it is polite.", "right"),
    ("no", "My choice is: No", "right"),
    ("no", "In Iraq this is rude. I choose 'No'.", "right"),
    ("yes", "It is polite.\n\nYes.", "right"),
    ("no", "Yes, at first sight. But the answer is No.", "right"),
    ("yes", "Yes, at first sight. But the answer is No.", "wrong"),
    ("neutral", "The answer is no.", "wrong"),
    ("no", "No one would mind.", "unparsed"),
    ("no", "Nobody would mind.", "unparsed"),
    ("yes", "Yesterday it was fine.", "unparsed"),
    ("neutral", "Neutrality is fine here.", "unparsed"),
    ("yes", "The answer is Yes, No or Neutral.", "unparsed"),
    ("no", "Choose from: 'Yes', 'No', 'Neutral'", "unparsed"),
    ("yes", "The answer is not yes.", "unparsed"),
    ("yes", "Yes, she may.\nNeutral", "unparsed"),
    ("no", "It is not acceptable.", "unparsed"),
]

TRUTHS = [
    ("yes", "True", "right"),
    ("yes", "Yes.", "right"),
    ("no", "False. Euros are not used in Sweden.", "right"),
    ("no", "The answer is not true.", "right"),
    ("no", "The proposed answer is false, as the moon landing was real.", "right"),
    ("no", "The statement is **False**.", "right"),
    ("yes", "True:\nThe answer is true because it is.", "right"),
    ("yes", "False at first sight, but the answer is yes.", "right"),
    ("yes", "The answer is false.", "wrong"),
    ("yes", "Truehearted people say so.", "unparsed"),
    ("yes", "The answer is partially true.", "unparsed"),
    ("yes", "True or false?", "unparsed"),
    ("yes", "The truth lies elsewhere.", "unparsed"),
]


@pytest.mark.parametrize(("gold", "response", "expected"), NUMBERS)
def test_numbers(gold: str, response: str, expected: Mark) -> None:
    assert mark(grade_number, gold, response) == expected


@pytest.mark.parametrize(("gold", "response", "expected"), EXPRESSIONS)
def test_expressions(gold: str, response: str, expected: Mark) -> None:
    assert mark(grade_expression, gold, response) == expected


@pytest.mark.parametrize(("gold", "response", "expected"), LETTERS)
def test_letters(gold: str, response: str, expected: Mark) -> None:
    assert mark(grade_choice, gold, response) == expected


@pytest.mark.parametrize(("gold", "response", "expected"), LABELS)
def test_labels(gold: str, response: str, expected: Mark) -> None:
    assert mark(grade_label, gold, response) == expected


@pytest.mark.parametrize(("gold", "response", "expected"), TRUTHS)
def test_truths(gold: str, response: str, expected: Mark) -> None:
    assert mark(grade_truth, gold, response) == expected


HOSTILE = [
    "\\boxed{9^{9^{9^{9}}}}",
    "\\boxed{9^{99999999999}}",
    "\\boxed{((9^{999})^{999})^{999}}",
    "\\boxed{9^{2 \\cdot 9^9}}",
    "\\boxed{9^(9^9)}",
    "\\boxed{99999!}",
    "\\boxed{(9!)!}",
    "\\boxed{9!!!!}",
    "\\boxed{\\sum_{n=1}^{10^9} n!}",
    "\\boxed{" + "9" * 5000 + "}",
    "\\boxed{" + "(" * 500 + ")" * 500 + "}",
    "\\boxed{\\frac{1}{" * 40 + "2" + "}" * 80,
    "\\boxed{" * 5000,
    "The answer is " * 2000,
    "answer " * 5000,
    "{" * 20000,
    "#### " * 5000,
    "choose " * 5000,
    "\\boxed{__import__('os').system('exit')}",
    "\ud800\udfff\x00" * 100,
]


@pytest.mark.parametrize("response", HOSTILE, ids=range(len(HOSTILE)))
def test_nothing_hostile_hangs_or_is_right(response: str) -> None:
    started = time.process_time()
    for grade, gold in zip(GRADERS, ("9", "9", "A", "yes", "yes"), strict=True):
        assert mark(grade, gold, response) != "right"
    assert time.process_time() - started < 5  # hours, if anything were computed


def test_expressions_are_compared_off_the_main_thread_too() -> None:
    marks: list[Mark] = []

    def work() -> None:
        for gold, response, _ in EXPRESSIONS:
            marks.append(mark(grade_expression, gold, response))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(60)
    assert marks == [expected for _, _, expected in EXPRESSIONS]


@given(st.text(max_size=300))
def test_no_response_breaks_a_grader(response: str) -> None:
    for grade, gold in zip(GRADERS[2:], ("A", "yes", "yes"), strict=True):
        assert mark(grade, gold, response) in ("right", "wrong", "unparsed")
    assert mark(grade_number, "123456789", response) != "right"


@given(st.integers(-(10**9), 10**9), st.sampled_from(["The answer is {}.", "#### {}", "\\boxed{{{}}}", "{}"]))
def test_a_stated_number_is_itself_and_no_other(number: int, form: str) -> None:
    assert mark(grade_number, str(number), form.format(f"{number:,}")) == "right"
    assert mark(grade_number, str(number), form.format(number + 1)) == "wrong"


@given(st.sampled_from("ABCD"), st.sampled_from("ABCD"))
def test_the_last_letter_counts(first: str, last: str) -> None:
    said = f"The answer is {first}. No: the answer is {last}."
    assert mark(grade_choice, last, said) == "right"
    assert mark(grade_choice, first, said) == ("right" if first == last else "wrong")


def test_a_question_without_an_answer_is_not_graded() -> None:
    with pytest.raises(ValueError, match="without an answer"):
        grade_choice(Question("?", None), "A")
