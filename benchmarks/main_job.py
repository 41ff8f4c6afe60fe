"""The default run, two checkouts in turns: CPU seconds from the start of the program to its end.

    python benchmarks/main_job.py ../before . --repeats 3 --json main_job.json

Each checkout has its own ``.venv``, as ``make`` sets it up. Every run is a fresh process in a fresh folder,
on one thread, as the pocket tribe always runs. Figures are user and system seconds of that process and its
children; what the tribe came to is read from its record.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import fmean, median

from side_by_side import command_line

from sparta_lite.files import write_json


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("checkouts", type=Path, nargs=2, metavar="CHECKOUT", help="the earlier one first")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", dest="sets", action="append", default=[], help="a setting of all runs")
    parser.add_argument("--quick", action="store_true", help="one small iteration each: a smoke test")
    arguments = parser.parse_args()
    sets, repeats = arguments.sets, arguments.repeats
    if arguments.quick:
        sets, repeats = ["iterations=1", "duels=20", "evaluation.items=10"], 1
    found: dict[str, list[tuple[float, float]]] = {str(place): [] for place in arguments.checkouts}
    for _ in range(repeats):
        for place in arguments.checkouts:
            with tempfile.TemporaryDirectory() as scratch:
                spent = _run(place.resolve(), arguments.seed, sets, Path(scratch) / "run")
                found[str(place)].append((spent, _accuracy(Path(scratch) / "run")))
    for place, runs in found.items():
        seconds = sorted(spent for spent, _ in runs)
        means = ", ".join(sorted({f"{accuracy:.3f}" for _, accuracy in runs}))
        print(
            f"{place}: {median(seconds):.1f} CPU seconds ({seconds[0]:.1f} to {seconds[-1]:.1f}), "
            f"held-out mean {means}"
        )
    before, after = (median(spent for spent, _ in runs) for runs in found.values())
    print(f"the second takes {after / before:.2f} of the first's CPU seconds")
    if arguments.json:
        write_json(arguments.json, {"seed": arguments.seed, "sets": sets, "runs": found})


def _run(checkout: Path, seed: int, sets: list[str], out: Path) -> float:
    """Make a run; its CPU seconds."""
    command = [str(checkout / ".venv" / "bin" / "sparta-lite"), "run", "--plain", "--seed", str(seed)]
    command += ["--out", str(out), *(part for each in sets for part in ("--set", each))]
    start = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        command, cwd=out.parent, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True
    )
    end = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        sys.exit(f"error: {checkout}: {done.stderr.strip()}")
    return end.ru_utime + end.ru_stime - start.ru_utime - start.ru_stime


def _accuracy(run: Path) -> float:
    """The tribe's mean in the last evaluation."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    last = next(row for row in reversed(rows) if "accuracy" in row and isinstance(row["accuracy"], dict))
    return fmean(last["accuracy"].values())


if __name__ == "__main__":
    main()
