"""Which runs stand below a directory, and how they are: told by their files alone."""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from sparta_lite.campaign.records import who_learns
from sparta_lite.errors import SpartaError
from sparta_lite.files import read_json, read_lines

RECORD, EVENTS, METRICS, LOCK = "run.json", "events.jsonl", "metrics.jsonl", "lock"


@dataclass(frozen=True)
class Overview:
    """One run in a line; None where its files do not say."""

    path: Path
    state: str
    """'finished', 'running', 'stopped', 'failed' or 'unreadable'."""
    done: int
    """Iterations that are complete."""
    iterations: int | None
    duels: int | None
    """Per iteration."""
    tribe: int | None
    base: str | None
    accuracy: float | None
    """The tribe's mean when it was last measured, in the first task; a mean score where that is judged.

    Hostile adapters are left out, and where one adapter learns alone it is that one's.
    """
    started: float | None
    """Seconds since 1970."""
    seconds: float | None
    """From its start to its end, or to its last sign of life."""
    note: str = ""
    """Why it failed or cannot be read."""


def is_held(run: Path) -> bool:
    """Whether a process works on ``run``. The lock is tried shared and let go of at once."""
    try:
        handle = (run / LOCK).open("rb")
    except OSError:
        return False
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def state_of(run: Path) -> str:
    """'finished', 'failed', 'running', or 'stopped' for a run that no process works on.

    Raises:
        SpartaError: its record is missing or damaged.
    """
    if is_held(run):
        return "running"
    status = read_json(run / RECORD, ("status",))["status"]
    return str(status) if status in ("finished", "failed") else "stopped"


def find_runs(below: Path) -> list[Overview]:
    """Every run in or below a directory, the one that was started last at the end.

    Raises:
        SpartaError: there is no such directory.
    """
    if not below.is_dir():
        raise SpartaError(f"{below}: no such directory; give one that holds runs")
    found = [overview(run) for run in _runs(below)]
    return sorted(found, key=lambda run: (run.started or 0.0, run.path))


def _runs(below: Path) -> Iterator[Path]:
    for place, directories, files in os.walk(below):
        if RECORD in files:
            directories.clear()  # a run holds no other
            yield Path(place)
        directories.sort()


def overview(run: Path) -> Overview:
    """One run, also where a file of it is damaged: the note then says which."""
    try:
        return _overview(run)
    except SpartaError as error:
        note = str(error)
    except (KeyError, TypeError, AttributeError) as error:  # valid JSON that is not a run's
        note = f"its files were changed or are damaged ({type(error).__name__}: {error})"
    return Overview(run, "unreadable", 0, None, None, None, None, None, None, None, note)


def _overview(run: Path) -> Overview:
    record = read_json(run / RECORD, ("status", "started"))
    state = state_of(run)
    first = _first_start(run / EVENTS)
    started = record["started"]
    done = 0
    while (run / f"iteration-{done:02d}" / "adapters").is_dir():
        done += 1
    return Overview(
        path=run,
        state=state,
        done=done,
        iterations=first.get("iterations"),
        duels=first.get("duels"),
        tribe=len(first["tribe"]) if "tribe" in first else None,
        base=first.get("base"),
        accuracy=_accuracy(run / METRICS, record.get("hostile", ())),
        started=started,
        seconds=_end(run, record, state) - started,
        note=str(record.get("error") or ""),
    )


def _end(run: Path, record: dict[str, Any], state: str) -> float:
    if state == "running":
        return time.time()
    finished = record.get("finished")
    return float(finished) if finished is not None else _last_sign(run)


def _last_sign(run: Path) -> float:
    return max((run / name).stat().st_mtime for name in (RECORD, EVENTS) if (run / name).exists())


def _first_start(events: Path) -> dict[str, Any]:
    """The first event that says what the run is; empty where nothing has happened yet."""
    if not events.is_file():
        return {}
    with events.open("rb") as lines:
        for line in lines:
            if line.startswith(b'{"event": "RunStarted"') and line.endswith(b"\n"):
                try:
                    row: dict[str, Any] = json.loads(line)
                except ValueError as error:
                    raise SpartaError(f"{events}: not valid JSON ({error})") from error
                return row
    return {}


def _accuracy(metrics: Path, hostile: Collection[str]) -> float | None:
    rows = read_lines(metrics, ("kind", "iteration")) if metrics.is_file() else []
    measured = [row for row in rows if row["kind"] == "evaluation"]
    if not measured:
        return None
    latest = max(measured, key=lambda row: row["iteration"])["accuracy"]
    values = [latest[name] for name in who_learns(rows) or latest if name not in hostile]
    return None if None in values or not values else fmean(values)
