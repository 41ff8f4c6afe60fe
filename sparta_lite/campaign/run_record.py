"""``run.json``: how a run stands, what it was made from, and the digests of the files that it has written.

The record carries a digest of itself (``sha256``), and below ``files`` that of every file that decides a
result. A file that only grows counts as far as its digest does: what a killed process wrote beyond it is done
again. A record without a digest of its own is of an earlier version: nothing of such a run can be checked.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from sparta_lite.errors import SpartaError
from sparta_lite.typed import RESTORE, Count, Form, Moment, Positive, parse, read_bytes

FORMAT = 3
"""Version of the directory's form, in ``run.json``."""

UNCHECKED = "began with an earlier version, without digests: whether its files were changed is not checked"
"""What is said, once, of a run without them."""

_SEAL = "sha256"

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


@dataclass(frozen=True)
class Digest:
    """Of a file, or of the beginning of one that grows."""

    bytes: Count
    """How many of them."""
    sha256: Sha256


@dataclass(frozen=True)
class RunRecord:
    """What ``run.json`` holds."""

    status: str
    """'running', 'interrupted', 'failed' or 'finished'."""
    seed: Count
    algorithm: str
    hostile: tuple[str, ...]
    device: str
    threads: Positive
    versions: dict[str, str]
    choices: dict[str, str]
    """What the settings left to the machine: what was chosen, and why."""
    hashes: dict[str, Sha256]
    """Of the run's inputs."""
    started: Moment
    settings: Sha256 | None = None
    """Of the settings alone, without what may be edited afterwards: see ``inputs.settings_digest``."""
    date: str | None = None
    """What a chat template takes for now, in ISO's form; None: an earlier version began the run."""
    finished: Moment | None = None
    error: str | None = None
    """Why it failed."""
    files: dict[str, Digest] = field(default_factory=dict)
    """Path below the run's directory -> what it held when it was written."""
    sha256: Sha256 | None = None
    """Of all the rest; None: an earlier version began the run."""


@dataclass(frozen=True)
class _Version:
    format: int


_VERSION = Form(_Version)
_RECORD = Form(RunRecord)


def read_record(path: Path) -> RunRecord:
    """The record of a run.

    Raises:
        SpartaError: it is missing, of another version, damaged, or was changed by hand.
    """
    return _RECORD.of(_checked(path), str(path))


def changed_record(path: Path, changes: Mapping[str, Any]) -> dict[str, Any]:
    """The record in ``path``, or a new one, with ``changes``, to be written there.

    Raises:
        SpartaError: see ``read_record``.
    """
    before: dict[str, Any] = parse(_checked(path), str(path)) if path.exists() else {_SEAL: None}
    record = {**before, **changes}
    if _SEAL in before:
        record[_SEAL] = _seal(record)
    return record


def digest_of(data: bytes) -> Digest:
    return Digest(len(data), hashlib.sha256(data).hexdigest())


def digest_of_file(path: Path) -> Digest:
    """Raises SpartaError where the file cannot be read."""
    try:
        with path.open("rb") as file:
            sha = hashlib.sha256()
            while block := file.read(1 << 20):
                sha.update(block)
            return Digest(file.tell(), sha.hexdigest())
    except FileNotFoundError as error:
        raise SpartaError(f"{path}: no such file, though {path.name} was written; {RESTORE}") from error
    except OSError as error:
        raise SpartaError(f"{path}: {error.strerror or error}; give a file that can be read") from error


def _checked(path: Path) -> bytes:
    data = read_bytes(path)
    version = _VERSION.of(data, str(path)).format
    if version != FORMAT:
        raise SpartaError(
            f"{path}: not of this version's form, {FORMAT}; go on with the version that began the run"
        )
    record = parse(data, str(path))
    if (_SEAL in record or "files" in record) and record.get(_SEAL) != _seal(record):
        raise SpartaError(f"{path}: was changed since it was written; restore it from a copy")
    return data


def _seal(record: Mapping[str, Any]) -> str:
    rest = {key: value for key, value in record.items() if key != _SEAL}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()
