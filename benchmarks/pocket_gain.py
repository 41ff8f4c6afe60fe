"""What the default run gains on held-out questions, over seeds.

    python benchmarks/pocket_gain.py --seeds 1,2,3,4,5 --compare reputation.kind=uniform --json gain.json

Every seed is a whole default run of its own. The final tribe is set beside *best init*, the best
adapter of the same tribe before the first duel, and beside the bare base without any adapter.
``--compare`` repeats all of it with one setting changed.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from sparta_lite.campaign.config import load_config
from sparta_lite.errors import SpartaError
from sparta_lite.files import read_lines, write_json


@dataclass(frozen=True)
class Gain:
    """Held-out accuracies of one run, 0 to 1."""

    seed: int
    bare_base: float
    best_init: float
    init_mean: float
    final_mean: float
    final_best: float
    final_worst: float
    final_own_skill: float
    """Mean over adapters in the one skill that each was expert in."""
    init_own_skill: float
    final_other_skills: float
    init_other_skills: float
    mean_by_iteration: list[float]
    reputation_range: tuple[float, float]
    seconds: float


def measure(seed: int, sets: list[str]) -> Gain:
    """Run one campaign in a temporary directory."""
    from sparta_lite.campaign.loop import run

    with tempfile.TemporaryDirectory() as directory:
        out = Path(directory) / "run"
        started = time.perf_counter()
        reputations: list[float] = []

        def listen(event: Any) -> None:
            for standing in getattr(event, "standings", {}).values():
                reputations.append(standing.reputation)

        run(load_config(None, sets, seed), out, False, listen)
        seconds = time.perf_counter() - started
        rows = [row for row in read_lines(out / "metrics.jsonl") if row["kind"] == "evaluation"]
    first, last = rows[0], rows[-1]
    return Gain(
        seed=seed,
        bare_base=first["base"],
        best_init=max(first["accuracy"].values()),
        init_mean=statistics.mean(first["accuracy"].values()),
        final_mean=statistics.mean(last["accuracy"].values()),
        final_best=max(last["accuracy"].values()),
        final_worst=min(last["accuracy"].values()),
        final_own_skill=_own(last),
        init_own_skill=_own(first),
        final_other_skills=_others(last),
        init_other_skills=_others(first),
        mean_by_iteration=[statistics.mean(row["accuracy"].values()) for row in rows],
        reputation_range=(min(reputations), max(reputations)),
        seconds=seconds,
    )


def _own(row: dict[str, Any]) -> float:
    return float(statistics.mean(row["by_skill"][name][name] for name in row["accuracy"]))


def _others(row: dict[str, Any]) -> float:
    shares = (row["by_skill"][name].items() for name in row["accuracy"])
    return float(
        statistics.mean(
            share
            for name, of in zip(row["accuracy"], shares, strict=True)
            for skill, share in of
            if skill != name
        )
    )


def table(title: str, gains: list[Gain]) -> Table:
    result = Table(title=title, title_justify="left")
    for column in ("seed", "bare base", "best init", "mean, start", "mean", "best", "worst", "seconds"):
        result.add_column(column, justify="right")
    columns = [
        [gain.bare_base for gain in gains],
        [gain.best_init for gain in gains],
        [gain.init_mean for gain in gains],
        [gain.final_mean for gain in gains],
        [gain.final_best for gain in gains],
        [gain.final_worst for gain in gains],
    ]
    for index, gain in enumerate(gains):
        result.add_row(str(gain.seed), *(f"{values[index]:.3f}" for values in columns), f"{gain.seconds:.0f}")
    if len(gains) > 1:
        spread = [f"{statistics.mean(values):.3f} ±{statistics.stdev(values):.3f}" for values in columns]
        result.add_section()
        result.add_row("mean ± sd", *spread, f"{statistics.mean(gain.seconds for gain in gains):.0f}")
    return result


def notes(gains: list[Gain]) -> list[str]:
    def mean(name: str) -> float:
        return float(statistics.mean(getattr(gain, name) for gain in gains))

    curves = zip(*(gain.mean_by_iteration for gain in gains), strict=True)
    low, high = (
        min(gain.reputation_range[0] for gain in gains),
        max(gain.reputation_range[1] for gain in gains),
    )
    return [
        "tribe's mean by iteration: " + " ".join(f"{statistics.mean(values):.3f}" for values in curves),
        f"in the adapters' own skill {mean('init_own_skill'):.3f} -> {mean('final_own_skill'):.3f}, "
        f"in the other nine {mean('init_other_skills'):.3f} -> {mean('final_other_skills'):.3f}",
        f"reputations stayed within {low:.1f} and {high:.1f}",
    ]


def difference(setting: str, ours: list[Gain], theirs: list[Gain]) -> str:
    gaps = [other.final_mean - own.final_mean for own, other in zip(ours, theirs, strict=True)]
    if not any(gaps):
        return f"{setting}: NO EFFECT, every seed ended with the very same accuracies"
    spread = statistics.stdev(gaps) if len(gaps) > 1 else float("nan")
    verdict = (
        "not separable from no effect"
        if abs(statistics.mean(gaps)) < 2 * spread / len(gaps) ** 0.5
        else "differs"
    )
    return f"{setting}: final mean {statistics.mean(gaps):+.4f} ±{spread:.4f} against the default, {verdict}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", default="1,2,3,4,5", help="comma-separated")
    parser.add_argument(
        "--set", dest="sets", action="append", default=[], help="setting of every run, key=value"
    )
    parser.add_argument("--compare", action="append", default=[], help="repeat with this key=value as well")
    parser.add_argument("--jobs", type=int, default=1, help="runs at the same time")
    parser.add_argument("--json", type=Path, help="write the figures there")
    arguments = parser.parse_args()
    try:
        seeds = [int(seed) for seed in arguments.seeds.split(",")]
    except ValueError:
        parser.error(f"--seeds takes whole numbers separated by commas, not {arguments.seeds!r}")

    arms = {"the default run": arguments.sets} | {each: [*arguments.sets, each] for each in arguments.compare}
    console = Console()
    try:
        for sets in arms.values():
            load_config(None, sets)
        with ProcessPoolExecutor(arguments.jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
            pending = {
                name: [pool.submit(measure, seed, sets) for seed in seeds] for name, sets in arms.items()
            }
            results = {name: [each.result() for each in futures] for name, futures in pending.items()}
    except SpartaError as error:
        sys.exit(f"error: {error}")

    default = results["the default run"]
    for name, gains in results.items():
        console.print(table(f"held-out accuracy, {name}", gains))
        for note in notes(gains):
            console.print(f"  {note}", highlight=False)
        if name in arguments.compare:
            console.print(f"  {difference(name, default, gains)}", highlight=False)
        console.print()
    if arguments.json:
        compared = {name: [asdict(gain) for gain in results[name]] for name in arguments.compare}
        write_json(arguments.json, {"seeds": [asdict(gain) for gain in default], "compared": compared})


if __name__ == "__main__":
    main()
