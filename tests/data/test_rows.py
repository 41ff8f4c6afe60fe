"""Rows from tables, directories and the hub; which of them a filter keeps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparta_lite.data.filters import keep
from sparta_lite.data.row import Row
from sparta_lite.data.rows import is_hub_id, read_rows
from sparta_lite.errors import SpartaError

TABLE = {"q": ["one?", "two?", "three?"], "level": ["1", "2", "2"], "n": [1, 2, None]}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str | None]]:
    """A hub with one dataset; returns what is asked of it."""
    asked = []

    def load_dataset(path: str, name: str | None = None) -> Any:
        asked.append((path, name))
        rows = datasets.Dataset.from_dict(TABLE)
        return datasets.DatasetDict({"train": rows, "test": rows.select([2])})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return asked


def refusal(path: str, **how: str) -> str:
    with pytest.raises(SpartaError) as caught:
        read_rows(path, **how)
    message = str(caught.value)
    assert message.startswith(path.partition("#")[0])
    assert "\n" not in message
    return message


def questions(rows: list[Row]) -> list[str]:
    return [row.value["q"] for row in rows]


# --- tables


def test_parquet_gives_its_rows_in_order(tmp_path: Path) -> None:
    path = tmp_path / "table.parquet"
    datasets.Dataset.from_dict(TABLE).to_parquet(path)
    rows = read_rows(str(path))
    assert [row.place for row in rows] == ["row 1", "row 2", "row 3"]
    assert [row.value for row in rows] == [
        {"q": q, "level": level, "n": n} for q, level, n in zip(*TABLE.values(), strict=True)
    ]


def test_csv_cells_stay_the_texts_that_they_are(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text('q,a\n007,None\n"a ""quoted"", one\nof two lines",NA\n')
    assert [row.value for row in read_rows(str(path))] == [
        {"q": "007", "a": "None"},
        {"q": 'a "quoted", one\nof two lines', "a": "NA"},
    ]


def test_a_directory_of_files_is_read_like_a_hub_dataset(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text('{"q": "one?"}\n{"q": "two?"}\n')
    (tmp_path / "test.jsonl").write_text('{"q": "three?"}\n')
    assert questions(read_rows(str(tmp_path))) == ["one?", "two?"]
    assert questions(read_rows(str(tmp_path), split="test")) == ["three?"]
    assert "has no split 'dev'; it has: train, test" in refusal(str(tmp_path), split="dev")
    assert "needs another subset" in refusal(str(tmp_path), subset="french")


def test_code_and_pickles_in_a_directory_are_not_run(tmp_path: Path) -> None:
    (tmp_path / "data.pkl").write_bytes(b"cbuiltins\nexit\n(tR.")
    assert "cannot be read" in refusal(str(tmp_path))
    (tmp_path / f"{tmp_path.name}.py").write_text("raise SystemExit('was run')")
    assert "comes as a program, which is never run" in refusal(str(tmp_path))


# --- the hub


def test_a_hub_dataset_is_read_by_subset_and_split(hub: list[tuple[str, str | None]]) -> None:
    assert questions(read_rows("openai/gsm8k", "main")) == TABLE["q"]
    assert questions(read_rows("openai/gsm8k", split="test")) == ["three?"]
    assert questions(read_rows("openai/gsm8k#test")) == ["three?"]
    assert questions(read_rows("openai/gsm8k", condition="level=2 and n!=2")) == ["three?"]
    assert hub == [("openai/gsm8k", name) for name in ("main", None, None, None)]
    assert "has no split 'dev'; it has: train, test" in refusal("openai/gsm8k", split="dev")


def test_a_hub_out_of_reach_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert "the dataset hub cannot be reached" in refusal("openai/gsm8k", subset="main")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            datasets.exceptions.DatasetNotFoundError("Dataset 'a/b' doesn't exist"),
            "no such dataset on the hub",
        ),
        (RuntimeError("Dataset scripts are no longer supported,\nbut found b.py"), "never run"),
        (ValueError("Config name is missing.\nPlease pick one: ['main']"), "needs another subset"),
        (
            datasets.exceptions.DatasetGenerationError("An error\noccurred"),
            "cannot be read (An error occurred)",
        ),
        (TimeoutError(), "cannot be reached"),
    ],
)
def test_what_goes_wrong_with_a_hub_dataset_is_one_line(
    monkeypatch: pytest.MonkeyPatch, error: Exception, said: str
) -> None:
    def load_dataset(path: str, name: str | None = None) -> Any:
        raise error

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setattr(datasets, "load_dataset_builder", load_dataset)
    assert said in refusal("a/b")


def test_a_path_is_no_hub_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert is_hub_id("openai/gsm8k")
    (tmp_path / "openai").mkdir()
    (tmp_path / "openai" / "gsm8k").mkdir()
    assert not is_hub_id("openai/gsm8k")
    assert not is_hub_id("data/train.json")
    assert not is_hub_id("/data/train")
    assert not is_hub_id("../data")
    assert "no such file" in refusal("data/train.json")
    assert "has no subsets" in refusal("data/train.json", subset="main")


# --- filters


ROWS = [
    Row("row 1", {"lang": "en", "n": 3, "ok": True, "topic": "rock and roll"}),
    Row("row 2", {"lang": "fr", "n": 3.5, "ok": None, "topic": "a=b"}),
    Row("row 3", {"lang": "", "n": 4}),
]


@pytest.mark.parametrize(
    ("condition", "kept"),
    [
        ("lang=en", [1]),
        (" lang != en ", [2, 3]),
        ("lang=", [3]),
        ("n=3", [1]),
        ("n=3.5", [2]),
        ("ok=true", [1]),
        ("ok=null", [2, 3]),
        ("topic=rock and roll", [1]),
        ("topic=rock and roll and n!=4", [1]),
        ("topic=a=b", [2]),
        ("lang!=en and n!=4", [2]),
    ],
)
def test_a_filter_keeps_equal_texts(condition: str, kept: list[int]) -> None:
    assert [ROWS.index(row) + 1 for row in keep(ROWS, condition, "x.json")] == kept


@pytest.mark.parametrize(
    ("condition", "said"),
    [
        ("lang", "give column=value"),
        ("=en", "give column=value"),
        ("", "give column=value"),
        ("language=en", "has no column 'language'; its columns: lang, n, ok, topic"),
        ("lang=de", "keeps none of the 3 rows of x.json"),
        (f"lang={'de' * 5000}", "keeps none of the 3 rows of x.json"),
        (f"{'lang' * 2500}=de", "has no column 'langlang"),
    ],
)
def test_a_filter_that_cannot_work_is_refused(condition: str, said: str) -> None:
    with pytest.raises(SpartaError) as caught:
        keep(ROWS, condition, "x.json")
    assert said in str(caught.value)
    assert len(str(caught.value)) <= 300


def test_a_filter_looks_at_lists_objects_and_numbers_as_json_writes_them() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    rows = [Row(f"row {n}", {"c": value}) for n, value in enumerate([["a"], {"b": 1}, 2.0, deep, "é"])]
    for condition, place in {'c=["a"]': 0, 'c={"b": 1}': 1, "c=2.0": 2, "c=é": 4}.items():
        assert keep(rows, condition, "x") == [rows[place]]


def test_values_of_ten_thousand_characters_do_not_come_back_whole(tmp_path: Path) -> None:
    path = tmp_path / "long.json"
    path.write_text(json.dumps({name * 2500: [{"q" * 10_000: 1}] for name in ("easy", "hard")}))
    assert len(refusal(str(path))) <= 300 + len(str(path))
    assert len(refusal(f"{path}#{'x' * 10_000}")) <= 300 + len(str(path))


@given(st.lists(st.text(alphabet="ab =!and", max_size=12).map(str.strip), min_size=1), st.integers(0, 99))
def test_every_row_is_either_equal_or_not(values: list[str], chosen: int) -> None:
    value = values[chosen % len(values)]
    if " and " in value:
        return
    rows = [Row(str(number), {"c": each}) for number, each in enumerate(values)]
    equal = keep(rows, f"c={value}", "x")
    assert [row for row in rows if row.value["c"] == value] == equal
    if len(equal) < len(rows):
        others = keep(rows, f"c!={value}", "x")
        assert sorted(row.place for row in equal + others) == sorted(row.place for row in rows)
