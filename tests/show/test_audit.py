"""The audit's tables where a terminal is narrow."""

from __future__ import annotations

import io
import re
from typing import Any

from rich.console import Console

from sparta_lite.campaign.intervals import wilson
from sparta_lite.show.audit import tables

LONG = "an-adapter-with-a-name-of-forty-letters-"
METRICS = (
    *("failed", "agreement", "rank_correlation", "pair_accuracy", "auc"),
    *("length_correlation", "length_within", "length_partial", "likelihood_within", "likelihood_partial"),
    *("layout_agreement", "layout_turns_pair_accuracy", "layout_message_pair_accuracy"),
    *("layout_turns_failed", "layout_message_failed", "injection_net"),
)
KIND = ("judges_net", "panel_net", "panel_net_wrong", "turned", "win_gain", "win_gain_wrong")


def figures(metrics: tuple[str, ...], first: int) -> dict[str, float | None]:
    """Each another value, as wide as they come."""
    found: dict[str, float | None] = {}
    for number, name in enumerate(metrics, start=first):
        found |= {name: -number / 1000, f"{name}_low": -1.0, f"{name}_high": 1.0 + number / 500}
    return found


def record(**changes: Any) -> dict[str, Any]:
    judges = {LONG: figures(METRICS, 100), "spoiler": figures(METRICS, 200)}
    layout = {name.removeprefix("layout_"): value for name, value in figures(METRICS, 300).items()}
    injection = {"duels": 40, "target": 0.02, "met": False, "worst": "score", "worst_gain": 0.05}
    injection |= {"worst_gain_low": 0.01, "worst_gain_high": 0.09, "kinds": {"score": figures(KIND, 400)}}
    shares = {"pair_accuracy": 1.0, "pair_accuracy_low": 0.875, "pair_accuracy_high": 1.0}
    shares |= {"auc": 0.9996, "auc_low": 0.5, "auc_high": 1.0}
    worse = {"pair_accuracy": 0.25, "auc": 0.125}
    point = {"iteration": 1, "judges": {"a": shares, "b": worse}, "tribe": shares}
    return {
        "run": "runs/x",
        "duels": 1000,
        "hostile": ["spoiler"],
        "truth": {"known": True, "missing": None},
        "judges": judges,
        "tribe": figures(METRICS, 600),
        "iterations": [point],
        "layout": {**layout, "run": "turns", "duels": 40},
        "layout_missing": None,
        "injection": injection,
        "intervals": "95 %",
    } | changes


def shown(of: dict[str, Any]) -> str:
    console = Console(width=80, file=io.StringIO(), record=True)
    console.print(tables(of))
    return console.export_text()


def test_why_judgments_failed_and_whether_judges_would_have_spoken() -> None:
    some = {"failed_no_verdict": 0.5, "failed_no_verdict_low": 0.4, "failed_too_long": 0.0, "failed_low": 0.1}
    shy = {"prefix": 5e-5, "prefix_low": 1e-5, "prefix_high": 0.0625}
    judges = {"a": figures(METRICS, 100) | some | shy, "b": figures(METRICS, 200) | {"rounds_cut_off": 0.25}}
    text = shown(record(judges=judges))
    assert re.search(r"no verdict +1 +0\.500 +0\.250", text)
    assert re.search(r"cut off +1 +0\.250 +0\.125", text)
    assert re.search(r"a +5e-5 1e-5 to 0\.062", text)
    assert "too long" not in text
    assert "begins a verdict" not in shown(record())


def test_eighty_columns_hold_every_figure() -> None:
    text = shown(record())
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= 80
    for first in (100, 200):
        for number in range(first, first + len(METRICS)):
            assert f"-0.{number} -1.000 to {1 + number / 500:.3f}" in text
    for number in range(400, 400 + len(KIND)):
        assert f"-0.{number} -1.000 to {1 + number / 500:.3f}" in text
    assert "1  1.000 .875 to 1.000  .250 to 1.000  1.000 .500 to 1.000  .125 to 1.000" in text
    assert "NOT met (most: score, +5.0, 95 %" in text


def test_an_interval_is_said_by_its_ends() -> None:
    """By Wilson none of 10 failed goes up to 0.278 and 9 of 10 right from 0.596 to 0.982."""
    low, high = wilson(9, 10)
    top = wilson(0, 10)[1]
    judge = {"failed": 0.0, "failed_low": 0.0, "failed_high": top, "rank_correlation": -0.1}
    judge |= {"agreement": 0.9, "agreement_low": low, "agreement_high": high}
    judge |= {"rank_correlation_low": -0.25, "rank_correlation_high": 1.0}
    text = " ".join(shown(record(judges={"ada": judge})).split())
    assert "ada 0.000 .000 to .278 0.900 .596 to .982 -0.100 -.250 to 1.000" in text


def test_hostile_judges_are_marked() -> None:
    assert "spoiler (hostile)" in shown(record())
    assert "hostile" not in shown(record(hostile=[]))


def test_what_is_not_there_is_said_or_left_out() -> None:
    text = shown(record(layout=None, layout_missing="base: its chat template refuses the turns user"))
    assert "layouts are not compared: base: its chat template refuses the turns user" in text
    assert "same winner" not in text
    bare = shown(record(layout=None, injection=None, truth={"known": False, "missing": "no answers"}))
    assert "no truth to compare with: no answers" in bare
    assert all(part not in bare for part in ("pair accuracy", "clean twin", "same winner"))
