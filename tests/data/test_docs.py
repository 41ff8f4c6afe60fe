"""docs/data.md: every row of its tables is what happens."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sparta_lite.data.conversations import Columns, read_subsets
from sparta_lite.data.instructions import load_instructions
from sparta_lite.errors import SpartaError

PAGE = Path(__file__).parents[2] / "docs" / "data.md"


def table(section: str) -> list[list[str]]:
    """The cells of the section's table, bare of the marks of code."""
    text = PAGE.read_text(encoding="utf-8").partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    lines = [line for line in text.splitlines() if line.startswith("| ")][2:]
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]


def bare(cell: str) -> str:
    return cell.strip("`").replace("⏎", "\n")


def outcome(cell: str) -> tuple[str, str]:
    """What a cell promises: ``read``, ``skipped`` or ``refused``, and the text or reason."""
    how, colon, said = cell.partition(": `")
    return (how, bare(said)) if colon else ("read", bare(cell))


FILES = table("Files")
INSTRUCTIONS = table("Instructions")
CONVERSATIONS = table("Conversations to forge from")


def test_the_tables_are_found() -> None:
    assert len(FILES) >= 12
    assert len(INSTRUCTIONS) >= 35
    assert len(CONVERSATIONS) >= 14
    assert all(len(row) == 3 for row in FILES)
    assert all(len(row) == 4 for row in [*INSTRUCTIONS, *CONVERSATIONS])


@pytest.mark.parametrize("row", FILES, ids=lambda row: row[0])
def test_files(row: list[str], tmp_path: Path) -> None:
    path = tmp_path / bare(row[1])
    path.write_text(bare(row[2]), encoding="utf-8")
    loaded = load_instructions(str(path), "q", None)
    assert (loaded.texts, loaded.skipped) == (("one?", "two?"), ())


@pytest.mark.parametrize("row", INSTRUCTIONS, ids=lambda row: row[1][:60])
def test_instructions(row: list[str], tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(bare(row[1]) + "\n", encoding="utf-8")
    name, _, value = bare(row[2]).partition(": ")
    settings = {name.removeprefix("data."): value.replace("\\n", "\n")} if name else {}
    how, said = outcome(row[3])
    if how == "read":
        loaded = load_instructions(str(path), settings.get("column"), settings.get("template"))
        assert (loaded.texts, loaded.skipped) == ((said,), ())
        return
    with pytest.raises(SpartaError) as caught:
        load_instructions(str(path), settings.get("column"), settings.get("template"))
    assert said in str(caught.value)
    assert ("1 of 1 rows cannot be used: row 1 " in str(caught.value)) == (how == "skipped")


@pytest.mark.parametrize("row", CONVERSATIONS, ids=lambda row: row[1][:60])
def test_conversations(row: list[str], tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    rows = [json.dumps({"set": name, **json.loads(bare(row[1]))}) for name in "abc"]
    path.write_text("\n".join(rows), encoding="utf-8")
    words = bare(row[2]).split()
    options = dict(zip(words[::2], words[1::2], strict=True))
    columns = Columns(
        options.get("--column", options.get("--template")), options.get("--response", Columns.response)
    )
    how, said = outcome(row[3])
    if how == "read":
        found = read_subsets(str(path), "set", columns)
        turns = tuple(tuple(turn.split(": ")) for turn in said.split(", "))
        assert (found.conversations, found.skipped) == ({name: [turns] for name in "abc"}, ())
        return
    with pytest.raises(SpartaError) as caught:
        read_subsets(str(path), "set", columns)
    assert said in str(caught.value)
    assert ("3 of 3 rows cannot be used: row 1 " in str(caught.value)) == (how == "skipped")
