"""Instructions: every form of file that is taken, every fault that is named, and who gets drawn."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from datetime import datetime
from pathlib import Path
from typing import Any

import datasets
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparta_lite.data.instructions import draw, load_instructions
from sparta_lite.errors import SpartaError


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
        ("mixed-ends.csv", b"a,q\r\n1,one?\n2,two?\r"),
        ("mixed-ends.jsonl", lines(ROWS[0])[:-1] + b"\r" + lines(ROWS[1])[:-1] + b"\r\n"),
        ("pretty.json", b'{\n "q": "one?"\n}\n{\n "q": "two?"\n}\n'),
        ("a-list.jsonl", json.dumps(ROWS).encode()),
        ("packed.csv.gz", gzip.compress(b"a,q\n1,one?\n2,two?\n", mtime=0)),
        ("columns.json", {"q": ["one?", "two?"], "a": [None, "2"]}),
        ("columns-in-split.json", {"train": {"q": ["one?", "two?"]}, "test": {"q": ["three?"]}}),
        ("labels-in-split.json", {"train": {"q": {"0": "one?", "1": "two?"}, "a": {"0": 1, "1": 2}}}),
        ("beside.json", {"info": {"by": "us"}, "licence": None, "questions": ROWS}),
        ("beside-splits.json", {"version": 2, "train": ROWS, "test": [{"q": "three?"}]}),
        ("inside.json", {"data": {"train": ROWS, "test": []}}),
        ("columns-inside.json", {"rows": {"q": ["one?", "two?"]}, "count": 2}),
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


def test_a_template_takes_numbers_lists_of_choices_and_parts_of_columns(saved: Any) -> None:
    row = {
        "n": 7,
        "f": 0.5,
        "yes": True,
        "choices": ["x", "y"],
        "meta": {"a b": [{"t": "deep"}]},
        "a.b": "dot",
    }
    path = saved("data.json", [row])
    for template, text in {
        "{n} {f} {yes}": "7 0.5 true",
        "Which?\n{choices}": "Which?\nA. x\nB. y",
        "{choices[1]}": "y",
        "{meta.a b[0].t}": "deep",
        "{meta[a b][0][t]}": "deep",
        "{a.b}": "dot",
    }.items():
        assert load_instructions(path, None, template).texts == (text,)
    assert load_instructions(path, "meta[a b][0][t]", None).texts == ("deep",)


def test_null_and_absent_columns_of_a_template_are_empty(saved: Any) -> None:
    some = {"do": "Solve.", "input": "1+1"}
    rows = [some, {"do": "Sing.", "input": None}, {"do": "Hum."}, {"input": " "}]
    loaded = load_instructions(saved("data.json", rows), None, "{do}\n{input}")
    assert loaded.texts == ("Solve.\n1+1", "Sing.\n", "Hum.\n")
    assert loaded.skipped == ("row 4 is blank",)


def test_parquet_gives_a_template_its_dates_and_no_nan(tmp_path: Path) -> None:
    columns = {"d": [datetime(2024, 1, 5), None], "x": [float("nan"), 2.5], "q": ["a", "b"]}
    datasets.Dataset.from_dict(columns).to_parquet(tmp_path / "rows.parquet")
    loaded = load_instructions(str(tmp_path / "rows.parquet"), None, "{q} {d} {x}")
    assert loaded.texts == ("a 2024-01-05 00:00:00 ", "b  2.5")
    assert "holds a datetime in column 'd', no text" in refusal(str(tmp_path / "rows.parquet"), "d")


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
        ("quoted.tsv", b'q\ta\none?\t1\n"two" he said?\t2\n', "line 3: not valid CSV"),
        ("junk.parquet", b"junk", "is no Parquet file that can be read"),
        ("wide.json", b'[{"q": ' + b"1" * 5000 + b"}]", "not valid JSON"),
        ("wide.jsonl", b'{"q": ' + b"1" * 5000 + b"}\n", "row 1: not valid JSON"),
        ("deep.json", b"[" * 200_000, "is nested too deeply"),
        ("deep.jsonl", b'{"q":' + b"[" * 200_000, "row 1: is nested too deeply"),
        ("twice.json", b'[{"q": "a", "q": "b"}]', "the key 'q' stands twice in one object"),
        (
            "twice.jsonl",
            b'{"q": "a"}\n{"q": {"x": 1, "x": 2}}',
            "row 2: not valid JSON (the key 'x' stands twice",
        ),
        ("same-id.json", b'{"1": {"q": "a"}, "1": {"q": "b"}}', "the key '1' stands twice"),
        ("comma.jsonl", b'{"q": "a"},\n{"q": "b"},\n', "row 1: ends in a comma; write one object a line"),
        ("comma.json", b'[{"q": "a"},]', "line 1: not valid JSON"),
        ("lengths.json", {"q": ["a", "b"], "a": ["c"]}, "its columns have different lengths (q 2, a 1)"),
        (
            "width.json",
            {"columns": ["q", "a"], "data": [["x", "y"], ["z"]]},
            "row 2: has 1 values for 2 columns",
        ),
        ("same.csv", b"q,q\na,b\n", "has two columns called 'q'; rename one"),
        ("semicolons.csv", b"q;a\none?;1\n", "columns seem to be separated by ';'; save it with commas"),
        ("cut.jsonl.gz", gzip.compress(lines(*ROWS), mtime=0)[:-9], "cannot be unpacked"),
        ("blank.csv", b"q,a\n ,1\n", "row 1 is blank"),
        ("long-column.json", [{"x" * 10_000: 1}], "its columns: xxx"),
        ("long-role.json", [{"q": [{"role": "x" * 10_000, "content": "a"}]}], "has the role 'xxx"),
    ],
)
def test_a_fault_names_file_and_row(saved: Any, name: str, content: Any, said: str) -> None:
    path = saved(name, content)
    message = refusal(path)
    assert message.startswith(path)
    assert said in message
    assert len(message.removeprefix(path)) <= 290


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
