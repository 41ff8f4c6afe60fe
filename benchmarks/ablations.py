"""The project's own ablations on the pocket tribe: what each part of the method does, over seeds.

    python benchmarks/ablations.py hostile --out runs/hostile      again with the same --out goes on
    python benchmarks/ablations.py --tables                        the tables, from the figures that are kept

A study is what `sparta-lite ablate --paired` would run with the arms below; its table is kept in
``benchmarks/ablations/<study>.json``.
"""

from __future__ import annotations

import argparse
import datetime
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from sparta_lite.ablation.arms import Assignments, from_preset, load_arms
from sparta_lite.ablation.grid import extended, new_grid, open_grid
from sparta_lite.ablation.running import AblationEvent, RunEnds, run_all
from sparta_lite.ablation.summary import summarize, write_results
from sparta_lite.campaign.events import Event
from sparta_lite.campaign.store import ABLATION
from sparta_lite.errors import SpartaError
from sparta_lite.files import read_json, read_lines, write_json

KEPT = Path(__file__).parent / "ablations"

WEIGHTINGS: dict[str, Assignments] = {
    "reliability": ("reputation.kind=reliability",),
    "uniform": ("reputation.kind=uniform",),
    "paper": ("reputation.kind=paper",),
    "paper, undivided": ("reputation.kind=paper", "reputation.scale=1"),
    "bradley-terry": ("reputation.kind=bradley-terry",),
}
"""Ways to weigh the judges. The pocket preset divides the paper's kappa by 20, as the published code does."""

HOSTILE = (0, 1, 3, 5)
SMALL = ("iterations=5", "duels=200", "evaluation.every=5")


@dataclass(frozen=True)
class Study:
    sets: Assignments
    arms: Callable[[], dict[str, Assignments]]


def paper() -> dict[str, Assignments]:
    """The paper's ablations, the baselines and the curricula beside the default run."""
    presets = {
        name: settings
        for word in ("size", "diversity")
        for name, settings in list(from_preset(word, None, ()).items())[1:]
    }
    return {
        "default": (),
        "self-rewarding": ("algorithm=self-rewarding",),
        "sppo": ("algorithm=sppo",),
        "spin": ("algorithm=spin",),
        "reputation=paper": ("reputation.kind=paper",),
        "reputation=uniform": ("reputation.kind=uniform",),
        "random-matches": ("matchmaking.alpha=1",),
        **presets,
        "exp3": ("instructions.kind=exp3", "instructions.group_words=1"),
        "annealed": ("matchmaking.kind=annealed",),
        "dpo-alone": ("training.sft_weight=0",),
    }


def hostile() -> dict[str, Assignments]:
    """k of the ten judge upside down and three times as wide."""
    return {
        f"{name.replace(', ', '-')}-{count}": (
            *settings,
            *((f"tribe.hostile={count}", "tribe.hostile_kind=loud") if count else ()),
        )
        for count in HOSTILE
        for name, settings in WEIGHTINGS.items()
    }


def spoilers() -> dict[str, Assignments]:
    """Three hostile of ten by what they do, and the seven others without them.

    Drawn evenly, seven of ten would have about 94 of 200 duels among themselves.
    """
    arms: dict[str, Assignments] = {"healthy": ()}
    for kind in ("inverted", "garbage", "loud-garbage"):
        three = ("tribe.hostile=3", f"tribe.hostile_kind={kind}")
        arms[kind] = three
        if kind != "garbage":
            arms[f"{kind}-uniform"] = (*three, "reputation.kind=uniform")
    return arms | {"seven-in-94": ("tribe.size=7", "duels=94")}


STUDIES = {"paper": Study((), paper), "hostile": Study(SMALL, hostile), "spoilers": Study(SMALL, spoilers)}


def measure(name: str, out: Path, seeds: int) -> None:
    """Run a study, or what is left of it, and keep its table."""
    study = STUDIES[name]
    arms = load_arms(None, [*study.sets, "seed=1"], study.arms())
    if (out / ABLATION).exists():
        grid = extended(open_grid(out), arms, seeds, True)
    else:
        grid = new_grid(out, arms, seeds, True)
    run_all(grid, _tell)
    summary = summarize(grid)
    write_results(out, summary)
    kept = {key: summary[key] for key in ("seeds", "versions", "intervals", "rows")}
    curves = {arm["name"]: [run["tasks"][0]["mean"] for run in arm["runs"]] for arm in summary["arms"]}
    first = [_members(grid.run(0, number).path) for number in range(seeds)]
    KEPT.mkdir(exist_ok=True)
    write_json(
        KEPT / f"{name}.json",
        {
            "date": datetime.date.today().isoformat(),
            "settings": list(study.sets),
            **kept,
            "curves": curves,
            "members of the first arm": first,
        },
    )


