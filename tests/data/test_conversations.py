"""Conversations out of rows, and the subsets that a column parts them into."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from sparta_lite.data import conversations
from sparta_lite.data.conversations import Columns, read_subsets, sample
from sparta_lite.data.rows import Row
from sparta_lite.errors import SpartaError

SAID = {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]}
HI_HO = (("user", "hi"), ("assistant", "ho"))


@pytest.fixture
def file(tmp_path: Path) -> Any:
    def write(*rows: Any) -> str:
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(path)

    return write


def three(**row: Any) -> list[dict[str, Any]]:
    return [{"set": name, **row} for name in "abc"]


def test_messages_are_read_as_they_are(file: Any) -> None:
    subsets = read_subsets(file(*three(**SAID)), "set", Columns())
    assert subsets.conversations == {name: [HI_HO] for name in "abc"}
    assert subsets.skipped == 0


@pytest.mark.parametrize(
    ("columns", "prompt"),
    [
        (Columns("q", "r"), "hi {x}"),
        (Columns("Q: {q}\n{more}", "r"), "Q: hi {x}\nand {{more}}"),
    ],
)
def test_prompt_and_response_make_a_conversation(file: Any, columns: Columns, prompt: str) -> None:
    row = {"q": "hi {x}", "more": "and {{more}}", "r": "ho"}
    subsets = read_subsets(file(*three(**row)), "set", columns)
    assert subsets.conversations["b"] == [(("user", prompt), ("assistant", "ho"))]


def test_rows_without_an_answer_are_counted_and_left_out(file: Any) -> None:
    silent = {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": " "}]}
    subsets = read_subsets(file(*three(**SAID), {"set": "a", **silent}), "set", Columns())
    assert (len(subsets.conversations["a"]), subsets.skipped) == (1, 1)


def test_values_become_names_of_directories(file: Any) -> None:
    rows = [{"set": value, **SAID} for value in ("a b/c", 3, "..")]
    assert list(read_subsets(file(*rows), "set", Columns()).conversations) == ["3", "_", "a_b_c"]


REFUSED: dict[str, tuple[list[dict[str, Any]], Mapping[str, Any], str]] = {
    "no column to part by": (
        three(**SAID),
        {"by": "kind"},
        "row 1: has no column 'kind' to part by; it has set",
    ),
    "nothing to part by": (three(**SAID), {"by": None}, "Name it with --by"),
    "an unnamed subset": ([{"set": None, **SAID}], {}, "column 'set' is None; it must name the row's subset"),
    "two subsets": (three(**SAID)[:2], {}, "has 2 different values, a tribe needs at least 3 adapters"),
    "an empty subset": (
        [*three(**SAID), {"set": "d", "messages": []}],
        {},
        "no assistant says anything in the subset 'd'",
    ),
    "no messages": (
        three(text="hi"),
        {},
        "row 1: has no column 'messages'; it has set, text: name the prompt",
    ),
    "messages of another kind": (
        three(messages="hi"),
        {},
        "must be a list of messages with role and content",
    ),
    "another role": (
        three(messages=[{"role": "tool", "content": "x"}]),
        {},
        "has role 'tool' and a text for content; give one of system, user, assistant and text",
    ),
    "no text": (three(messages=[{"role": "user", "content": 3}]), {}, "role 'user' and a number for content"),
    "no prompt": (three(r="x"), {"columns": Columns("q", "r")}, "row 1: has no column 'q'; it has set, r"),
    "no response": (three(q="x"), {"columns": Columns("q")}, "row 1: has no column 'response'"),
    "a response that is no text": (three(q="x", response=1), {"columns": Columns("q")}, "holds a number"),
    "a template that is none": (three(q="x", response="y"), {"columns": Columns("{q")}, "--template '{q'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_learned_from_is_refused_with_its_place(file: Any, case: str) -> None:
    rows, changes, reason = REFUSED[case]
    with pytest.raises(SpartaError) as caught:
        read_subsets(file(*rows), **{"by": "set", "columns": Columns(), **changes})
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_row_that_is_no_object_is_refused(file: Any) -> None:
    with pytest.raises(SpartaError, match="row 1: is a list; give an object with named columns"):
        read_subsets(file([1]), "set", Columns())


def test_the_papers_ten_come_from_the_tulu_mixture(monkeypatch: pytest.MonkeyPatch) -> None:
    values = ["cot", "flan_v2", "gpt4_alpaca", "code_alpaca", "hard_coded", "lima", "oasst1", "open_orca"]
    values += ["science.scierc_ner", "science.scifact_json", "sharegpt", "wizardlm"]
    asked: list[tuple[Any, ...]] = []

    def rows(*order: Any) -> list[Row]:
        asked.append(order)
        return [Row(f"row {number}", {"dataset": value, **SAID}) for number, value in enumerate(values)]

    monkeypatch.setattr(conversations, "read_rows", rows)
    subsets = read_subsets("tulu-v2", None, Columns())
    assert asked == [("allenai/tulu-v2-sft-mixture", None, None)]
    assert {name: len(found) for name, found in subsets.conversations.items()} == {
        "code_alpaca": 1,
        "cot": 1,
        "flan_v2": 1,
        "gemini_alpaca": 1,
        "lima": 1,
        "oasst1": 1,
        "open_orca": 1,
        "science": 2,
        "sharegpt": 1,
        "wizardlm": 1,
    }


def test_a_sample_keeps_the_order_and_follows_seed_and_name() -> None:
    all_of_it = [(("user", str(number)),) for number in range(50)]
    drawn = sample(all_of_it, 10, 0, "cot")
    assert len(drawn) == 10
    assert drawn == sorted(drawn, key=all_of_it.index)
    assert drawn == sample(all_of_it, 10, 0, "cot")
    assert drawn != sample(all_of_it, 10, 1, "cot")
    assert drawn != sample(all_of_it, 10, 0, "lima")
    assert sample(all_of_it, None, 0, "cot") == sample(all_of_it, 99, 0, "cot") == all_of_it
