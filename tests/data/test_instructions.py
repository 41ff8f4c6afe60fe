"""Instructions: every form of file that is taken, every fault that is named, and who gets drawn."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparta_lite.data.instructions import draw, load_instructions
from sparta_lite.errors import SpartaError


@pytest.fixture
def saved(tmp_path: Path) -> Any:
    def save(name: str, content: Any) -> str:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
        return str(path)

    return save


def lines(*rows: Any) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def refusal(path: str, column: str | None = "q", template: str | None = None) -> str:
    with pytest.raises(SpartaError) as caught:
        load_instructions(path, column, template)
    message = str(caught.value)
    assert "\n" not in message
    return message


ROWS = [{"q": "one?", "a": "1"}, {"q": "two?", "a": "2"}]


# --- forms


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("list.json", ROWS),
        ("lines.jsonl", lines(*ROWS)),
        ("lines.ndjson", lines(*ROWS)),
        ("no-last-newline.jsonl", lines(*ROWS)[:-1]),
        ("windows.jsonl", b"\xef\xbb\xbf" + lines(*ROWS).replace(b"\n", b"\r\n\r\n")),
        ("lines-called.json", lines(*ROWS)),
        ("one-split.json", {"train": ROWS}),
        ("by-id.json", {"17": ROWS[0], "4": ROWS[1]}),
        ("split-by-id.json", {"train": {"17": ROWS[0], "4": ROWS[1]}}),
        ("SHOUTED.JSON", ROWS),
        ("table.csv", b"a,q\n1,one?\n2,two?\n"),
        ("table.tsv", b"\xef\xbb\xbfq\ta\r\none?\t1\r\ntwo?\t2\r\n"),
    ],
)
def test_every_form_gives_its_texts_in_order(saved: Any, name: str, content: Any) -> None:
    loaded = load_instructions(saved(name, content), "q", None)
    assert loaded.texts == ("one?", "two?")
    assert loaded.duplicates == ()
    assert loaded.skipped == ()


@pytest.mark.parametrize("rows", [ROWS, {"x": ROWS[0], "y": ROWS[1]}])
def test_one_of_several_splits_is_named_behind_a_hash(saved: Any, rows: Any) -> None:
    path = saved("data.json", {"train": rows, "test": [{"q": "three?"}]})
    assert load_instructions(f"{path}#test", "q", None).texts == ("three?",)
    assert load_instructions(path, "q", None, split="test").texts == ("three?",)
    assert load_instructions(path, "q", None).texts == ("one?", "two?")
    assert "has no split 'dev'; it has: train, test" in refusal(f"{path}#dev")
    path = saved("other.json", {"easy": rows, "hard": [{"q": "three?"}]})
    assert "has 2 splits; choose one of easy, hard" in refusal(path)


def test_a_hash_in_a_files_own_name_is_no_split(saved: Any) -> None:
    assert load_instructions(saved("a#b.json", ROWS), "q", None).texts == ("one?", "two?")


def test_a_template_joins_columns(saved: Any) -> None:
    path = saved("data.json", [{"do": "Solve.", "input": "1+1"}, {"do": "Sing.", "input": ""}])
    loaded = load_instructions(path, None, "{do}\n{input} {{x}}")
    assert loaded.texts == ("Solve.\n1+1 {x}", "Sing.\n {x}")


def test_braces_in_the_data_stay_as_they_are(saved: Any) -> None:
    path = saved("data.json", [{"q": "What is \\frac{1}{q}?"}])
    assert load_instructions(path, None, "{q}").texts == ("What is \\frac{1}{q}?",)


def test_duplicates_are_left_out_and_counted(saved: Any) -> None:
    path = saved("data.json", [{"q": text} for text in ("b", "a", "b", "b", "a ")])
    loaded = load_instructions(path, "q", None)
    assert loaded.texts == ("b", "a", "a ")
    assert loaded.duplicates == ("row 3", "row 4")
    assert list(loaded.notices("data.json")) == ["data.json: 2 duplicate rows were left out: row 3, row 4"]


def test_bad_rows_among_good_ones_are_skipped_and_named(saved: Any) -> None:
    bad = [{"q": 7}, {"q": None}, {"q": " \n"}, {"a": "x"}, "text", {"q": "\ud800"}]
    good = [{"q": f"{number}?"} for number in range(6)]
    loaded = load_instructions(saved("data.json", [*good, *bad]), "q", None)
    assert loaded.texts == tuple(row["q"] for row in good)
    assert loaded.skipped == (
        "row 7 holds a number in column 'q', no text",
        "row 8 holds null in column 'q', no text",
        "row 9 is blank",
        "row 10 has no column 'q'",
        "row 11 is a text, no object with named columns",
        "row 12 holds half of a surrogate pair",
    )
    (notice,) = loaded.notices("data.json")
    assert notice.startswith("data.json: 6 rows were skipped: row 7 holds a number")
    assert notice.endswith("no object with named columns and 1 more")


def test_more_than_half_bad_rows_are_refused(saved: Any) -> None:
    good, bad = [{"q": "one?"}], [{"q": ""}]
    assert load_instructions(saved("half.json", good + bad), "q", None).skipped == ("row 2 is blank",)
    message = refusal(saved("most.json", good + bad + bad))
    assert "2 of 3 rows cannot be used: row 2 is blank, row 3 is blank; mend or remove them" in message


# --- faults


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("empty.json", b"", "is empty"),
        ("blank.jsonl", b" \n\n", "is empty"),
        ("no-rows.json", [], "holds no instructions"),
        ("no-rows-in-split.json", {"train": []}, "holds no instructions"),
        ("table.xlsx", b"q\none?\n", "is none of .json, .jsonl, .ndjson, .csv, .tsv, .parquet"),
        ("cut.json", b'[{"q": "one?"},\n {"q"', "line 2: not valid JSON"),
        ("cut.jsonl", lines(ROWS[0]) + b'{"q": "tw', "row 2: not valid JSON"),
        ("mixed.json", lines(ROWS[0]) + b"x\n", "row 2: not valid JSON"),
        ("latin.json", '[{"q": "é"}]'.encode("latin-1"), "line 1: is not UTF-8 (byte 8)"),
        ("one-row.json", ROWS[0], "holds an object; give a list of objects"),
        ("text.json", "one?", "holds a text; give a list of objects"),
        ("latin.csv", "q\none?\nzwölf?\n".encode("latin-1"), "line 3: is not UTF-8 (byte 9)"),
        ("strings.json", ["one?"], "row 1 is a text, no object"),
        ("missing.jsonl", lines({"a": "1"}, {"a": "2"}), "has no column 'q'; its columns: a"),
        ("near.json", [{"qq": "x"}], "did you mean 'qq'?"),
        ("number.json", [{"q": 7}], "row 1 holds a number in column 'q'"),
        ("null.json", [{"q": None}], "row 1 holds null in column 'q'"),
        ("list.json", [{"q": ["x"]}], "row 1 holds a list in column 'q'"),
        ("true.json", [{"q": True}], "row 1 holds true or false in column 'q'"),
        ("blank.json", [{"q": " \n"}], "row 1 is blank"),
        ("by-id.json", {"4": {"q": ""}}, "row '4' is blank"),
        ("surrogate.json", b'[{"q": "\\ud800"}]', "row 1 holds half of a surrogate pair"),
        ("header.csv", b"q,a\n", "holds no instructions"),
        ("ragged.csv", b"q,a\none?,1\ntwo?, or three?,2\n", "row 2 (line 3): has other columns"),
        ("short.csv", b"q,a\none?\n", "row 1 (line 2): has other columns"),
        ("quote.csv", b'q,a\n"one?,1\n', "not valid CSV"),
        ("junk.parquet", b"junk", "is no Parquet file that can be read"),
        ("wide.json", b'[{"q": ' + b"1" * 5000 + b"}]", "not valid JSON"),
        ("wide.jsonl", b'{"q": ' + b"1" * 5000 + b"}\n", "row 1: not valid JSON"),
        ("deep.json", b"[" * 200_000, "is nested too deeply"),
    ],
)
def test_a_fault_names_file_and_row(saved: Any, name: str, content: Any, said: str) -> None:
    path = saved(name, content)
    message = refusal(path)
    assert message.startswith(path)
    assert said in message


def test_files_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    assert "no such file" in refusal(str(tmp_path / "none.json"))
    assert "no such file" in refusal(str(tmp_path / "none.json#train"))
    assert str(tmp_path) in refusal(str(tmp_path))


def test_json_lines_have_no_splits(saved: Any) -> None:
    assert "has no splits; leave 'train' out" in refusal(saved("d.jsonl", lines(*ROWS)) + "#train")


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{q", "write columns as"),
        ("}", "write columns as"),
        ("Solve it.", "names no column"),
        ("{q} {x}", "has no column 'x'"),
        ("{}", "names no column"),
    ],
)
def test_a_template_that_cannot_be_filled_is_refused(saved: Any, template: str, said: str) -> None:
    assert said in refusal(saved("data.json", ROWS), None, template)


# --- which of them an iteration uses


@given(st.integers(1, 40), st.integers(1, 60), st.integers(0, 5), st.integers(1, 5))
def test_nothing_returns_before_everything_was_used(
    size: int, count: int, seed: int, iterations: int
) -> None:
    drawn = [index for number in range(iterations) for index in draw(size, count, seed, number)]
    assert len(drawn) == count * iterations
    for start in range(0, len(drawn), size):
        one_pass = drawn[start : start + size]
        assert max(Counter(one_pass).values()) == 1
        assert set(one_pass) <= set(range(size))


def test_a_draw_depends_on_nothing_but_its_place_and_the_seed() -> None:
    assert draw(50, 20, 1, 2) == draw(50, 20, 1, 2)
    assert draw(50, 20, 1, 2) != draw(50, 20, 2, 2)
    # three iterations of 20 walk the same way as two of 30
    in_twenties = [index for number in range(3) for index in draw(50, 20, 1, number)]
    in_thirties = [index for number in range(2) for index in draw(50, 30, 1, number)]
    assert in_twenties == in_thirties


def test_passes_are_shuffled_anew() -> None:
    passes = [draw(100, 100, 0, number) for number in range(3)]
    assert len({tuple(each) for each in passes}) == 3
    assert list(range(100)) not in passes
