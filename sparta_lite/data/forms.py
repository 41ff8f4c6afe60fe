"""How one row of a task becomes a question: the hub's columns and those of the published files.

A published file that asks for an answer in words of its own keeps them; what is put together here, and the
mathematics, ends with a request for the final answer in a form that `sparta_lite.data.grading` reads.
Columns that hold an answer or its explanation are never part of a question.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from sparta_lite.data.choices import choices_of
from sparta_lite.data.detection import joined, with_input
from sparta_lite.data.fields import checked, text_of
from sparta_lite.data.latex import boxes
from sparta_lite.data.row import FaultError, Row, columns_of, kind
from sparta_lite.data.task import Question
from sparta_lite.randomness import key

_NUMBER_REQUEST = "\n\nReason step by step, and end with: The answer is N. (N being a number)"
_BOXED_REQUEST = "\n\nReason step by step, and put the final answer in \\boxed{}."
_LETTER_REQUEST = "\n\nReason step by step, and end with: The answer is X. (X being a letter)"
_LABEL_REQUEST = "\n\nIs it? Say why, and end with 'The answer is L.', L being one of Yes, No and Neutral."
_TRUTH_REQUEST = (
    "\n\nIs the proposed answer true? Say why, and end with 'The answer is yes.' or 'The answer is no.'"
)

_PROPOSED = re.compile(r"\s*Q:\s*(.*?)\s*\nA:", re.DOTALL)


@dataclass(frozen=True)
class Entry:
    question: Question
    core: str
    """What makes the question this one, whatever its form: it decides who may see it."""


def word_problem(row: Row) -> Entry:
    """GSM8K: ``question`` and ``answer`` with the number after ``####``; published: instruction, input."""
    if "question" in columns_of(row):
        core = text = text_of(row, "question")
    else:
        core = text_of(row, "input")
        text = joined(text_of(row, "instruction"), core)
    gold = _gold(row, "answer")
    return _entry(text + _NUMBER_REQUEST, None if gold is None else gold.rpartition("####")[2].strip(), core)


def competition_problem(row: Row) -> Entry:
    """MATH: ``problem``, and ``solution`` with its answer in a box or ``answer`` as well."""
    level = level_of(row)
    text = text_of(row, "problem")
    gold = _gold(row, "answer")
    if gold is None and (solution := _gold(row, "solution")) is not None:
        gold = next((content for _, content in reversed(boxes(solution))), None)
    return _entry(text + _BOXED_REQUEST, gold, text, group=level)


def level_of(row: Row) -> str:
    """``Level 5``, which MATH-500 writes as the number 5.

    Raises:
        FaultError: the row has no level.
    """
    value = columns_of(row).get("level")
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise FaultError(f"has {kind(value)} for its level", "write levels as 'Level 5' or 5")
    said = str(value).strip()
    return f"Level {said}" if said.isdecimal() else said


def medical_choice(row: Row) -> Entry:
    """MedQA: ``question``, its choices in any form, ``answer_idx``; or a ready-made text, see `lettered`."""
    columns = columns_of(row)
    choices = choices_of(columns)
    if choices is None:
        return lettered(row)
    question = text_of(row, "question")
    step = columns.get("meta_info")
    group = step if isinstance(step, str) else ""
    text = f"{question}\n{choices.lines()}{_LETTER_REQUEST}"
    return _entry(text, choices.right(columns), question, group)


def lettered(row: Row) -> Entry:
    """A ready-made text with choices, see `ready_made`, and a letter in ``completion``."""
    text = ready_made(row)
    gold = next((gold for name in ("completion", "answer_idx", "label") if (gold := _gold(row, name))), None)
    return _entry(text, None if gold is None else gold.strip(" ().").upper(), text)


def country_norm(row: Row) -> Entry:
    """NormAd with a country's etiquette as context."""
    return _norm(row, ("Country",))


def value_norm(row: Row) -> Entry:
    """NormAd with the etiquette and the value behind it."""
    return _norm(row, ("Country", "Value"))


def rule_norm(row: Row) -> Entry:
    """NormAd with the etiquette and a rule of thumb."""
    return _norm(row, ("Rule-of-Thumb",))


def proposed_answer(row: Row) -> Entry:
    """TruthfulQA: is a proposed answer true? The published ``question`` holds both, the hub has lists.

    From the lists one answer is proposed per question, true or false by a hash of the question.
    """
    question = checked(text_of(row, "question"))
    columns = columns_of(row)
    if "incorrect_answers" not in columns:
        found = _PROPOSED.match(question)
        label = _gold(row, "label")
        return _entry(question, None if label is None else label.lower(), found[1] if found else question)
    draw = key("truthfulqa", question) % (1 << 63)
    true = draw % 2 == 0
    name = "correct_answers" if true else "incorrect_answers"
    answers = columns.get(name)
    if not isinstance(answers, list) or not answers or not all(isinstance(answer, str) for answer in answers):
        raise FaultError(f"holds no list of texts in column {name!r}")
    proposed = answers[draw // 2 % len(answers)]
    text = f"Question: {question}\nProposed answer: {proposed}{_TRUTH_REQUEST}"
    return _entry(text, "yes" if true else "no", question)


def open_ended(row: Row) -> Entry:
    """COM2 and Alpaca: ``prompt``, or instruction and input; a judge scores the responses."""
    text = ready_made(row)
    return _entry(text, None, text)


def ready_made(row: Row) -> str:
    """The row's ``prompt``, or ``instruction`` and, where it is not blank, ``input``."""
    return text_of(row, "prompt") if "prompt" in columns_of(row) else with_input(row)


def _norm(row: Row, context: tuple[str, ...]) -> Entry:
    if "Story" not in columns_of(row):
        text = text_of(row, "instruction")
        label = _gold(row, "label")
        return _entry(text, None if label is None else label.lower(), text)
    story = text_of(row, "Story")
    said = "\n".join(f"{name}: {text_of(row, name).replace('_', ' ')}" for name in context)
    text = f"{text_of(row, 'Background')}\n\n{said}\n\n{story}{_LABEL_REQUEST}"
    label = _gold(row, "Gold Label")
    return _entry(text, None if label is None else label.lower(), story)


def _gold(row: Row, column: str) -> str | None:
    """The answer in ``column``; None where there is none."""
    value = columns_of(row).get(column)
    return None if value is None or isinstance(value, list | dict) or not str(value).strip() else str(value)


def _entry(text: str, gold: str | None, core: str, group: str = "") -> Entry:
    return Entry(Question(checked(text), gold, group), " ".join(checked(core).split()).casefold())
