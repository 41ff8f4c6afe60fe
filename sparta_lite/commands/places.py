"""Which directory a run goes to, and which one goes on."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sparta_lite.errors import SpartaError
from sparta_lite.typed import Form

RUNS = Path("runs")

_BEFORE_THE_RUN = {"lock", "config.yaml"}  # what a run that was stopped at once has left


def fresh(name: str) -> Path:
    """``runs/<name>``, or the first of ``<name>-2``, ``<name>-3``, ... that does not exist."""
    names = itertools.chain([name], (f"{name}-{number}" for number in itertools.count(2)))
    return next(RUNS / each for each in names if not (RUNS / each).exists())


def require_free(out: Path) -> None:
    """Raises SpartaError when ``out`` already holds something that a new run must not touch."""
    if not out.exists():
        return
    if not out.is_dir():
        raise SpartaError(f"{out}: is a file; give --out a directory that does not exist yet")
    state = status(out)
    if state == "finished":
        raise SpartaError(f"{out}: holds a finished run; give --out a directory that does not exist yet")
    if state is not None:
        raise SpartaError(f"{out}: holds an unfinished run; go on with it by --resume, or give another --out")
    if any(entry.name not in _BEFORE_THE_RUN and entry.suffix != ".partial" for entry in out.iterdir()):
        raise SpartaError(
            f"{out}: holds files that are no run's; give --out a directory that does not exist yet"
        )


def unfinished() -> Iterator[Path]:
    """The runs under ``runs/`` that are not finished, the one that was last written to first.

    Raises:
        SpartaError: the record of the next one is damaged, so that this cannot be told.
    """
    runs = [record.parent for record in RUNS.glob("*/run.json")]
    for run in sorted(runs, key=_last_written, reverse=True):
        if status(run) != "finished":
            yield run


def newest_unfinished() -> Path:
    """Raises SpartaError when nothing under ``runs/`` is unfinished, or a later run's record is damaged."""
    found = next(unfinished(), None)
    if found is None:
        raise SpartaError(f"{RUNS}/: holds no unfinished run; name one with --out, or leave --resume out")
    return found


@dataclass(frozen=True)
class _Status:
    status: str


_STATUS = Form(_Status)


def status(run: Path) -> str | None:
    """What ``run.json`` says; None where there is none.

    Raises:
        SpartaError: it is damaged.
    """
    record = run / "run.json"
    return _STATUS.file(record).status if record.is_file() else None


def _last_written(run: Path) -> float:
    """By the files that only grow: others may vanish under a run that goes on right now."""
    files = [run / "run.json", run / "events.jsonl"]
    return max((file.stat().st_mtime for file in files if file.exists()), default=0.0)
