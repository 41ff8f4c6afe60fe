"""What is read where no setting names a column, and what a user hears of that."""

from __future__ import annotations

from typing import Any

import pytest

from sparta_lite.data.instructions import load_instructions
from sparta_lite.errors import SpartaError

OURS = "generation.system gives one to every question"
USER, ANSWER = {"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}


def test_what_is_left_out_of_conversations_is_told(saved: Any) -> None:
    system, other = {"role": "system", "content": "s"}, {"role": "user", "content": "oh"}
    rows = [{"messages": m} for m in ([USER, ANSWER], [system, other, ANSWER], [system, USER, ANSWER, other])]
    loaded = load_instructions(saved("chats.json", rows), None, None)
    assert loaded.texts == ("hi", "oh")
    assert list(loaded.notices("chats.json")) == [
        "chats.json: 1 duplicate rows were left out: row 3",
        f"chats.json: system prompts were left out in 2 rows: row 2, row 3; {OURS}",
        "chats.json: the first turn alone was read in 1 rows with several: row 3",
    ]
    rows = [{"question": "hi", "system": "s"}, {"question": "ho", "system": ""}]
    assert load_instructions(saved("orca.json", rows), None, None).remarks == (
        f"system prompts were left out in 1 rows: row 1; {OURS}",
    )
    talk = "\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant: "
    rows = [{"chosen": f"{talk}d", "rejected": f"{talk}e"}]
    loaded = load_instructions(saved("hh.json", rows), None, None)
    assert (loaded.texts, loaded.remarks) == (
        ("a",),
        ("the first turn alone was read in 1 rows with several: row 1",),
    )


def test_choices_beside_the_column_that_was_asked_for_are_told(saved: Any) -> None:
    path = saved("mmlu.json", [{"question": "Which?", "choices": ["x", "y"], "answer": 1}])
    assert load_instructions(path, "question", None).remarks == (
        'choices of 1 rows were left out; data.template: "{question}\\n{choices}" reads them too',
    )
    assert load_instructions(path, None, "{question}\n{choices}").remarks == ()


def test_a_runs_own_preferences_are_instructions_again(saved: Any) -> None:
    prompt = [{"role": "system", "content": "Be brief."}, USER]
    row = {
        "prompt": prompt,
        "chosen": [ANSWER],
        "rejected": [USER],
        "duel": 3,
        "winner": "ada",
        "margin": 1.5,
    }
    path = saved("preferences.jsonl", [row])
    for column in (None, "prompt"):
        assert load_instructions(path, column, None).texts == ("hi",)
    assert load_instructions(path, None, "{prompt} ({winner})").texts == ("hi (ada)",)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"prompt": "a", "question": "b"}, "may stand in prompt or question; set data.column to one"),
        ({"body": "a", "title": "b"}, "body, title? Set data.column to one, such as data.column: body"),
        ({"text": "a", "id": 3}, "such as data.column: text"),
        ({"instruction": "a", "context": "b"}, 'data.template: "{context}\\n{instruction}" reads both'),
        ({"prompt": "What is it?", "images": ["x"]}, "data.column: prompt reads it without"),
        (
            {"prompt": "[{'role': 'user', 'content': 'hi'}]"},
            "holds messages as Python writes them; save the rows",
        ),
        ({"x" * 10_000: "a"}, "Set data.column to one, such as data.column: xxx"),
    ],
)
def test_columns_that_tell_nothing_for_sure_ask_for_a_setting(saved: Any, row: Any, said: str) -> None:
    path = saved("rows.json", [row])
    with pytest.raises(SpartaError) as caught:
        load_instructions(path, None, None)
    assert said in str(caught.value)
    assert len(str(caught.value).removeprefix(path)) <= 290


def test_columns_beside_the_question_that_are_empty_ask_for_nothing(saved: Any) -> None:
    rows = [{"question": "hi", "context": "", "image": None}]
    assert load_instructions(saved("rows.json", rows), None, None).texts == ("hi",)
