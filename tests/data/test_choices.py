"""Choices in the forms of many data sets, and the letter of the right one."""

from __future__ import annotations

import csv
import io
from typing import Any

import pytest

from sparta_lite.data.choices import choices_of

TEXTS = ("Aspirin", "Insulin", "Rest")
LINES = "A. Aspirin\nB. Insulin\nC. Rest"

# name -> the row, the letter that it says is right
FORMS: dict[str, tuple[dict[str, Any], str | None]] = {
    "MMLU": ({"choices": list(TEXTS), "answer": 1}, "B"),
    "MMLU, first": ({"choices": list(TEXTS), "answer": 0}, "A"),
    "MMLU, a column of numbers with gaps": ({"choices": list(TEXTS), "answer": 2.0}, "C"),
    "MMLU-Pro": ({"options": list(TEXTS), "answer": "B", "answer_index": 1}, "B"),
    "MedQA": ({"options": dict(zip("ABC", TEXTS, strict=True)), "answer": "Insulin", "answer_idx": "B"}, "B"),
    "MedQA through Parquet": (
        {"options": {**dict(zip("ABC", TEXTS, strict=True)), "D": None}, "answer": "Rest"},
        "C",
    ),
    "MedQA, options as a list": ({"options": list(TEXTS), "answer": "Insulin", "answer_idx": "B"}, "B"),
    "MedQA, options as objects": (
        {
            "options": [{"key": key, "value": text} for key, text in zip("ABC", TEXTS, strict=True)],
            "answer_idx": "C",
        },
        "C",
    ),
    "ARC": ({"choices": {"text": list(TEXTS), "label": ["A", "B", "C"]}, "answerKey": "B"}, "B"),
    "ARC, numbered": ({"choices": {"text": list(TEXTS), "label": ["1", "2", "3"]}, "answerKey": "2"}, "B"),
    "AQuA": ({"options": ["A)Aspirin", "B)Insulin", "C)Rest"], "correct": "C"}, "C"),
    "a letter in brackets": ({"options": ["(A) Aspirin", "(B) Insulin", "(C) Rest"], "answer": "(B)"}, "B"),
    "C-Eval": (dict(zip("ABC", TEXTS, strict=True)) | {"answer": "A"}, "A"),
    "MedMCQA": ({"opa": "Aspirin", "opb": "Insulin", "opc": "Rest", "opd": None, "cop": 1}, "B"),
    "words before the letter": (
        {f"option_{key}": text for key, text in zip("abc", TEXTS, strict=True)},
        None,
    ),
    "HellaSwag's number in a text": ({"choices": list(TEXTS), "label": "2"}, "C"),
    "the answer's text": ({"choices": list(TEXTS), "answer": " rest. "}, "C"),
    "an answer that is none of them": ({"choices": list(TEXTS), "answer": "Tea"}, None),
    "a number beyond them": ({"choices": list(TEXTS), "answer": 3}, None),
    "true": ({"choices": list(TEXTS), "answer": True}, None),
    "no answer": ({"choices": list(TEXTS), "answer": None}, None),
}


@pytest.mark.parametrize("name", FORMS)
def test_every_form_gives_the_same_lines_and_its_letter(name: str) -> None:
    columns, letter = FORMS[name]
    choices = choices_of({"question": "What helps?", **columns})
    assert choices is not None
    assert choices.lines() == LINES
    assert choices.right(columns) == letter


def test_numbers_are_choices_too_and_an_index_is_no_text_of_them() -> None:
    columns = {"choices": [3, 1, 2, 0], "answer": 2}
    choices = choices_of(columns)
    assert choices is not None
    assert choices.lines() == "A. 3\nB. 1\nC. 2\nD. 0"
    assert choices.right(columns) == "C"
    assert choices.right({"answer": "B"}) == "B"


def test_a_row_of_a_table_has_a_column_for_each() -> None:
    table = "question,A,B,C,D,answer\nHow many?,1,2,3,4,C\n"
    (columns,) = csv.DictReader(io.StringIO(table))
    choices = choices_of(columns)
    assert choices is not None
    assert (choices.lines(), choices.right(columns)) == ("A. 1\nB. 2\nC. 3\nD. 4", "C")


@pytest.mark.parametrize(
    "columns",
    [
        {"choices": None},
        {"choices": []},
        {"choices": ["one"]},
        {"choices": ["x", None]},
        {"choices": ["x", ["y"]]},
        {"choices": "A) x B) y"},
        {"choices": {"A": "x"}},
        {"choices": {"text": ["x", "y"], "label": ["A"]}},
        {"choices": ["x"] * 27},
        {"a": "x", "b": "y"},
        {"A": "x", "C": "y"},
    ],
)
def test_what_is_no_choices(columns: dict[str, Any]) -> None:
    assert choices_of(columns) is None
