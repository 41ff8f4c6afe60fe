"""What a model's scores of right and wrong solutions come to."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from sparta_lite.campaign.intervals import bootstrap, wilson

Scores = list[float | None]
"""Of the right solution and of the wrong one; None: none was given."""


def credits(scores: Sequence[Scores]) -> list[float]:
    """Per pair 1 where the right solution is scored higher, 0 where the wrong one is, else a half."""
    return [
        0.5 if right is None or wrong is None or right == wrong else float(right > wrong)
        for right, wrong in scores
    ]


def mean(scores: Sequence[float | None]) -> float | None:
    """Of the rounds that parsed."""
    return _average([each for each in scores if each is not None])


def summary(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What the parts of one layout come to; ``parts``: in the form of ``judges.measure``."""
    passed, asked = (
        {pair["row"]: pair for part in parts if part["method"] == method for pair in part["pairs"]}
        for method in ("pass", "rounds")
    )
    given: dict[str, dict[int, Scores]] = {
        "pass": {row: pair["plain"] for row, pair in passed.items()},
        "pass, cut": {row: pair["cut"] for row, pair in passed.items()},
        "1 round": {row: [mean(each[:1]) for each in pair["rounds"]] for row, pair in asked.items()},
        "5 rounds": {row: [mean(each) for each in pair["rounds"]] for row, pair in asked.items()},
    }
    rounds = [[score for side in pair["rounds"] for score in side] for pair in asked.values()]
    seconds = _seconds(parts, len(passed), len(asked), len(rounds[0]) // 2 if rounds else 0)
    base = given["pass"]
    return {
        "rounds": sum(map(len, rounds)),
        "parsed": _with_interval([sum(each is not None for each in own) / len(own) for own in rounds])
        if rounds
        else None,
        "mass": statistics.mean(each for pair in passed.values() for each in pair["mass"]),
        "prefix": statistics.median(each for pair in passed.values() for each in pair["prefix"]),
        "tokens": sum(part.get("tokens", 0) for part in parts) / (2 * len(passed)),
        "methods": {
            name: _method(list(scores.values()), [base[row] for row in scores]) | seconds[name]
            for name, scores in given.items()
            if scores
        },
    }


def _seconds(
    parts: Sequence[dict[str, Any]], passed: int, asked: int, rounds: int
) -> dict[str, dict[str, float]]:
    """CPU seconds of one judgment, by method: as measured, where all rounds share the pass over the prompt,
    and what it comes to where each round reads the prompt by itself."""
    once, reading, writing = (
        sum(part["seconds"].get(name, 0.0) for part in parts) / (2 * pairs or 1)
        for name, pairs in (("pass", passed), ("reading", asked), ("writing", asked))
    )
    one = reading + writing / (rounds or 1)
    taken = {
        "pass": (once, once),
        "pass, cut": (once, once),
        "1 round": (one, one),
        "5 rounds": (reading + writing, rounds * one),
    }
    return {name: {"seconds": shared, "seconds_apart": apart} for name, (shared, apart) in taken.items()}


def _method(scores: Sequence[Scores], base: Sequence[Scores]) -> dict[str, Any]:
    """What one method's scores come to, and how far from those of one pass of the same pairs, ``base``."""
    taken = [(right, wrong) for right, wrong in scores if right is not None and wrong is not None]
    right, ties = sum(one > other for one, other in taken), sum(one == other for one, other in taken)
    found = credits(scores)
    return {
        "questions": len(scores),
        "right": right,
        "right_interval": list(wilson(right, len(scores))),
        "wrong": len(taken) - right - ties,
        "ties": ties,
        "none": len(scores) - len(taken),
        "accuracy": _with_interval(found),
        "less_pass": _with_interval([one - other for one, other in zip(found, credits(base), strict=True)]),
        "means": [_average([pair[side] for pair in taken]) for side in range(2)],
    }


def _with_interval(values: Sequence[float]) -> list[float]:
    """Mean, and its 95 % interval over questions."""
    return [sum(values) / len(values), *bootstrap(values)]


def _average(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def print_summary(console: Console, layout: str, found: dict[str, Any]) -> None:
    parsed = f"{_interval(found['parsed'])} of {found['rounds']} rounds parse; " if found["rounds"] else ""
    title = (
        f"{layout}: {parsed}"
        f"mass {found['mass']:.3f}; log p of the forced prefix {found['prefix']:.1f} (median)"
    )
    table = Table(title=title, title_justify="left")
    counts, means = ("pairs", "right", "wrong", "tie", "none"), ("score: right", "wrong")
    columns = (*counts, "accuracy", "less one pass", *means, "CPU s", "apart")
    for column in ("method", *columns):
        table.add_column(column, justify="left" if column == "method" else "right", no_wrap=True)
    for name, row in found["methods"].items():
        table.add_row(
            name,
            *(str(row[each]) for each in ("questions", "right", "wrong", "ties", "none")),
            _interval(row["accuracy"]),
            "" if name == "pass" else _interval(row["less_pass"], "+"),
            *("-" if each is None else f"{each:.2f}" for each in row["means"]),
            *(f"{row[each]:.2f}" for each in ("seconds", "seconds_apart")),
        )
    console.print(table)


def _interval(values: Sequence[float], sign: str = "") -> str:
    middle, low, high = (f"{each:{sign}.3f}" for each in values)
    return f"{middle} ({low} to {high})"
