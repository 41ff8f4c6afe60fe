"""One file gives one and the same rows: alone, in a directory, and as a hub dataset."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import datasets
import pandas
import pytest

from sparta_lite.data.rows import read_rows
from sparta_lite.errors import SpartaError


def lines(*values: Any) -> str:
    return "".join(json.dumps({"q": value}) + "\n" for value in values)


CONTENTS = {
    "texts of numbers beside a number.jsonl": (lines("1", "007", 2), ["1", "007", 2]),
    "null as a text.jsonl": (lines("null", 2, None), ["null", 2, None]),
    "dates alone.jsonl": (lines("2024-01-01", "2024-02-01"), ["2024-01-01", "2024-02-01"]),
    "times alone.json": (json.dumps([{"q": "2024-01-01T10:00:00Z"}]), ["2024-01-01T10:00:00Z"]),
    "whole numbers beside others.jsonl": (lines(1, 2.5), [1, 2.5]),
    "a text beside an object.jsonl": (lines("x", {"a": 1}, [2]), ["x", {"a": 1}, [2]]),
    "a list in lines' name.jsonl": (json.dumps([{"q": "a"}, {"q": "b"}]), ["a", "b"]),
    "by id.json": (json.dumps({"7": {"q": "a"}, "2": {"q": "b"}}), ["a", "b"]),
    "by split.json": (json.dumps({"train": [{"q": "a"}], "test": [{"q": "b"}]}), ["a"]),
    "by column.json": (json.dumps({"q": ["a", "b"], "n": [1, 2]}), ["a", "b"]),
    "cells.csv": ("q,n\n007,1\nNone,2\nNA,3\n1.50,4\n", ["007", "None", "NA", "1.50"]),
    "tabs.tsv": ("q\tn\n007\t1\nTrue\t2\n", ["007", "True"]),
    "a long cell.csv": (f"q,n\n{'x' * 150_000},1\n", ["x" * 150_000]),
    "packed.jsonl.gz": (lines("1", 2), ["1", 2]),
}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """The id of a hub dataset that is the folder ``data``, found and read by the library itself."""
    for name in ("load_dataset", "load_dataset_builder"):
        real = getattr(datasets, name)

        def asked(path: str, name: str | None = None, real: Any = real) -> Any:
            return real(str(tmp_path / "data") if path == "owner/name" else path, name=name)

        monkeypatch.setattr(datasets, name, asked)
    return "owner/name"


@pytest.mark.parametrize("name", CONTENTS)
def test_a_file_alone_in_a_directory_and_on_the_hub_reads_alike(name: str, hub: str, tmp_path: Path) -> None:
    content, expected = CONTENTS[name]
    file = tmp_path / "data" / f"file{''.join(Path(name).suffixes)}"
    file.parent.mkdir()
    file.write_bytes(gzip.compress(content.encode()) if name.endswith(".gz") else content.encode())
    for path in (str(file), str(file.parent), hub):
        rows = read_rows(path)
        assert [row.value["q"] for row in rows] == expected
        assert [type(row.value["q"]) for row in rows] == [type(value) for value in expected]
    assert [row.place for row in read_rows(str(file))] == [row.place for row in read_rows(hub)]


def test_a_directory_of_several_files_names_them_in_its_rows(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(lines("x", 1))
    (tmp_path / "b.jsonl").write_text(lines("y"))
    assert [(row.place, row.value["q"]) for row in read_rows(str(tmp_path))] == [
        ("a.jsonl row 1", "x"),
        ("a.jsonl row 2", 1),
        ("b.jsonl row 1", "y"),
    ]


def test_a_file_with_splits_of_its_own_is_not_lost_among_others(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps({"easy": [{"q": "x"}], "hard": [{"q": "y"}]}))
    assert [row.value["q"] for row in read_rows(str(tmp_path), split="hard")] == ["y"]
    (tmp_path / "b.json").write_text("[]")
    with pytest.raises(SpartaError, match=r"has splits of its own \(easy, hard\); give that file itself"):
        read_rows(str(tmp_path))


def test_no_form_in_a_directory_is_left_out_in_silence(tmp_path: Path) -> None:
    """The library takes the most frequent form alone."""
    (tmp_path / "a.jsonl").write_text(lines("x"))
    for name in ("b.csv", "c.csv"):
        (tmp_path / name).write_text("q\ny\n")
    with pytest.raises(
        SpartaError, match=r"'a.jsonl' would be left out beside 'b.csv'; give a directory of one"
    ):
        read_rows(str(tmp_path))
    (tmp_path / "README.md").write_text("---\nconfigs:\n- config_name: x\n  data_files: a.jsonl\n---\n")
    assert [row.value["q"] for row in read_rows(str(tmp_path))] == ["x"]


def test_settings_of_a_dataset_that_only_the_library_knows_are_its_own(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("one;two\n")
    (tmp_path / "README.md").write_text(
        "---\nconfigs:\n- config_name: x\n  data_files: a.csv\n  sep: ';'\n  names: [q, n]\n---\n"
    )
    assert [row.value for row in read_rows(str(tmp_path))] == [{"q": "one", "n": "two"}]


def test_what_pandas_writes_is_read(tmp_path: Path) -> None:
    frame = pandas.DataFrame({"q": ["a", 'b,\n"c"', "d"], "n": [1, 2, 3]}).query("n != 1")
    for orient in ("records", "columns", "index", "split", "table"):
        path = tmp_path / f"{orient}.json"
        frame.to_json(path, orient=orient)
        assert [row.value["q"] for row in read_rows(str(path))] == ['b,\n"c"', "d"], orient
        assert [row.value["n"] for row in read_rows(str(path))] == [2, 3]
    for name, how in {"rows.jsonl": "to_json", "rows.csv": "to_csv", "rows.tsv": "to_csv"}.items():
        more: dict[str, Any] = {"sep": "\t"} if name.endswith("v") and name.startswith("rows.t") else {}
        if how == "to_json":
            more = {"orient": "records", "lines": True}
        getattr(frame, how)(tmp_path / name, **more)
        assert [row.value["q"] for row in read_rows(str(tmp_path / name))] == ['b,\n"c"', "d"], name


def test_what_datasets_writes_is_read(tmp_path: Path) -> None:
    chat = [[{"role": "user", "content": "hi"}], [{"role": "user", "content": "ho"}]]
    table = datasets.Dataset.from_dict({"q": ["a", None], "chat": chat})
    table.to_parquet(tmp_path / "odd[1]*.parquet")
    table.to_json(tmp_path / "lines.jsonl")
    table.to_json(tmp_path / "list.json", lines=False)
    table.save_to_disk(tmp_path / "saved")
    datasets.DatasetDict({"train": table, "test": table.select([1])}).save_to_disk(tmp_path / "splits")
    (tmp_path / "dict.json").write_text(json.dumps(table.to_dict()))
    for name in ("odd[1]*.parquet", "lines.jsonl", "list.json", "saved", "splits", "dict.json"):
        rows = [row.value for row in read_rows(str(tmp_path / name))]
        assert rows == [{"q": q, "chat": messages} for q, messages in zip(["a", None], chat, strict=True)], (
            name
        )
    assert [row.value["q"] for row in read_rows(str(tmp_path / "splits"), split="test")] == [None]
