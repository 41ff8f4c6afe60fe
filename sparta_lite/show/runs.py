"""Which runs stand below a directory, and how they are: told by their files alone."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from sparta_lite.campaign.events import EventReader, RunStarted
from sparta_lite.campaign.metrics import evaluations, who_learns
from sparta_lite.campaign.reading import read_metrics
from sparta_lite.campaign.store import Store
from sparta_lite.errors import SpartaError
from sparta_lite.typed import Form, Moment

RECORD, EVENTS, LOCK = "run.json", "events.jsonl", "lock"


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
    status = _STATUS.file(run / RECORD).status
    return status if status in ("finished", "failed") else "stopped"


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
        return Overview(run, "unreadable", 0, None, None, None, None, None, None, None, str(error))
    except OSError as error:
        note = f"{error.filename}: {error.strerror}"
        return Overview(run, "unreadable", 0, None, None, None, None, None, None, None, note)


@dataclass(frozen=True)
class _Status:
    """As much of a run's record as says how it stands."""

    status: str


@dataclass(frozen=True)
class _Outline(_Status):
    """... and as the list of runs has."""

    started: Moment
    finished: Moment | None = None
    hostile: tuple[str, ...] = ()
    error: str | None = None


_STATUS = Form(_Status)
_OUTLINE = Form(_Outline)


def _overview(run: Path) -> Overview:
    record = _OUTLINE.file(run / RECORD)
    state = state_of(run)
    first = _first_start(run / EVENTS)
    return Overview(
        path=run,
        state=state,
        done=Store(run).complete(),
        iterations=None if first is None else first.iterations,
        duels=None if first is None else first.duels,
        tribe=None if first is None else len(first.tribe),
        base=None if first is None else first.base,
        accuracy=None if first is None else _accuracy(run, first, record.hostile),
        started=record.started,
        seconds=_end(run, record, state) - record.started,
        note=record.error or "",
    )


def _end(run: Path, record: _Outline, state: str) -> float:
    if state == "running":
        return time.time()
    return _last_sign(run) if record.finished is None else record.finished


def _last_sign(run: Path) -> float:
    return max((run / name).stat().st_mtime for name in (RECORD, EVENTS) if (run / name).exists())


def _first_start(events: Path) -> RunStarted | None:
    """The first event that says what the run is; None where nothing has happened yet."""
    if not events.is_file():
        return None
    reader = EventReader(events)
    with events.open("rb") as lines:
        for line in lines:
            if not line.endswith(b"\n"):
                break
            if isinstance(event := reader.read(line).event, RunStarted):
                return event
    return None


def _accuracy(run: Path, start: RunStarted, hostile: Collection[str]) -> float | None:
    metrics = read_metrics(Store(run), start.tribe, start.iterations)
    measured = list(evaluations(metrics).values())
    if not measured:
        return None
    latest = measured[-1].accuracy
    values = [latest[name] for name in who_learns(metrics) or latest if name not in hostile]
    known = [value for value in values if value is not None]
    return fmean(known) if known and len(known) == len(values) else None
