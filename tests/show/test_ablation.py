"""What an ablation says while it runs, and its table where a terminal is narrow."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from rich.console import Console, RenderableType

from sparta_lite.ablation.grid import Run
from sparta_lite.ablation.running import AblationEvent, RunBegins, RunEnds, RunFails
from sparta_lite.campaign.config import load_config
from sparta_lite.campaign.events import Evaluated, Event, LearnsAlone, RunStarted, Scored
from sparta_lite.show.ablation import AblationView, table

TRIBE = ("a", "b", "c")
RUN = Run("kind=uniform", load_config(None, ["seed=7"]), Path("x"))


def lines_of(shown: RenderableType, width: int) -> list[str]:
    console = Console(width=width, file=io.StringIO(), record=True)
    console.print(shown)
    return [line.rstrip() for line in console.export_text().splitlines()]


def told(*events: Event | AblationEvent) -> list[str]:
    stream = io.StringIO()
    with AblationView(Console(file=stream, width=300), bars=False) as view:
        for event in events:
            view(event)
    return stream.getvalue().splitlines()


def started(**changes: Any) -> RunStarted:
    return RunStarted("x", "base", "cpu", TRIBE, 2, 10, 7, resumed=False, **changes)


def test_a_run_that_failed_is_said_to_have() -> None:
    lines = told(RunBegins(RUN, 1, 4, False), RunFails(RUN, 1, 4, "x: No space\x1b[2J left"))
    assert lines == [
        "[1/4] kind=uniform, seed 7 begins",
        "[1/4] kind=uniform, seed 7 failed: x: No space left",
    ]


def test_a_run_ends_with_the_accuracy_that_the_table_counts() -> None:
    measured = Evaluated(2, {"a": 0.25, "b": 0.5, "c": 1.0}, 0.125, "quiz")
    begins, ends = RunBegins(RUN, 1, 4, False), RunEnds(RUN, 1, 4, True)
    healthy = told(begins, started(), measured, ends)
    spoiled = told(begins, started(hostile=("c",)), measured, ends)
    alone = told(begins, started(algorithm="spin"), LearnsAlone("b"), measured, ends)
    assert "ends: quiz mean 0.583, best 1.000 (" in healthy[1]
    assert "ends: quiz mean 0.375, best 0.500 (" in spoiled[1]
    assert "ends: quiz mean 0.500, best 0.500 (" in alone[1]
    judged = Scored(2, {"a": 4.0, "b": None, "c": 6.0}, 3.5, "tales", {"a": 0, "b": 9, "c": 0})
    half = told(begins, started(), measured, judged, ends)
    assert "; tales not measured (" in half[1]
    assert "ends: tales mean 5.000, best 6.000 (" in told(begins, started(hostile=("b",)), judged, ends)[1]


def row(arm: str, kind: str = "arm", **changes: Any) -> dict[str, Any]:
    interval = {"low": -0.125, "high": 0.125, "bootstrap_low": -0.25, "bootstrap_high": 0.25}
    figures = {"task": "quiz", "arm": arm, "kind": kind, "mean": 0.625, "sd": 0.03125, "difference": -0.125}
    ends = {"start": 0.3125, "gain": -0.03125, "best": 0.75, "worst": 0.4375, "best_init": 0.5}
    spent = {"seconds": 12345.0, "answers": 16000, "references": 800, "updates": 2400.0}
    return {**figures, **interval, **ends, **spent, "separable": True, "verdict": "lower"} | changes


def test_the_table_of_a_narrow_terminal_lacks_nothing() -> None:
    arms = ["kind=published-dynamic,size=10", "kind=reliability,size=10"]
    rows = [row(arms[0], separable=None, verdict="reference"), row(arms[1])]
    rows += [row("best init", "baseline"), row("bare base", "baseline")]
    told = {"text": "iteration 1: nothing\x1b[2J is learned", "alike": 3, "runs": {arms[0]: 4, arms[1]: 1}}
    summary = {"seeds": 1, "paired": True, "intervals": "95 %", "rows": rows, "warnings": [told]}
    lines = lines_of(table(summary), 80)
    assert max(map(len, lines)) <= 80
    text = "\n".join(lines)
    assert "quiz: 1 run per arm, the same seeds for all" in text
    assert "…" not in text
    for figure in ("0.625", "0.031", "-0.125 to +0.125", "-0.250 to +0.250", "0.312", "0.438", "0.750"):
        assert figure in text
    assert text.count("-0.031") == 2
    assert text.count("16,000") == 2
    assert text.count("12,345") == 2
    # Every table says whose figures stand in a line.
    for arm in arms:
        assert sum(line.split()[:1] == [arm] for line in lines_of(table(summary), 120)) == 3
    assert "seconds: of duels, judging and training" in text
    assert " best init (before training): lower" in lines
    assert " bare base (no adapter): lower" in lines
    assert f"best init and bare base: of the runs of {arms[0]}" in lines
    said = f"warning in runs of {arms[0]} (4 of 1), {arms[1]} (1 of 1): iteration 1: nothing is learned"
    assert f"{said} (and 2 like it, with other numbers)" in lines_of(table(summary), 300)
    assert "warning" not in "\n".join(lines_of(table(summary | {"warnings": []}), 80))
