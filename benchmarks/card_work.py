"""Steps made one after the other, each noted before and after: what fails or is lost keeps the rest."""

from __future__ import annotations

import gc
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from card_table import summary

if TYPE_CHECKING:
    from card_tools import Card

GRACE = 20.0
"""Seconds over its budget after which a step's process is killed."""
LOST = 3
"""Exit code of a worker whose card answers no more."""


@dataclass(frozen=True)
class Step:
    module: str
    """Of this folder; imported when its turn comes."""
    function: str
    seconds: int
    """Expected on an H100."""
    budget: int
    """Seconds after which it is given up."""
    shown: tuple[str, ...] = ()
    """What of its findings the table shows, by dotted keys."""


class OutOfTime(BaseException):
    """No ``Exception``: nothing on the way may take it for a failure of its own."""


def work(
    card: Card,
    steps: Mapping[str, Step],
    names: Sequence[str],
    file: Path,
    facts: Mapping[str, Any],
    until: float = math.inf,
) -> None:
    """Make the steps one after the other, each noted in ``file`` before it begins and when it is over.

    Args:
        card: where.
        steps: all there are.
        names: of those that are made.
        file: the JSON file.
        facts: of the machine, noted in front.
        until: by ``time.time``; no step begins after it.
    """
    report = read(file)
    report["about"] = dict(facts)
    for name in names:
        if time.time() > until:
            report["steps"][name] = {"status": "left out", "error": "no time was left"}
            continue
        print(f"{name}: at most {steps[name].budget} s ...", file=sys.stderr, flush=True)
        note(report, file, name, {"status": "running", "since": time.time()})
        note(report, file, name, attempt(steps[name], card))
        print(f"{name}: {summary(steps[name], report['steps'][name])}", file=sys.stderr, flush=True)
        if report["steps"][name]["status"] != "done":
            gc.collect()
            if not answers(card):
                sys.exit(LOST)
    write(report, file)


def attempt(step: Step, card: Card) -> dict[str, Any]:
    """One step: its status, seconds, and findings or error."""
    start = time.perf_counter()
    try:
        with limited(step.budget):
            found = getattr(import_module(step.module), step.function)(card)
        ended: dict[str, Any] = {"status": "done", "found": plain(found)}
    except OutOfTime:
        ended = {"status": "out of time", "error": f"it took longer than {step.budget} s"}
    except (Exception, SystemExit) as error:  # compiler, driver and libraries raise anything
        ended = {"status": "failed", "error": one_line(error)}
    return {"seconds": round(time.perf_counter() - start, 2), **ended}


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    """End what is inside after so many seconds, as soon as Python has its turn."""

    def end(*_: object) -> None:
        raise OutOfTime

    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def answers(card: Card) -> bool:
    """Whether the device still does what it is told: after some errors a CUDA context never does."""
    try:
        card.empty()
        card.clock()
    except Exception:
        return False
    return True


def one_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[-1] if lines else 'nothing said'}"[:300]


def plain(value: Any) -> Any:
    """``value`` as JSON takes it: what is no finite number becomes None."""
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if isinstance(value, float):
        return float(f"{value:.5g}") if math.isfinite(value) else None
    return value


def read(file: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {"steps": {}}
    return found


def write(report: dict[str, Any], file: Path) -> None:
    """Whole, so that a machine that is taken away leaves what was found."""
    partial = file.with_suffix(".partial")
    partial.write_text(json.dumps(report, indent=1, allow_nan=False) + "\n")
    os.replace(partial, file)


def note(report: dict[str, Any], file: Path, name: str, ended: dict[str, Any]) -> None:
    report["steps"][name] = ended
    write(report, file)


def drive(steps: Mapping[str, Step], names: Sequence[str], file: Path, command: Sequence[str]) -> None:
    """Have the steps made by workers, a new one wherever one was lost."""
    waiting = list(names)
    while waiting:
        code = _watched(steps, file, [*command, "--only", ",".join(waiting)])
        report = read(file)
        ended = report["steps"]
        for name in waiting:
            if ended.get(name, {}).get("status") == "running":
                error = f"its process ended with code {code}"
                note(report, file, name, {"status": "failed", "error": error})
        rest = [name for name in waiting if name not in ended]
        if len(rest) == len(waiting):  # it did not come to the first one
            for name in rest:
                note(report, file, name, {"status": "failed", "error": f"no worker began, code {code}"})
            return
        waiting = rest


def _watched(steps: Mapping[str, Step], file: Path, command: Sequence[str]) -> int:
    """A worker's exit code. One that hangs in a call of the driver, which no signal ends, is killed."""
    worker = subprocess.Popen(command)
    try:
        while True:
            try:
                return worker.wait(timeout=1)
            except subprocess.TimeoutExpired:
                for name, ended in read(file)["steps"].items():
                    late = time.time() - ended.get("since", math.inf) - steps[name].budget
                    if ended["status"] == "running" and late > GRACE:
                        worker.kill()
    finally:
        worker.kill()
        worker.wait()
