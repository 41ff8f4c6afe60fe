"""Everything that only a card can tell, for one that is rented by the minute.

    python benchmarks/first_minutes.py                            # all steps, twelve minutes on an H100
    python benchmarks/first_minutes.py --only decode,dpo          # some of them
    python benchmarks/first_minutes.py --seconds 330              # none begins later; the next call goes on
    python benchmarks/first_minutes.py --rehearse                 # every step on a CPU at a tiny shape

Steps go from what is needed first to what may be left out. What was found stands in the JSON file after
every one of them. A step that fails, or takes longer than it may, is noted with its error in one line, and
the next one goes on; where the process or the card's context is lost with it, in a new process. The base has
random weights of Qwen2.5-7B's shape (on a small card a smaller one's) and is made in memory. Nothing is
fetched from a network: ``carry.sh`` brings what a bare machine lacks.

**Not yet run on a GPU.**
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from card_table import show
from card_work import Step, drive, read, work, write

if TYPE_CHECKING:
    from card_tools import Card, Sizes

STEPS = {
    "install": Step("card_install", "install", 50, 150, ("kernels", "build_seconds", "nf4")),
    "soundness": Step("card_soundness", "soundness", 70, 120, ("all_sound",)),
    "nf4": Step("card_steps", "nf4_products", 25, 60),
    "decode": Step("card_steps", "decode", 75, 120),
    "judging": Step("card_steps", "judging", 40, 80, ("prompts_a_second", "share_of_floor")),
    "dpo": Step(
        "card_steps", "dpo", 70, 140, ("reference_ms_a_batch", "update_ms", "adapter_pairs_a_second")
    ),
    "memory": Step("card_steps", "memory", 40, 120),
    "unpacked": Step(
        "card_steps", "unpacked", 60, 180, ("setting", "judging.prompts_a_second", "dpo.update_ms")
    ),
    "run": Step(
        "card_runs", "whole_run", 50, 120, ("new_tokens_a_second", "judge_prompts_a_second", "pairs")
    ),
    "unsloth": Step("card_runs", "unsloth", 130, 240, ("trainer", "unsloth.update_ms", "tribe.update_ms")),
    "tests": Step("card_runs", "tests", 120, 300, ("said", "failed")),
}


def sizes_for(total: int, free: int, rehearsal: bool) -> Sizes:
    """What a device of so many bytes, of which so many are free, is asked."""
    from card_tools import Sizes

    if rehearsal:
        return Sizes(
            shape="tiny",
            rows=(4, 6),
            prompt=8,
            steps=3,
            nf4_tokens=(8, 16),
            judged=300,
            question=12,
            answer=10,
            pairs=2,
            caps=(4 * 10**9, 2 * 10**9),
            duels=8,
            new_tokens=4,
            rank=4,
            adapters=4,
        )
    shape, base, cell = next(each for each in _BASES if each[1] <= 0.6 * free or each is _BASES[-1])
    rows = tuple(count for count in (128, 256) if count * 400 * cell < 0.4 * (free - base)) or (32,)
    caps = tuple(cap for cap in (80 * 10**9, 24 * 10**9) if cap <= total) or (int(0.95 * total),)
    judged = 32768 if free > 40e9 else 8192
    return Sizes(shape, rows, 128, 64, (8, 16, 32, 64, 128, 256), judged, 200, 250, 8, caps, 8, 256)


_BASES = (("7b", 8 * 10**9, 56 << 10), ("1.5b", 3 * 10**9, 28 << 10), ("small", 10**8, 4 << 10))
"""Shape; bytes with ten adapters of rank 16, roughly; bytes of a cached token."""


def steps_of(rehearsal: bool) -> dict[str, Step]:
    """``STEPS``; in a rehearsal none is given up before ten minutes, however busy the machine is."""
    return {name: replace(step, budget=600 if rehearsal else step.budget) for name, step in STEPS.items()}


def make_card(arguments: argparse.Namespace, folder: Path) -> Card:
    import torch
    from card_base import describe_base
    from card_tools import Card

    from sparta_lite.engine.device import keep_compiled

    if arguments.rehearse:
        device, dtype, total, free = torch.device("cpu"), torch.float32, 0, 0
        torch.set_num_threads(1)
    else:
        device, dtype = torch.device("cuda"), torch.bfloat16
        keep_compiled(device)
        free, total = torch.cuda.mem_get_info()
    sizes = sizes_for(total, free, arguments.rehearse)
    given = {"shape": arguments.shape, "duels": arguments.duels, "new_tokens": arguments.new_tokens}
    sizes = replace(sizes, **{name: value for name, value in given.items() if value is not None})
    describe_base(folder, sizes.shape)
    return Card(device, dtype, sizes, folder)


def needs(names: Sequence[str], rehearsal: bool) -> str:
    """Said in advance."""
    seconds = sum(STEPS[name].seconds for name in names)
    if rehearsal:
        return f"{len(names)} steps on one CPU thread at a tiny shape: under three minutes, 3 GB of memory"
    disk = ", 6 GB of disk" if "unsloth" in names else ""
    return (
        f"{len(names)} steps, about {seconds} s on an H100: a CUDA device of 24 GB (a smaller base on "
        f"a smaller one), 16 GB of memory{disk}; torch, triton, transformers, bitsandbytes, and for its step "
        "Unsloth"
    )


def chosen(only: Sequence[str] | None) -> list[str]:
    """The steps that are asked for, in their order."""
    asked = [name for each in only or [",".join(STEPS)] for name in each.split(",")]
    unknown = [name for name in asked if name not in STEPS]
    if unknown:
        sys.exit(f"error: --only {unknown[0]}: no such step; there are {', '.join(STEPS)}")
    return [name for name in STEPS if name in asked]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, default=Path("first_minutes.json"), help="where it is noted")
    parser.add_argument("--only", action="append", metavar="STEP", help=f"of {', '.join(STEPS)}")
    parser.add_argument("--rehearse", action="store_true", help="on a CPU, at a tiny shape")
    parser.add_argument("--seconds", type=float, default=math.inf, help="after which no step begins")
    parser.add_argument("--shape", help="of the base: 7b, 1.5b, small, tiny")
    parser.add_argument("--duels", type=int, help="of the step `run`")
    parser.add_argument("--new-tokens", type=int, help="of its answers")
    parser.add_argument("--until", type=float, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    names = chosen(arguments.only)
    if arguments.rehearse:
        os.environ["TRITON_INTERPRET"] = "1"  # before Triton is imported
    if arguments.until is not None:  # a worker
        with tempfile.TemporaryDirectory() as folder:
            from card_install import about

            card = make_card(arguments, Path(folder))
            work(card, steps_of(arguments.rehearse), names, arguments.json, about(card), arguments.until)
        return

    import torch

    if not arguments.rehearse and not torch.cuda.is_available():
        sys.exit("error: torch sees no CUDA device; --rehearse goes through every step on a CPU")
    report = read(arguments.json)
    done = [name for name, ended in report["steps"].items() if ended["status"] == "done"]
    names = [name for name in names if name not in done or arguments.only]
    print(needs(names, arguments.rehearse), flush=True)
    if report.get("about", {}).get("rehearsal", arguments.rehearse) != arguments.rehearse:
        other = "card" if arguments.rehearse else "rehearsal"
        sys.exit(f"error: {arguments.json} is of a {other}; give another --json")
    report["steps"] = {name: ended for name, ended in report["steps"].items() if name not in names}
    write(report, arguments.json)
    command = [
        sys.executable,
        __file__,
        *without_only(sys.argv[1:]),
        "--until",
        str(time.time() + arguments.seconds),
    ]
    drive(steps_of(arguments.rehearse), names, arguments.json, command)
    show(STEPS, read(arguments.json))


def without_only(given: Sequence[str]) -> list[str]:
    """Arguments for a worker, which is told its steps."""
    kept, skip = [], False
    for each in given:
        if skip or each.startswith("--only="):
            skip = False
        elif each == "--only":
            skip = True
        else:
            kept.append(each)
    return kept


if __name__ == "__main__":
    main()
