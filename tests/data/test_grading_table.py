"""The table of forms in docs/grading.md: every row, and that no form is right for the answer of another."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import pytest

from sparta_lite.data.expressions import same_expression
from sparta_lite.data.grading import (
    grade_choice,
    grade_expression,
    grade_label,
    grade_number,
    grade_truth,
)
from sparta_lite.data.task import Question

GRADERS = {
    "Numbers": grade_number,
    "Expressions": grade_expression,
    "Choices": grade_choice,
    "Labels": grade_label,
    "True or not": grade_truth,
}
OTHERS = {
    "Numbers": [],
    "Expressions": [],
    "Choices": ["A", "B", "D"],
    "Labels": ["yes", "no", "neutral"],
    "True or not": ["yes", "no"],
}
ROW = re.compile(
    r"\| (`+) ?(?P<response>.+?) ?\1 \| (`+)(?P<gold>.+?)\3 \| (?P<mark>right|wrong|unparsed) \|"
)


class Form(NamedTuple):
    kind: str
    response: str
    gold: str
    mark: str


def forms() -> list[Form]:
    text = (Path(__file__).parents[2] / "docs" / "grading.md").read_text(encoding="utf-8")
    found = []
    for section in text.split("\n## ")[1:]:
        kind = section.split("\n")[0].partition(":")[0]
        for line in section.split("\n"):
            if line.startswith("| `"):
                row = ROW.fullmatch(line)
                assert row is not None, line
                response = row["response"].replace(r"\|", "|").replace("⏎", "\n")
                found.append(Form(kind, response, row["gold"], row["mark"]))
    return found


FORMS = forms()
RIGHT = [form for form in FORMS if form.mark == "right"]


@pytest.mark.parametrize("form", FORMS, ids=lambda form: f"{form.kind}-{form.gold}-{form.response[:40]}")
def test_every_form_has_its_mark(form: Form) -> None:
    assert GRADERS[form.kind](Question("?", form.gold), form.response) == form.mark


@pytest.mark.parametrize("kind", GRADERS)
def test_no_form_is_right_for_the_answer_of_another(kind: str) -> None:
    mine = [form for form in RIGHT if form.kind == kind]
    golds = list(dict.fromkeys([*(form.gold for form in mine), *OTHERS[kind]]))
    for place, form in enumerate(mine):
        right = {other.gold for other in mine if other.response == form.response}
        turned = golds[place % len(golds) :] + golds
        other = next(gold for gold in turned if gold not in right and not same_expression(gold, form.gold))
        assert GRADERS[kind](Question("?", other), form.response) != "right", (form, other)


def test_the_table_holds_every_kind_of_mark_for_every_grader() -> None:
    for kind in GRADERS:
        assert {form.mark for form in FORMS if form.kind == kind} >= {"right", "unparsed"}
    assert len(FORMS) == len(set(FORMS)) > 300
