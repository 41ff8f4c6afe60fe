"""An ablation's results: one table with what its seeds can tell apart, and every curve behind it."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from sparta_lite.ablation.grid import Grid
from sparta_lite.ablation.measured import RunRows, cost, curves, read_rows, warnings
from sparta_lite.ablation.recorded import FORMAT
from sparta_lite.ablation.statistics import Difference, deviation, paired, unpaired
from sparta_lite.campaign.provenance import versions
from sparta_lite.errors import SpartaError
from sparta_lite.files import write_json, write_text

COLUMNS = (
    *("task", "arm", "kind", "runs", "mean", "sd", "difference", "low", "high"),
    *("bootstrap_low", "bootstrap_high", "separable", "verdict"),
    *("start", "gain", "best", "worst", "best_init", "base", "seconds", "answers", "references", "updates"),
)
"""Of the table, one row per task and arm, then ``best init`` and ``bare base`` of the first arm.

``mean`` is that of the tribe's accuracy after the last iteration over the seeds, ``sd`` its deviation;
hostile adapters are left out, and a baseline's tribe is its one learner. ``start`` is the same before
training, which differs where the arms' adapters do, and ``gain`` the mean less the start; ``best`` and
``worst`` are its best and worst adapter, ``best_init`` the best of all before training, each a mean over the
seeds; ``seconds``, ``answers``, ``references`` and ``updates`` are means per run, updates those of every
adapter that learns at a learning rate above 0. The difference is to the first arm, within seeds where they
are shared: ``low`` to ``high`` is the t interval, which ``separable`` and ``verdict`` go by.
``kind`` is 'arm' or 'baseline'. Empty is what is not known.
"""

Row = dict[str, Any]


def summarize(grid: Grid) -> dict[str, Any]:
    """All results of a grid whose runs are finished, as ``summary.json`` holds them.

    ::

        format, paired, seeds, versions, intervals
        arms      [{name, settings, runs: [{run, seed, seconds, phases, answers, references, updates,
                  warnings, tasks: [curve, ...]}]}]
        rows      the table: [{column: value}]
        warnings  what runs warned of: [{text, alike, runs: {arm: count}}]

    A run's path is relative to the directory; its curves are those of ``measured.curves``, its costs those
    of ``measured.cost``. Warnings that differ in their numbers alone count as one: ``text`` is the first of
    ``alike`` different ones, ``runs`` how many runs of an arm gave any of them.

    Raises:
        SpartaError: the arms were measured by different tasks, or a run's files are damaged.
    """
    arms = [
        {"name": arm.name, "settings": list(arm.settings), "runs": _runs(grid, place)}
        for place, arm in enumerate(grid.arms)
    ]
    return {
        "format": FORMAT,
        "paired": grid.paired,
        "seeds": grid.seeds,
        "versions": versions(),
        "intervals": intervals(grid),
        "arms": arms,
        "rows": _rows(arms, grid.paired),
        "warnings": _warnings(arms),
    }


def intervals(grid: Grid) -> str:
    """What the table's intervals are, for people."""
    how = (
        "Student's t over the differences within a seed"
        if grid.paired
        else "Welch's t between arms that share no seeds"
    )
    text = f"95 %, {how}; the percentile bootstrap beside it is too narrow over few seeds"
    others = len(grid.arms) - 1
    return text + (f"; of {others} comparisons, chance alone separates one in twenty" if others > 1 else "")


def write_results(root: Path, summary: Mapping[str, Any]) -> None:
    """Write ``summary.json``, ``table.json`` and ``table.csv``."""
    table = {key: summary[key] for key in ("format", "paired", "seeds", "intervals", "rows")}
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(summary["rows"])
    write_text(root / "table.csv", text.getvalue())
    write_json(root / "table.json", table)
    write_json(root / "summary.json", summary)


def _runs(grid: Grid, place: int) -> list[dict[str, Any]]:
    runs = [grid.run(place, number) for number in range(grid.seeds)]
    return [_run(run.path.relative_to(grid.root), run.config.seed, read_rows(run.path)) for run in runs]


def _run(place: Path, seed: int, rows: RunRows) -> dict[str, Any]:
    return {
        "run": place.as_posix(),
        "seed": seed,
        **cost(rows),
        "warnings": warnings(rows),
        "tasks": curves(rows),
    }


