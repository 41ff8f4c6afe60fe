"""Whether judges would have begun their verdicts by themselves: recorded, warned of, and able to decide."""

from __future__ import annotations

import json
import math
from pathlib import Path
from statistics import median_low
from typing import Any

import pytest

from sparta_lite.campaign.config import load_config
from sparta_lite.campaign.events import Event, Warned
from sparta_lite.campaign.loop import run
from sparta_lite.campaign.records import JUDGMENTS, Judgment
from sparta_lite.campaign.reluctance import HARDLY_EVER, median_prefix, reluctance
from sparta_lite.campaign.settings import Judge
from sparta_lite.files import read_lines


def judgments(out: Path) -> list[dict[str, Any]]:
    return [row for path in sorted(out.glob("*/judgments.jsonl")) for row in read_lines(path)]


def warnings(out: Path) -> list[str]:
    return [row["message"] for row in read_lines(out / "events.jsonl") if row["event"] == "Warned"]


def test_a_run_says_after_its_first_iteration_and_at_its_end_that_judges_would_not_speak(
    finished: Path,
) -> None:
    said = [text for text in warnings(finished) if "hardly ever give a score themselves" in text]
    assert [text.startswith("iteration 1: ") for text in said] == [True, False]
    first = [row for row in judgments(finished) if row["duel"] < 10][: len(judgments(finished)) // 2]
    for rows, text in zip((first, judgments(finished)), said, strict=True):
        middle = math.exp(median_low(value for row in rows for value in row["prefix"]))
        assert f"median probability of {middle:.0e};" in text
        assert len(text) <= 300


def test_a_threshold_makes_such_judges_fail_unless_they_are_forced(tiny_config: Path, tmp_path: Path) -> None:
    once = ["iterations=1", "duels=4", "evaluation.items=0"]
    told: list[Event] = []
    strict = tmp_path / "strict"
    run(load_config(tiny_config, [*once, "judge.minimum_prefix=0.5"]), strict, False, told.append)
    rows = judgments(strict)
    assert all(row["scores"] == [None, None] and row["failures"] == ["no verdict"] * 2 for row in rows)
    assert all(max(row["prefix"]) < math.log(0.5) for row in rows)
    assert (strict / "iteration-00" / "preferences.jsonl").read_text() == ""
    messages = [event.message for event in told if isinstance(event, Warned)]
    lost = (
        f"{len(rows)} of {len(rows)} votes were not cast, for a judgment failed (no verdict {2 * len(rows)})"
    )
    assert any(lost in text for text in messages)

    for name, sets in (
        ("open", []),
        ("forced", ["judge.forced=true", "judge.minimum_prefix=0.5"]),
        ("cold", ["judge.temperature=0.3"]),
    ):
        run(load_config(tiny_config, [*once, *sets]), tmp_path / name, False, lambda event: None)
    free = judgments(tmp_path / "open")
    assert judgments(tmp_path / "forced") == free
    assert not any("themselves" in text for text in warnings(tmp_path / "forced"))
    assert [row["prefix"] for row in free] == [row["prefix"] for row in rows]
    cold = judgments(tmp_path / "cold")
    assert [row["prefix"] for row in cold] == [row["prefix"] for row in free]  # at temperature 1 in any case
    assert all(one["scores"] != other["scores"] for one, other in zip(cold, free, strict=True))


def one(prefix: float | None) -> Judgment:
    return Judgment(0, "a", (1.0, 2.0), (None, None), (1.0, 1.0), (0, 0), (None, None), (prefix, prefix))


def test_a_warning_is_for_judges_who_hardly_ever_speak_and_are_meant_to() -> None:
    shy, ready = one(math.log(HARDLY_EVER / 2)), one(math.log(HARDLY_EVER * 2))
    assert median_prefix([shy, ready, ready]) == pytest.approx(HARDLY_EVER * 2)
    assert median_prefix([one(None)]) is None
    assert reluctance(Judge(), [shy]) is not None
    for silent in (
        reluctance(Judge(), [shy, ready, ready]),
        reluctance(Judge(), []),
        reluctance(Judge(forced=True), [shy]),
        reluctance(Judge(mode="sampled"), [shy]),
    ):
        assert silent is None


def test_a_judgment_of_an_earlier_version_is_read_and_one_of_this_reads_back_the_same(finished: Path) -> None:
    row = judgments(finished)[0]
    new = JUDGMENTS.of(json.dumps(row).encode(), "here")
    assert json.loads(json.dumps(new.to_row())) == row
    del row["prefix"]
    old = JUDGMENTS.of(json.dumps(row).encode(), "here")
    assert (old.prefix, old.unparsed) == ((None, None), ({}, {}))
    assert old.scores == new.scores