def _members(run: Path) -> dict[str, float]:
    """Best and worst at the end; and accuracy in the one skill that each was expert in, and in all others."""
    rows = [row for row in read_lines(run / "metrics.jsonl") if row["kind"] == "evaluation"]
    found = {
        "best, last": max(rows[-1]["accuracy"].values()),
        "worst, last": min(rows[-1]["accuracy"].values()),
    }
    for when, row in (("first", rows[0]), ("last", rows[-1])):
        skills = [
            (name == skill, share) for name, each in row["by_skill"].items() for skill, share in each.items()
        ]
        found[f"own, {when}"] = fmean(share for own, share in skills if own)
        found[f"others, {when}"] = fmean(share for own, share in skills if not own)
    return found


def _tell(event: Event | AblationEvent) -> None:
    if isinstance(event, RunEnds) and event.worked:
        print(f"{event.number}/{event.runs}  {event.run.arm}  seed {event.run.config.seed}", flush=True)


def tables() -> str:
    """All kept figures as Markdown."""
    parts = []
    for name in STUDIES:
        if (KEPT / f"{name}.json").exists():
            kept = read_json(KEPT / f"{name}.json", ("rows",))
            parts += [
                f"{name}, {kept['seeds']} seeds, {kept['date']}",
                _first(kept),
                _rows(kept),
                _costs(kept),
            ]
            if name == "hostile":
                parts.append(_gains(kept))
    return "\n\n".join(parts)


def _rows(kept: Mapping[str, Any]) -> str:
    lines = ["| arm | mean ± sd | best | difference (95 %) | |", "| --- | ---: | ---: | --- | --- |"]
    for row in kept["rows"]:
        spread = "" if row["sd"] is None else f" ± {row['sd']:.3f}"
        cells = [row["arm"], f"{row['mean']:.3f}{spread}", _number(row["best"], ".3f"), ""]
        if row["low"] is not None:
            cells[-1] = f"{row['difference']:+.3f} ({row['low']:+.3f} to {row['high']:+.3f})"
        lines.append("| " + " | ".join([*cells, row["verdict"]]) + " |")
    return "\n".join(lines)


def _costs(kept: Mapping[str, Any]) -> str:
    lines = ["| arm | start | worst | generated answers | references | optimizer steps | seconds |"]
    lines.append("| --- |" + " ---: |" * 6)
    for row in kept["rows"]:
        if row["kind"] == "arm":
            shares = [_number(row[key], ".3f") for key in ("start", "worst")]
            counts = [_number(row[key], ".0f") for key in ("answers", "references", "updates", "seconds")]
            lines.append("| " + " | ".join([row["arm"], *shares, *counts]) + " |")
    return "\n".join(lines)


def _first(kept: Mapping[str, Any]) -> str:
    """What the table does not say of the first arm."""
    name, curves = next(iter(kept["curves"].items()))
    means = ", ".join(f"{fmean(values):.3f}" for values in zip(*curves, strict=True))
    members = kept["members of the first arm"]
    shares = {what: [each[what] for each in members] for what in members[0]}
    said = "; ".join(
        f"{what} {fmean(each):.3f}" + (f" ± {stdev(each):.3f}" if len(each) > 1 else "")
        for what, each in shares.items()
    )
    return f"{name}: by iteration {means}; {said}"


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _gains(kept: Mapping[str, Any]) -> str:
    """Share of a weighting's own gain with k = 0 that k hostile judges leave."""
    lines = ["| weights | gain, k = 0 | " + " | ".join(f"k = {count}" for count in HOSTILE[1:]) + " |"]
    lines.append("| --- |" + " ---: |" * len(HOSTILE))
    for name in WEIGHTINGS:
        gains = [
            [curve[-1] - curve[0] for curve in kept["curves"][f"{name.replace(', ', '-')}-{count}"]]
            for count in HOSTILE
        ]
        whole = fmean(gains[0])
        cells = [f"{fmean(each):+.3f} ({fmean(each) / whole:.0%})" for each in gains[1:]]
        lines.append(f"| {name} | {whole:+.3f} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("study", nargs="?", choices=STUDIES)
    parser.add_argument("--out", type=Path, help="directory of the study's runs")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--tables", action="store_true", help="print what is kept")
    arguments = parser.parse_args()
    if arguments.tables:
        print(tables())
    elif arguments.study is None or arguments.out is None:
        parser.error("give a study and --out, or --tables")
    else:
        try:
            measure(arguments.study, arguments.out, arguments.seeds)
        except SpartaError as error:
            sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