def _warnings(arms: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What several runs say stands there once, with who said it."""
    texts: dict[str, set[str]] = {}
    found: dict[str, dict[str, Any]] = {}
    for arm in arms:
        for run in arm["runs"]:
            for text in run["warnings"]:
                kind = _kind(text)
                texts.setdefault(kind, set()).add(text)
                found.setdefault(kind, {"text": text, "alike": 0, "runs": {}})["alike"] = len(texts[kind])
            for kind in {_kind(text) for text in run["warnings"]}:
                runs = found[kind]["runs"]
                runs[arm["name"]] = runs.get(arm["name"], 0) + 1
    return list(found.values())


def _kind(warning: str) -> str:
    return re.sub(r"\d[\d.,]*", "#", warning)


def _rows(arms: Sequence[Mapping[str, Any]], is_paired: bool) -> list[Row]:
    rows = []
    first = arms[0]["runs"]
    for place, task in enumerate(first[0]["tasks"]):
        reference = [_at_end(run, place, "mean") for run in first]
        for number, arm in enumerate(arms):
            runs = arm["runs"]
            if any([each["task"] for each in run["tasks"]] != _tasks(first) for run in runs):
                raise SpartaError(f"arm {arm['name']}: was measured by other tasks than {arms[0]['name']}")
            values = [_at_end(run, place, "mean") for run in runs]
            row = _row(
                task["task"], arm["name"], "arm", values, None if number == 0 else reference, is_paired
            )
            starts = [run["tasks"][place]["mean"][0] for run in runs]
            row["start"] = _mean(starts)
            row["gain"] = _mean(
                [
                    None if start is None or end is None else end - start
                    for start, end in zip(starts, values, strict=True)
                ]
            )
            for name in ("best", "worst", "best_init", "base"):
                row[name] = _mean([_at_end(run, place, name) for run in runs])
            for name in ("seconds", "answers", "references", "updates"):
                row[name] = fmean(run[name] for run in runs)
            rows.append(row)
        for name, source in (("best init", "best_init"), ("bare base", "base")):
            values = [_at_end(run, place, source) for run in first]
            # They come from the first arm's very runs.
            rows.append(_row(task["task"], name, "baseline", values, reference, True))
    return rows


def _tasks(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    return [each["task"] for each in runs[0]["tasks"]]


def _at_end(run: Mapping[str, Any], place: int, name: str) -> float | None:
    """A figure of a curve, the last one where there is one per iteration."""
    found = run["tasks"][place][name]
    value: float | None = found[-1] if isinstance(found, list) else found
    return value


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def _row(
    task: str,
    arm: str,
    kind: str,
    values: Sequence[float | None],
    reference: Sequence[float | None] | None,
    is_paired: bool,
) -> Row:
    """Runs that could not be measured are left out, of a pair both."""
    known = [value for value in values if value is not None]
    row: Row = dict.fromkeys(COLUMNS)
    row |= {"task": task, "arm": arm, "kind": kind, "runs": len(known), "mean": _mean(values)}
    row["sd"] = deviation(known) if known else None
    if reference is None:
        return row | {"verdict": "reference"}
    if is_paired:
        both = [(a, b) for a, b in zip(values, reference, strict=True) if a is not None and b is not None]
        ours, others = [a for a, _ in both], [b for _, b in both]
    else:
        ours, others = known, [value for value in reference if value is not None]
    if not ours or not others:
        return row | {"verdict": "not measured"}
    found = paired(ours, others) if is_paired else unpaired(ours, others)
    row |= {"difference": found.value, "separable": found.separable}
    row |= {"verdict": verdict(found, min(len(ours), len(others)))}
    row["low"], row["high"] = found.interval or (None, None)
    row["bootstrap_low"], row["bootstrap_high"] = found.bootstrap or (None, None)
    return row


def verdict(found: Difference, seeds: int) -> str:
    """What a difference over so many seeds amounts to, in words."""
    many = f"{seeds} seed" + ("s" if seeds > 1 else "")
    if found.interval is None and found.value == 0 and seeds > 1:
        return f"no difference with {many}"
    if found.interval is None:
        return f"{many} show{'s' * (seeds == 1)} no spread to judge it by"
    if not found.separable:
        return f"not separable from no effect with {many}"
    return "higher" if found.value > 0 else "lower"
