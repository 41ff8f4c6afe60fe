"""A run's directory: its files, its lock, its record, and what its files held when they were written."""

from __future__ import annotations

import contextlib
import shlex
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from sparta_lite.campaign.lock import hold
from sparta_lite.campaign.run_record import (
    Digest,
    RunRecord,
    changed_record,
    digest_of,
    digest_of_file,
    read_record,
)
from sparta_lite.errors import SpartaError
from sparta_lite.files import clear_errors, sync, uninterrupted, write_json, write_text
from sparta_lite.typed import read_bytes

ABLATION = "ablation.json"
"""What the directory of an ablation has where a run's has ``run.json``."""

_GROWING = ("events.jsonl", "metrics.jsonl", "duels.jsonl", "judgments.jsonl")
_BEFORE_THE_RUN = ("lock", "config.yaml")
"""What a run that was stopped at once has left."""


class Store:
    """The files of one run.

    ::

        config.yaml  run.json  events.jsonl  metrics.jsonl  evaluations/
        iteration-00/  duels.jsonl  judgments.jsonl  reputation.json  preferences.jsonl  adapters/<name>/

    While an iteration is trained ``training.safetensors`` stands beside them.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.config = root / "config.yaml"
        self.run = root / "run.json"
        self.events = root / "events.jsonl"
        self.metrics = root / "metrics.jsonl"
        self._record: RunRecord | None = None
        self._taken_up = False

    def duels(self, iteration: int) -> Path:
        return self.iteration(iteration) / "duels.jsonl"

    def judgments(self, iteration: int) -> Path:
        return self.iteration(iteration) / "judgments.jsonl"

    def reputation(self, iteration: int) -> Path:
        return self.iteration(iteration) / "reputation.json"

    def preferences(self, iteration: int) -> Path:
        return self.iteration(iteration) / "preferences.jsonl"

    def adapters(self, iteration: int) -> Path:
        """The tribe after the iteration's training; it exists only when it is complete."""
        return self.iteration(iteration) / "adapters"

    def training(self, iteration: int) -> Path:
        return self.iteration(iteration) / "training.safetensors"

    def iteration(self, iteration: int) -> Path:
        return self.root / f"iteration-{iteration:02d}"

    def complete(self) -> int:
        """How many iterations are complete.

        Raises:
            SpartaError: one lacks its adapters though a later one has them.
        """
        return self._leading(self.adapters)

    def settled(self) -> int:
        """How many iterations have come to their reputations.

        Raises:
            SpartaError: one lacks them though a later one has them.
        """
        return self._leading(self.reputation)

    def _leading(self, part: Callable[[int], Path]) -> int:
        count = 0
        while part(count).exists():
            count += 1
        if self.iteration(count + 1).exists():
            raise SpartaError(
                f"{part(count)}: is missing, and {self.iteration(count + 1).name} was made from it; restore "
                "it from a copy"
            )
        return count

    def locked(self) -> contextlib.AbstractContextManager[None]:
        """Hold the directory for this process.

        Raises:
            SpartaError: another process holds it, or it cannot be written.
        """
        return hold(self.root)

    @contextlib.contextmanager
    def announced(self, settings: str) -> Iterator[None]:
        """Leave the settings behind until the run has begun: one that is killed before can be taken up.

        One that is refused or interrupted leaves the directory as it was.
        """
        before = self.config.read_bytes() if self.config.is_file() else None
        write_text(self.config, settings)
        try:
            yield
        except BaseException:
            if not self.run.is_file():
                if before is None:
                    self.config.unlink(missing_ok=True)
                else:
                    self.config.write_bytes(before)
            raise

    def write_adapters(self, iteration: int, write: Callable[[Path], None]) -> None:
        """Let ``write`` fill a fresh directory, then make it the iteration's adapters in one step."""
        partial = self.iteration(iteration) / ".adapters.partial"
        with uninterrupted(), clear_errors(partial):
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            write(partial)
            sync(partial)
            if self.digests() is not None:
                place = self.adapters(iteration)
                self.record(
                    {place / file.relative_to(partial): digest_of_file(file) for file in _files(partial)}
                )
            partial.rename(self.adapters(iteration))
            sync(partial.parent)
            self.training(iteration).unlink(missing_ok=True)

    def holds_foreign_files(self) -> bool:
        """Whether something stands here that no run has left before it began."""
        return self.root.is_dir() and any(
            path.name not in _BEFORE_THE_RUN and not path.name.endswith(".partial")
            for path in self.root.iterdir()
        )

    def close(self, end: BaseException) -> None:
        """Note in ``run.json`` how a run ended that did not finish; one not taken up stays as it is."""
        if self._taken_up and self.read_run().status == "running":
            stopped = isinstance(end, KeyboardInterrupt | SystemExit)
            self.update_run(
                status="interrupted" if stopped else "failed", error=None if stopped else str(end) or None
            )

    def read_run(self) -> RunRecord:
        """What ``run.json`` holds.

        Raises:
            SpartaError: it is damaged or of another version.
        """
        self._record = read_record(self.run)
        return self._record

    def update_run(self, **changes: Any) -> None:
        """Change some keys of ``run.json``."""
        write_json(self.run, changed_record(self.run, changes))
        self._record = None
        self._taken_up = self._taken_up or changes.get("status") == "running"

    def digests(self) -> Mapping[str, Digest] | None:
        """What the run's files held when they were written; None: this run keeps no account of it."""
        if self._record is None:
            if not self.run.is_file():
                return None
            self.read_run()
        assert self._record is not None
        return None if self._record.sha256 is None else self._record.files

    def digest(self, path: Path) -> Digest | None:
        """Of one of the run's files; None: nothing is known of it."""
        return (self.digests() or {}).get(self._name(path))

    def record(self, written: Mapping[Path, Digest]) -> None:
        """Take down what files hold that have been written, or are put in place next.

        A file that grows is told of when its new end stands on the disk; of one that is cut the new end is
        told first.
        """
        known = self.digests()
        if known is None or all(known.get(self._name(path)) == digest for path, digest in written.items()):
            return
        changed = {self._name(path): digest for path, digest in written.items()}
        files = {name: vars(digest) for name, digest in {**known, **changed}.items()}
        self.update_run(files=files)

    def content(self, path: Path) -> bytes:
        """What one of the run's files holds.

        Raises:
            SpartaError: it is missing, or does not begin with what was written.
        """
        data = read_bytes(path)
        if self._is_as_written(path, data):
            return data
        self._record = None  # a run that goes on has written in between
        data = read_bytes(path)
        if not self._is_as_written(path, data):
            raise changed(path)
        return data

    def require_unchanged(self) -> None:
        """Look at every record of the run; adapters are looked at where they are used.

        Raises:
            SpartaError: one does not hold what was written.
        """
        for name in self.digests() or {}:
            if "adapters" not in Path(name).parts and name != self.config.name:
                self.content(self.root / name)

    def require_adapter(self, iteration: int, name: str) -> Path:
        """The directory of an adapter as an iteration left it.

        Raises:
            SpartaError: its files are not those that were written.
        """
        place = self.adapters(iteration) / name
        known = self.digests()
        if known is None:
            return place
        inside = f"{self._name(place)}/"
        files = {self.root / file: digest for file, digest in known.items() if file.startswith(inside)}
        if not files:
            raise SpartaError(f"{place}: the run has written no such adapter; restore {self.run} from a copy")
        for file, digest in files.items():
            if digest_of_file(file) != digest:
                raise changed(file)
        return place

    def _is_as_written(self, path: Path, data: bytes) -> bool:
        known = self.digest(path)
        if known is None:
            return True
        assert self._record is not None
        grows = path.name in _GROWING and self._record.status != "finished"
        return digest_of(data[: known.bytes] if grows else data) == known

    def _name(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()


def changed(path: Path) -> SpartaError:
    """What to say of a file that does not hold what was written."""
    return SpartaError(f"{path}: was changed since it was written, by its SHA-256; restore it from a copy")


def _files(below: Path) -> list[Path]:
    return sorted(path for path in below.rglob("*") if path.is_file())


def no_run(path: Path) -> SpartaError:
    """What to say of a directory that was to be a run's and is none."""
    if not (path / ABLATION).is_file():
        return SpartaError(f"{path}: not a run's directory; give one that `sparta-lite run` made")
    runs = sorted(record.parent for record in path.glob("*/seed-*/run.json"))
    which = f", such as {runs[0]}" if runs else " when the first has begun"
    return SpartaError(
        f"{path}: is an ablation, not a run; give one of its runs{which}, or see all of them with "
        f"`sparta-lite report {shlex.quote(str(path))}`"
    )
