"""An ablation's report: what it reads, and its parts from top to bottom."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sparta_lite.ablation.grid import Grid, is_finished, open_grid
from sparta_lite.ablation.recorded import read_summary
from sparta_lite.campaign.run_record import RunRecord
from sparta_lite.campaign.store import Store
from sparta_lite.errors import SpartaError
from sparta_lite.show.report import ablation_figures
from sparta_lite.show.report.html import Html, chart, folded, join, note, paragraph, section, table, tag
from sparta_lite.show.report.parts import NONE, Part, dotted, number

_SUMMARY = "summary.json"

_WORDS = {"higher": "Higher", "lower": "Lower"}
"""Verdicts that stand at the head of the list, and the words there; others are their own words."""

Row = Mapping[str, Any]


@dataclass(frozen=True)
class AblationFiles:
    """A finished ablation as its directory tells it."""

    grid: Grid
    summary: Mapping[str, Any]
    """``summary.json``; see ``ablation.summary.summarize``."""
    record: RunRecord
    """Of its first run."""

    @property
    def names(self) -> tuple[str, ...]:
        """Of the arms, in order."""
        return tuple(arm.name for arm in self.grid.arms)

    def rows(self, task: str) -> list[Row]:
        """Of the table."""
        return [row for row in self.summary["rows"] if row["task"] == task]


def read_ablation(root: Path) -> AblationFiles:
    """Read the ablation in ``root``.

    Raises:
        SpartaError: not all of its runs are finished, or a file is missing or damaged.
    """
    grid = open_grid(root)
    advice = f"finish it first: `sparta-lite ablate --resume --out {shlex.quote(str(root))}`"
    lacking = [run for run in grid.runs() if not is_finished(run)]
    if lacking:
        runs = len(grid.arms) * grid.seeds
        named = ", ".join(f"{run.arm} with seed {run.config.seed}" for run in lacking[:3])
        others = f" and {len(lacking) - 3} more" if len(lacking) > 3 else ""
        raise SpartaError(
            f"{root}: {len(lacking)} of {runs} runs are not finished ({named}{others}); {advice}"
        )
    if not (root / _SUMMARY).is_file():
        raise SpartaError(f"{root}: all runs are finished but not summed up (no {_SUMMARY}); {advice}")
    summary = read_summary(grid, root / _SUMMARY, advice)
    return AblationFiles(grid, summary, Store(grid.run(0, 0).path).read_run())


def about_ablation(found: AblationFiles) -> Html:
    """What this ablation is, in one line."""
    grid = found.grid
    sizes = {(arm.config.iterations, arm.config.duels) for arm in grid.arms}
    when = datetime.fromtimestamp(found.record.started, timezone.utc)
    facts = [
        f"{len(grid.arms)} arms × {_seeds(grid.seeds)}",
        "the same seeds for all" if grid.paired else "other seeds for each",
        ", ".join(dict.fromkeys(arm.config.base for arm in grid.arms)),
        *(f"{iterations} × {duels:,} duels" for iterations, duels in sizes if len(sizes) == 1),
        found.record.device,
        f"{when:%d %B %Y, %H:%M} UTC",
    ]
    return join(facts, " · ")


def ablation_parts(found: AblationFiles, place: Path) -> list[Part]:
    """All that there is to show.

    Args:
        found: the ablation.
        place: the directory that the page will stand in; its links are relative to it.
    """
    tasks = [(task["task"], task["judged"]) for task in found.summary["arms"][0]["runs"][0]["tasks"]]
    parts = [_result(found, which, task, judged) for which, (task, judged) in enumerate(tasks)]
    parts.append(_courses(found, [name for name, _ in tasks]))
    return [*parts, _cost(found), _runs(found, place), _again(found)]


def _result(found: AblationFiles, which: int, task: str, judged: bool) -> Part:
    rows = found.rows(task)
    drawn = {}
    if any(row["difference"] is not None for row in rows):
        drawn[f"difference-{which}"] = ablation_figures.differences(rows, judged)
    body = [
        _verdict(found, rows),
        _groups(found, rows),
        *(chart(name, f"{task}: every arm's difference to the first") for name in drawn),
        *_tables(found, rows),
    ]
    title = f"Held-out {'score' if judged else 'accuracy'}: {task}"
    return Part(section(f"result-{which}", title, *body), drawn)


def _verdict(found: AblationFiles, rows: Sequence[Row]) -> Html:
    """The first arm in a sentence."""
    first = rows[0]
    if first["mean"] is None:
        return paragraph("No answer of the first arm could be judged.")
    spread = f" ± {first['sd']:.3f}" if first["sd"] is not None else ""
    start = f", from {first['start']:.3f} before any training" if first["start"] is not None else ""
    return tag(
        "p",
        dotted(found.names, first["arm"]),
        " ends at a mean of ",
        tag("strong", f"{first['mean']:.3f}{spread}"),
        f" over {_seeds(first['runs'])}{start}.",
        class_="lead",
    )


def _groups(found: AblationFiles, rows: Sequence[Row]) -> Html:
    """Which of the other arms are higher, lower, or neither as far as the seeds can tell."""
    arms = [row for row in rows[1:] if row["kind"] == "arm"]
    verdicts = [*_WORDS, *dict.fromkeys(row["verdict"] for row in arms if row["verdict"] not in _WORDS)]
    lines: list[Html] = []
    for verdict in verdicts:
        named = [
            tag("span", dotted(found.names, row["arm"]), f" {number(row['difference'], '+.3f')}")
            for row in arms
            if row["verdict"] == verdict
        ]
        words = _WORDS.get(verdict, verdict[0].upper() + verdict[1:])
        lines += [tag("dt", words), tag("dd", *(named or [tag("span", "none", class_="faint")]))]
    return tag("dl", *lines, class_="verdicts")


def _tables(found: AblationFiles, rows: Sequence[Row]) -> list[Html]:
    """How the arms compare, and what stands behind their means."""
    head = ["arm", "verdict", "mean ± sd", "difference", "95 % by t", "95 % by bootstrap"]
    cells = [
        [
            _named(found, row),
            _first_words(row["verdict"]),
            number(row["mean"], ".3f") + ("" if row["sd"] is None else f" ± {row['sd']:.3f}"),
            number(row["difference"], "+.3f"),
            _between(row["low"], row["high"]),
            _between(row["bootstrap_low"], row["bootstrap_high"]),
        ]
        for row in rows
    ]
    ends = {"start": ".3f", "gain": "+.3f", "best_init": ".3f", "worst": ".3f", "best": ".3f"}
    head_ends = ["arm", *(name.replace("_", " ") for name in ends)]
    arms = [row for row in rows if row["kind"] == "arm"]
    cells_ends = [
        [_named(found, row), *(number(row[name], form) for name, form in ends.items())] for row in arms
    ]
    of_means = note(
        "Bars: the t intervals of the table; filled: they exclude zero. ±: the standard deviation over the "
        f"seeds. Intervals: {found.summary['intervals']}. Best init, bare base: those of the first arm. "
        "Hostile adapters count in no mean, and where one adapter learns alone the accuracy is its own."
    )
    of_ends = note(
        "start: the mean before any training. gain: the mean above, less it. best init: the best single "
        "adapter before. worst, best: of the adapters after the last iteration. All are means over the "
        "seeds; what is picked as best flatters."
    )
    return [table(head, cells, texts=2), of_means, table(head_ends, cells_ends), of_ends]


def _courses(found: AblationFiles, tasks: Sequence[str]) -> Part:
    drawn, body = {}, []
    for place, task in enumerate(tasks):
        name = f"course-{place}"
        drawn[name] = ablation_figures.curves(found.summary["arms"], place, found.rows(task))
        body += [tag("h3", task)] if len(tasks) > 1 else []
        body.append(chart(name, f"{task}: every arm over the iterations"))
    said = note(
        "Thick: an arm’s mean over its seeds; thin: every run. Dashed: the best initial adapter; dotted: the "
        "bare base, both of the first arm. Press an arm above to see it alone."
    )
    return Part(section("courses", "Accuracy by iteration", *body, said), drawn)


def _cost(found: AblationFiles) -> Part:
    costs = ("answers", "references", "updates", "seconds")
    task = found.summary["rows"][0]["task"]
    arms = [row for row in found.rows(task) if row["kind"] == "arm"]
    cells = [[_named(found, row), *(number(row[name], ",.0f") for name in costs)] for row in arms]
    said = note(
        "Means per run. answers: generated in duels. references: answers that came with the data. updates: "
        "optimizer steps at a learning rate above 0, of every adapter that learns. seconds: of all phases "
        "but the evaluation, with what a kill made a run do again."
    )
    body = [table(["arm", *costs], cells), chart("costs", "seconds per phase, arm by arm"), said]
    return Part(section("cost", "Cost", *body), {"costs": ablation_figures.costs(found.summary["arms"])})


def _runs(found: AblationFiles, place: Path) -> Part:
    """Every run, with the way to its directory."""
    cells = []
    for arm in found.summary["arms"]:
        for run in arm["runs"]:
            first = run["tasks"][0]
            way = os.path.relpath((found.grid.root / run["run"]).resolve(), place)
            cells.append(
                [
                    dotted(found.names, arm["name"]),
                    tag("a", run["run"], href=f"{quote(Path(way).as_posix())}/"),
                    *(number(first[name][-1], ".3f") for name in ("mean", "worst", "best")),
                    f"{run['seconds']:,.0f}",
                ]
            )
    head = ["arm", "run", "mean", "worst", "best", "seconds"]
    task = found.summary["rows"][0]["task"]
    said = note(f"Measured by {task}. The links work while this file and the runs stay where they are.")
    title = f"All {len(cells):,} runs"
    body = [*_warned(found), folded("Accuracy and files", table(head, cells, texts=2), said)]
    return Part(section("runs", title, *body), {})


def _warned(found: AblationFiles) -> list[Html]:
    """What runs warned of, with how many runs of which arms did; nothing where none did."""
    cells = []
    for warning in found.summary["warnings"]:
        alike = f" (and {warning['alike'] - 1:,} like it)" if warning["alike"] > 1 else ""
        whose = [tag("span", dotted(found.names, arm), f" {count}") for arm, count in warning["runs"].items()]
        cells.append([warning["text"] + alike, join(whose, ", ")])
    head = ["warning", f"runs that gave it, of {found.summary['seeds']}"]
    return [table(head, cells, texts=2)] if cells else []


def _again(found: AblationFiles) -> Part:
    """How to get the same ablation once more."""
    grid = found.grid
    root = shlex.quote(str(grid.root))
    command = (
        f"mkdir again\n(cd {root} && tar -cf - ablation.json */settings.yaml) | tar -xf - -C again\n"
        "sparta-lite ablate --resume --out again"
    )
    record = found.record
    facts = {**found.summary["versions"], "device": record.device, "threads": str(record.threads)}
    settings = [
        [dotted(found.names, arm.name), tag("code", "\n".join(arm.settings) or "as all share them")]
        for arm in grid.arms
    ]
    shared = grid.root / grid.arms[0].name / "settings.yaml"
    body = [
        paragraph(
            "The arms’ settings on the disk are complete. With these versions, on such a device, every run "
            "repeats."
        ),
        tag("pre", command),
        table(["arm", "what sets it apart"], settings, texts=2),
        folded(f"All settings of {grid.arms[0].name}", tag("pre", shared.read_text(encoding="utf-8"))),
        folded("Versions", table(["what", "version"], [[*each] for each in facts.items()], texts=2)),
    ]
    return Part(section("again", "The same ablation again", *body), {})


def _first_words(verdict: str) -> str:
    """What fits into a column; the list of verdicts has it whole."""
    return verdict.partition(" from ")[0].partition(" with ")[0]


def _named(found: AblationFiles, row: Row) -> Html | str:
    return dotted(found.names, row["arm"]) if row["kind"] == "arm" else str(row["arm"])


def _between(low: float | None, high: float | None) -> str:
    return NONE if low is None or high is None else f"{number(low, '+.3f')} to {number(high, '+.3f')}"


def _seeds(count: int) -> str:
    return f"{count} seed" + ("s" if count != 1 else "")
