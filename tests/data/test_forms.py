"""Levels, choices and answers of the tasks in the forms that other tools give them."""

from __future__ import annotations

from typing import Any

import pytest

from sparta_lite.data.tasks import load_task, load_task_instructions
from sparta_lite.errors import SpartaError


def mathematics(n: int) -> dict[str, Any]:
    return {"problem": f"Find ${n}$.", "level": f"Level {n % 5 + 1}", "solution": f"It is $\\boxed{{{n}}}$."}


def patient(n: int) -> dict[str, Any]:
    options = {"A": "Aspirin", "B": "Insulin", "C": "Rest", "D": f"{n} eggs"}
    return {
        "question": f"A patient of {n} years is tired. What helps?",
        "options": options,
        "answer_idx": "ABCD"[n % 4],
    }


def refusal(name: str, path: str) -> str:
    with pytest.raises(SpartaError) as caught:
        load_task(name, path, 5, 0)
    return str(caught.value)


@pytest.mark.parametrize("written", [lambda n: n, float, str, lambda n: f"Level {n}", lambda n: f" {n} "])
def test_levels_are_numbers_or_words(saved: Any, written: Any) -> None:
    """MATH-500 has numbers, and ``subject`` in place of ``type``."""
    rows = [
        {
            "problem": f"Find ${n}$.",
            "solution": "...",
            "answer": str(n),
            "subject": "Algebra",
            "level": written(5),
        }
        for n in range(40)
    ]
    others = [{**row, "level": written(1)} for row in rows]
    path = saved("math500.jsonl", [*rows, *others])
    task, texts = load_task("math-hard", path, 100, 0), load_task_instructions("math-hard", path).texts
    assert len(task.questions) + len(texts) == 40
    assert {question.group for question in task.questions} == {"Level 5"}
    assert {question.answer for question in task.questions} <= {str(n) for n in range(40)}
    assert "has a level of Level 3; it has: Level 1, Level 5" in refusal("math-medium", path)


@pytest.mark.parametrize(
    ("level", "said"),
    [
        ([1], "a list"),
        ({"a": 1}, "an object"),
        (None, "null"),
        (True, "true or false"),
        (1.5, "a number"),
    ],
)
def test_a_level_that_is_none_is_a_fault_of_its_row(saved: Any, level: Any, said: str) -> None:
    odd = {**mathematics(4), "level": level}
    path = saved("math.jsonl", [*(mathematics(n) for n in range(0, 100, 5)), odd])
    skipped = (f"row 21 has {said} for its level",)
    assert load_task_instructions("math-easy", path).skipped == skipped
    assert load_task("math-easy", path, 5, 0).notices == (f"{path}: 1 rows were skipped: {skipped[0]}",)
    assert "write levels as 'Level 5' or 5" in refusal("math-easy", saved("o.jsonl", [odd] * 3))


def test_long_labels_do_not_come_back_whole(saved: Any) -> None:
    path = saved("math.jsonl", [{**mathematics(n), "level": f"{n}" + "x" * 10_000} for n in range(20)])
    assert len(refusal("math-easy", path)) <= 300 + len(path)
    assert len(refusal("x" * 10_000, path)) <= 300


@pytest.mark.parametrize(
    "form",
    [
        lambda options, n: {"options": options, "answer_idx": "ABCD"[n]},
        lambda options, n: {"options": list(options.values()), "answer_idx": "ABCD"[n]},
        lambda options, n: {"options": list(options.values()), "answer": options["ABCD"[n]]},
        lambda options, n: {"options": list(options.values()), "answer_idx": n},
        lambda options, n: {
            "options": [{"key": key, "value": options[key]} for key in options],
            "answer": "ABCD"[n],
        },
        lambda options, n: {**options, "answer": "ABCD"[n]},
    ],
)
def test_medical_choices_are_read_in_every_form(saved: Any, form: Any) -> None:
    rows = [{"question": patient(n)["question"], **form(patient(n)["options"], n % 4)} for n in range(40)]
    path = saved("medqa.jsonl", rows)
    questions = load_task("medqa", path, 100, 0).questions
    assert 0 < len(questions) == 40 - len(load_task_instructions("medqa", path).texts)
    for question in questions:
        n = int(question.text.split()[3])
        assert "\nA. Aspirin\nB. Insulin\nC. Rest\n" in question.text
        assert question.answer == "ABCD"[n % 4]


def test_questions_without_an_answer_among_others_are_told(saved: Any) -> None:
    rows = [{**patient(n), "answer_idx": None} if n < 10 else patient(n) for n in range(80)]
    task = load_task("medqa", saved("medqa.jsonl", rows), 100, 0)
    (notice,) = task.notices
    assert "held-out questions have no answer to compare with and are not asked: row" in notice
    assert all(question.answer for question in task.questions)


def test_a_tasks_prompt_may_be_a_conversation(saved: Any) -> None:
    rows = [
        {"prompt": [{"role": "system", "content": "s"}, {"role": "user", "content": f"Why {n}?"}]}
        for n in range(30)
    ]
    loaded = load_task_instructions("com2", saved("com2.jsonl", rows))
    assert set(loaded.texts) < {f"Why {n}?" for n in range(30)}
    assert loaded.remarks[0].startswith(f"system prompts were left out in {len(loaded.texts)} rows")
