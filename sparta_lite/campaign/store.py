"""A run's directory: its files, its lock, and what of it is already done."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from sparta_lite.campaign.lock import hold
from sparta_lite.campaign.records import DUEL_KEYS, JUDGMENT_KEYS, FoughtDuel, Judgment, bouts
from sparta_lite.combat import Bout, Standing, as_trace
from sparta_lite.errors import SpartaError
from sparta_lite.files import clear_errors, read_json, read_lines, sync, uninterrupted, write_json

FORMAT = 3
"""Version of the directory's form, in ``run.json``."""

METRICS_KEYS = ("kind", "iteration")
"""What every row of the metrics has."""

ABLATION = "ablation.json"
"""What the directory of an ablation has where a run's has ``run.json``."""


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

    def locked(self) -> AbstractContextManager[None]:
        """Hold the directory for this process.

        Raises:
            SpartaError: another process holds it, or it cannot be written.
        """
        return hold(self.root)

    def write_adapters(self, iteration: int, write: Callable[[Path], None]) -> None:
        """Let ``write`` fill a fresh directory, then make it the iteration's adapters in one step."""
        partial = self.iteration(iteration) / ".adapters.partial"
        with uninterrupted(), clear_errors(partial):
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            write(partial)
            sync(partial)
            partial.rename(self.adapters(iteration))
            sync(partial.parent)
            self.training(iteration).unlink(missing_ok=True)

    def holds_foreign_files(self) -> bool:
        """Whether something stands here that no run has left."""
        own = {"lock", self.config.name}
        return self.root.is_dir() and any(
            path.name not in own and not path.name.endswith(".partial") for path in self.root.iterdir()
        )

    def close(self, end: BaseException) -> None:
        """Note in ``run.json`` how a run ended that did not finish; one not taken up stays as it is."""
        if self.run.is_file() and self.read_run()["status"] == "running":
            stopped = isinstance(end, KeyboardInterrupt | SystemExit)
            self.update_run(
                status="interrupted" if stopped else "failed", error=None if stopped else str(end) or None
            )

    def read_run(self) -> dict[str, Any]:
        """What ``run.json`` holds.

        Raises:
            SpartaError: it is damaged or of another version.
        """
        record: dict[str, Any] = read_json(self.run, ("format",))
        if record["format"] != FORMAT:
            raise SpartaError(
                f"{self.run}: not of this version's form, {FORMAT}; go on with the version that began the run"
            )
        return record

    def read_reputation(self, iteration: int) -> dict[str, Any]:
        """What an iteration's votes came to.

        Raises:
            SpartaError: nothing did yet, or the file is damaged.
        """
        record: dict[str, Any] = read_json(
            self.reputation(iteration), ("before", "after", "tally", "judge_weights")
        )
        return record

    def update_run(self, **changes: Any) -> None:
        """Change some keys of ``run.json``."""
        write_json(self.run, {**(self.read_run() if self.run.exists() else {}), **changes})


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


def read_trace(run: Path) -> dict[str, Any]:
    """A run's recorded votes, in the form that ``combat.replay`` takes: complete iterations only.

    Raises:
        SpartaError: the directory is no run, is of another version's form, or has no complete iteration yet.
    """
    store = Store(run)
    if not store.run.is_file():
        raise no_run(run)
    store.read_run()  # refuses the form of another version
    iterations: list[list[Bout]] = []
    while store.reputation(len(iterations)).is_file():
        number = len(iterations)
        iterations.append(
            bouts(
                map(FoughtDuel.from_row, read_lines(store.duels(number), DUEL_KEYS)),
                map(Judgment.from_row, read_lines(store.judgments(number), JUDGMENT_KEYS)),
            )
        )
    if not iterations:
        raise SpartaError(f"{run}: no iteration has been judged yet; let the run go on with --resume")
    return as_trace(Standing.from_json(store.read_reputation(0)["before"]), iterations)
