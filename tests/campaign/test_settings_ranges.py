"""Every setting says what it takes, and refuses the rest in one plain line."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pydantic.fields import FieldInfo

import sparta_lite.campaign.settings
from sparta_lite.campaign.config import load_config
from sparta_lite.campaign.faults import section
from sparta_lite.campaign.settings import Config
from sparta_lite.campaign.settings.ranges import allowed, longest, range_of
from sparta_lite.campaign.yaml_text import Loader, parse_yaml
from sparta_lite.errors import SpartaError

TABLE = Path(sparta_lite.campaign.settings.__file__).resolve().parents[3] / "docs" / "settings.md"
OWN_CHECK = {"tribe.size", "tribe.adapters"}  # their range stands in their description


def settings() -> dict[str, FieldInfo]:
    found = {}
    for name, field in Config.model_fields.items():
        kind = section(name)
        found |= (
            {f"{name}.{part}": inner for part, inner in kind.model_fields.items()} if kind else {name: field}
        )
    return found


SETTINGS = settings()
NUMBERS = [key for key, field in SETTINGS.items() if range_of(field) is not None]


def refusal(key: str, value: Any) -> str:
    with pytest.raises(SpartaError) as refused:
        load_config(None, [f"{key}={value}"])
    message = str(refused.value)
    assert len(message) <= 300
    assert "Input should" not in message
    return message


def test_every_number_has_a_range_and_every_text_a_longest() -> None:
    for key, field in SETTINGS.items():
        says = allowed(field)
        if key not in OWN_CHECK and "number" in says:
            assert key in NUMBERS
            limits = range_of(field)
            assert limits is not None
            assert math.isfinite(limits.low)
            assert limits.high <= 2**63 - 1
        if says.startswith("text of"):
            assert longest(field)


@pytest.mark.parametrize("key", NUMBERS)
def test_a_number_is_taken_up_to_its_ends_and_refused_beyond(key: str) -> None:
    field = SETTINGS[key]
    limits = range_of(field)
    assert limits is not None
    room = [] if key == "training.max_length" else ["training.max_length=1000000"]
    for value in (limits.low, limits.high):
        if (key, value) in (("training.max_length", limits.low), ("training.max_prompt", limits.high)):
            continue  # an answer needs room
        assert load_config(None, [*room, f"{key}={value}"]).at(key) == value
    for wrong in (
        limits.high * 2 + 1,
        -1 if limits.low >= 0 else limits.low * 2,
        "1" * 41,
        "-" + "9" * 90,
        "1e400",
    ):
        assert f"it should be {allowed(field)}" in refusal(key, wrong)
    for wrong in (".inf", "-.inf", ".nan", "x", "'1'", "[1]", "{a: 1}", "2024-01-01", "yes"):
        assert f"it should be {allowed(field)}" in refusal(key, wrong)
    assert f"{limits}" in refusal(key, "x")


@pytest.mark.parametrize("key", [key for key in SETTINGS if key not in NUMBERS])
def test_what_is_no_number_refuses_other_kinds(key: str, tmp_path: Path) -> None:
    start, _, name = key.rpartition(".")
    for wrong in (7, 2.5, [[1]], {1: 2}, {"a": [None]}, "9" * 10_000, float("inf"), 10**50):
        if (key, wrong) == ("tribe.size", 7) or (
            isinstance(wrong, str) and (longest(SETTINGS[key]) or 0) > len(wrong)
        ):
            continue
        path = tmp_path / "config.yaml"
        path.write_text(yaml.safe_dump({start: {name: wrong}} if start else {name: wrong}))
        with pytest.raises(SpartaError) as refused:
            load_config(path)
        assert key in str(refused.value)
        assert len(str(refused.value)) <= 300


@pytest.mark.parametrize(
    ("sets", "said"),
    [
        ("training.batch=1" + "0" * 40, "it should be a whole number from 1 to 1,000,000"),
        ("training.batch=1" + "0" * 5000, "a number of 5,001 digits; give one that can be meant"),
        (
            "training.epochs=1000000",
            "training.epochs is 1000000; it should be a whole number from 1 to 1,000",
        ),
        ("reputation.virtual_duels=1e308", "it should be a number from 0.01 to 1e6"),
        ("reputation.prior={a: 1e308}", "reputation.prior.a is 1e+308; it should be"),
        (
            "generation.temperature=0.001",
            "generation.temperature is 0.001; give 0 for greedy, or at least 0.01",
        ),
        ("tribe.adapters=fresh-99999999999999999999", "give fresh-3 to fresh-1000"),
        ("tribe.size=100000", "tribe.size is 100000; two fight and at least one judges, so give 3 to 1,000"),
        ("vram=" + "9" * 900 + "GB", "give a size such as 24GB"),
        ("vram=1e9GB", "give a size such as 24GB"),
        ("duels=010", "010 is 8 to YAML; write that number, or put it in quotation marks"),
        ("duels=1:30", "1:30 is 90 to YAML; write that number"),
        ("duels=!!int 5", "the tag 'tag:yaml.org,2002:int' is not read; write the value without it"),
        ("x" * 5000 + "=1", "is unknown; did you mean"),
        ("x" * 5000, "give key=value"),
        ("a" + ".a" * 5000 + "=1", "give key=value"),
        ("trackers=[wandb, wandb]", "trackers names 'wandb' twice; name each once"),
    ],
)
def test_what_cannot_be_meant_is_refused_by_its_limit(sets: str, said: str) -> None:
    with pytest.raises(SpartaError) as refused:
        load_config(None, [sets])
    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("data: {path: x.jsonl, column: no}", "data.column is false; it should be text in quotation marks"),
        (
            "data: {path: x.jsonl, column: 2024-01-01}",
            "data.column is 2024-01-01; it should be text in quotation marks",
        ),
        ("tribe: {adapters: {yes: a, no: b, on: c}}", "in quotation marks where they are no words"),
        ("data: {subset: 007}", "007 is 7 to YAML"),
        ("a: &a [*a]", "line 1, column 8: not valid YAML: a refers to itself; write out what is meant"),
        ("a: &a {b: *a}", "a refers to itself"),
        ("a: &a {<<: *a}", "a refers to itself"),
        ("? [1]\n: x\n? {b: 1}\n: y", "not valid YAML: found unhashable key"),
        ("seed: =", "not valid YAML"),
        ("[" * 60 + "]" * 60, "nested more than 50 deep"),
        ("{a: " * 60 + "}" * 60, "nested more than 50 deep"),
        ("--- 1\n--- 2", "found another document"),
        ("training: [1]", "training is [1]; it should be a mapping of its settings"),
        ("null: 1", "None is unknown"),
    ],
)
def test_what_yaml_makes_of_it_is_no_surprise(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(SpartaError) as refused:
        load_config(tmp_path / "c.yaml")
    assert said in str(refused.value)
    assert len(str(refused.value)) <= 300


def test_aliases_are_read_but_may_not_unfold_beyond_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    three_times = "a: &a [1, 2]\nb: &b [*a, *a, *a]\nc: [*b, *b, *b]\n"
    unfolded = parse_yaml(three_times, "here")
    assert unfolded["c"] == [[[1, 2]] * 3] * 3
    # The mapping, its three keys, 3 values in a, 10 in b, 31 in c.
    monkeypatch.setattr(Loader, "most_values", 48)
    assert parse_yaml(three_times, "here") == unfolded
    monkeypatch.setattr(Loader, "most_values", 47)
    with pytest.raises(SpartaError, match="holds more than 47 values; give fewer"):
        parse_yaml(three_times, "here")


def test_a_file_that_cannot_be_settings_is_not_read_whole(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_bytes(b"#" * 1_000_001)
    with pytest.raises(SpartaError, match="larger than 1,000,000 bytes"):
        load_config(tmp_path / "c.yaml")


@hypothesis_settings(max_examples=60)
@given(st.text(max_size=30))
def test_any_text_after_set_is_taken_or_refused_in_one_line(text: str) -> None:
    said = ""
    try:
        load_config(None, [f"training.batch={text}"])
    except SpartaError as error:
        said = str(error)
    assert len(said) <= 300


def test_the_table_in_the_docs_is_the_settings() -> None:
    lines = [
        "# All settings",
        "",
        "What `sparta-lite run --show-config` prints, as a table. The defaults are those without a preset: "
        "`base: pocket` lays `sparta_lite/pocket/pocket.yaml` over them.",
        "",
        "| setting | default | takes | meaning |",
        "| --- | --- | --- | --- |",
    ]
    for key, field in SETTINGS.items():
        default = yaml.safe_dump(field.get_default(call_default_factory=True), default_flow_style=True)
        default = default.replace("\n...\n", "").strip()
        cells = (f"`{key}`", f"`{default}`", allowed(field), field.description or "")
        lines.append(f"| {' | '.join(cell.replace('|', ' or ') for cell in cells)} |")
    text = "\n".join(lines) + "\n"
    if os.environ.get("SPARTA_WRITE_DOCS"):
        TABLE.write_text(text, encoding="utf-8")
    assert TABLE.read_text(encoding="utf-8") == text, "SPARTA_WRITE_DOCS=1 pytest on this file writes it anew"
