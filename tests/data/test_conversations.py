"""Conversations out of rows, and the subsets that a column parts them into."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from sparta_lite.data import conversations
from sparta_lite.data.conversations import Columns, read_subsets, sample
from sparta_lite.data.row import Row
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
    assert subsets.places == {name: [f"row {number}"] for number, name in enumerate("abc", start=1)}
    assert subsets.skipped == ()


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
    assert len(subsets.conversations["a"]) == 1
    assert subsets.skipped == ("row 4 has nothing that an assistant says",)


def test_values_become_names_of_directories(file: Any) -> None:
    rows = [{"set": value, **SAID} for value in ("a b/c", 3, "..")]
    assert list(read_subsets(file(*rows), "set", Columns()).conversations) == ["3", "_", "a_b_c"]


def chat(*messages: Any) -> dict[str, Any]:
    return {"set": "a", "messages": list(messages)}


USER = {"role": "user", "content": "hi"}
HO = {"role": "assistant", "content": "ho"}

SKIPPED: dict[str, tuple[dict[str, Any], str]] = {
    "no name of a subset": (
        {"set": None, **SAID},
        "has null in column 'set', which must name the row's subset",
    ),
    "a list for a name": (
        {"set": ["a"], **SAID},
        "has ['a'] in column 'set', which must name the row's subset",
    ),
    "an unknown role": (
        chat(USER, HO, {"role": "critic", "content": "x"}),
        "has the role 'critic' in message 3",
    ),
    "no role": (chat(USER, {"content": "x"}), "holds a list in column 'messages', neither text nor messages"),
    "a number for a text": (
        chat(USER, {"role": "assistant", "content": 3}),
        "has a number for the text of message 2",
    ),
    "a picture": (
        chat({"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}, HO),
        "holds a part of type 'image_url' in message 1, no text",
    ),
    "a tool's call": (
        chat(USER, {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}, HO),
        "calls a tool in message 2, which is no text",
    ),
    "a function's call": (
        chat(USER, {"role": "assistant", "content": "", "function_call": {"name": "f"}}, HO),
        "calls a tool in message 2",
    ),
    "null content": (
        chat(USER, {"role": "assistant", "content": None}),
        "has nothing that an assistant says",
    ),
    "an answer to nothing": (chat(HO), "has an answer to nothing"),
    "no messages": ({"set": "a"}, "has no column 'messages'"),
    "null": ({"set": "a", "messages": None}, "holds null in column 'messages'"),
    "half a character": (
        chat(USER, {"role": "assistant", "content": "\ud800"}),
        "holds half of a surrogate pair",
    ),
}


@pytest.mark.parametrize("case", SKIPPED)
def test_a_row_that_cannot_be_learned_from_stops_no_other(file: Any, case: str) -> None:
    row, reason = SKIPPED[case]
    subsets = read_subsets(file(*three(**SAID), row, *three(**SAID)), "set", Columns())
    assert len(subsets.skipped) == 1
    assert subsets.skipped[0].startswith(f"row 4 {reason}"), subsets.skipped
    assert subsets.places["a"] == ["row 1", "row 5"]
    with pytest.raises(SpartaError, match="4 of 7 rows cannot be used: row 4 "):
        read_subsets(file(*three(**SAID), *[row] * 4), "set", Columns())


READ: dict[str, tuple[list[dict[str, Any]], tuple[tuple[str, str], ...]]] = {
    "a system prompt": ([{"role": "system", "content": "s"}, USER, HO], (("system", "s"), *HI_HO)),
    "a developer's, as OpenAI calls it": (
        [{"role": "developer", "content": "s"}, USER, HO],
        (("system", "s"), *HI_HO),
    ),
    "names in capitals": ([{"role": "User", "content": "hi"}, {"role": "ASSISTANT", "content": "ho"}], HI_HO),
    "ShareGPT's": ([{"from": "human", "value": "hi"}, {"from": "gpt", "value": "ho"}], HI_HO),
    "parts, and keys that are null": (
        [
            {"role": "user", "content": [{"type": "text", "text": "h"}, {"type": "text", "text": "i"}]},
            {
                "role": "assistant",
                "content": [{"type": "text", "text": "ho", "image": None}],
                "tool_calls": None,
            },
        ],
        HI_HO,
    ),
    "OpenAI's newer parts": (
        [
            {"role": "user", "content": [{"type": "input_text", "text": "hi"}]},
            {"role": "assistant", "content": [{"type": "output_text", "text": "ho"}]},
        ],
        HI_HO,
    ),
    "a tool's answer": ([USER, {"role": "tool", "content": "7"}, HO], (HI_HO[0], ("tool", "7"), HI_HO[1])),
}


@pytest.mark.parametrize("case", READ)
def test_messages_of_every_tool_are_read(file: Any, case: str) -> None:
    messages, turns = READ[case]
    subsets = read_subsets(file(*three(messages=messages)), "set", Columns())
    assert subsets.conversations == {name: [turns] for name in "abc"}


REFUSED: dict[str, tuple[list[Any], Mapping[str, Any], str]] = {
    "no column to part by": (
        three(**SAID),
        {"by": "kind"},
        "has no column 'kind'; its columns: set, messages",
    ),
    "nothing to part by": (three(**SAID), {"by": None}, "Name it with --by"),
    "two subsets": (three(**SAID)[:2], {}, "has 2 different values, a tribe needs at least 3 adapters"),
    "names that become one": (
        [{"set": name, **SAID} for name in ("a b", "a_b", "c")],
        {},
        "the values 'a b' and 'a_b' would both name the adapter 'a_b'; rename one",
    ),
    "an empty subset": (
        [*three(**SAID), {"set": "d", "messages": []}],
        {},
        "no assistant says anything in the subset 'd'",
    ),
    "no known column": (
        three(body="hi"),
        {},
        "has no column 'messages'; it has set, body: name the prompt with --column or --template, and "
        "--response",
    ),
    "preferences": (
        three(prompt="hi", chosen="ho", rejected="x"),
        {},
        "--column prompt --response chosen learns what was chosen",
    ),
    "messages of another kind": (three(messages="hi"), {}, "row 1 has nothing that an assistant says"),
    "no prompt": (three(r="x"), {"columns": Columns("q", "r")}, "has no column 'q'; its columns: set, r"),
    "no response": (three(q="x"), {"columns": Columns("q")}, "has no column 'response'; its columns: set, q"),
    "a response that is no text": (three(q="x", response=1), {"columns": Columns("q")}, "holds a number"),
    "a template that is none": (three(q="x", response="y"), {"columns": Columns("{q")}, "--template '{q'"),
    "rows that are no objects": ([[1], "x", 2], {}, "row 1 is a list, no object with named columns"),
    "long names": (three(**{"q" * 10_000: "x"}), {}, "name the prompt with --column"),
    "a long value": ([{"set": {"x": "y" * 10_000}, **SAID}], {}, "which must name the row's subset"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_learned_from_is_refused_with_its_place(file: Any, case: str) -> None:
    rows, changes, reason = REFUSED[case]
    path = file(*rows)
    with pytest.raises(SpartaError) as caught:
        read_subsets(path, **{"by": "set", "columns": Columns(), **changes})
    message = str(caught.value).replace(path, "rows.jsonl")
    assert reason in message
    assert "\n" not in message
    assert len(message) <= 300


def test_a_long_label_names_a_directory_that_can_be_made(file: Any, tmp_path: Path) -> None:
    rows = [{"set": name * 300, **SAID} for name in "aé漢"]
    for name in read_subsets(file(*rows), "set", Columns()).conversations:
        (tmp_path / name).mkdir()


def test_prompt_and_response_may_be_messages(file: Any) -> None:
    """A run's own preferences, and TRL's forms."""
    row = {"prompt": [{"role": "system", "content": "s"}, USER], "chosen": [HO], "rejected": [USER]}
    subsets = read_subsets(file(*three(**row)), "set", Columns("prompt", "chosen"))
    assert subsets.conversations["a"] == [(("system", "s"), *HI_HO)]
    subsets = read_subsets(file(*three(prompt=[USER], completion="ho")), "set", Columns())
    assert subsets.conversations["b"] == [HI_HO]
    subsets = read_subsets(file(*three(chosen=[USER, HO], rejected=[USER, USER])), "set", Columns("chosen"))
    assert subsets.conversations["c"] == [HI_HO]


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


def test_a_response_that_repeats_its_prompt_is_the_whole_conversation(file: Any) -> None:
    whole = [{"role": "system", "content": "be kind"}, *SAID["messages"]]
    for prompt in ("hi", SAID["messages"][:1]):
        rows = three(prompt=prompt, chosen=whole, rejected=[])
        subsets = read_subsets(file(*rows), "set", Columns("prompt", "chosen"))
        assert subsets.conversations["a"] == [(("system", "be kind"), *HI_HO)]


def test_a_prompt_and_a_response_that_do_not_repeat_each_other_are_joined(file: Any) -> None:
    rows = three(prompt="hi", chosen=[{"role": "assistant", "content": "hi"}])
    subsets = read_subsets(file(*rows), "set", Columns("prompt", "chosen"))
    assert subsets.conversations["a"] == [(("user", "hi"), ("assistant", "hi"))]


def test_a_transcript_and_its_last_answer_make_a_conversation(file: Any) -> None:
    rows = three(prompt="\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant:", completion=" d")
    said = read_subsets(file(*rows), "set", Columns()).conversations["a"]
    assert said == [(("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", " d"))]


@pytest.mark.parametrize("label", [False, "False"])
def test_a_completion_that_is_labelled_bad_is_not_learned(file: Any, label: Any) -> None:
    good, bad = three(prompt="hi", completion="ho", label=True), {"prompt": "hi", "completion": "hum"}
    subsets = read_subsets(file(*good, {"set": "a", **bad, "label": label}), "set", Columns())
    assert subsets.conversations["a"] == [HI_HO]
    assert [each.split(":")[0] for each in subsets.skipped] == ["row 4 has the label false"]
