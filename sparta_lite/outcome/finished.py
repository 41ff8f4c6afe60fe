"""A run's directory opened again: its settings, and its adapters as any complete iteration left them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from sparta_lite.campaign.config import load_config
from sparta_lite.campaign.hostility import hostile
from sparta_lite.campaign.merit import merit
from sparta_lite.campaign.provenance import begun
from sparta_lite.campaign.settings import Config
from sparta_lite.campaign.store import METRICS_KEYS, Store, no_run
from sparta_lite.campaign.tribe import find_tribe
from sparta_lite.errors import SpartaError
from sparta_lite.files import read_json, read_lines


@dataclass(frozen=True)
class Finished:
    """A run as it stood after some iteration; the run itself may still go on."""

    config: Config
    store: Store
    iteration: int
    """Complete iterations, as people are shown them: 0 is the tribe before any training."""
    adapters: Mapping[str, Path | None]
    """PEFT directories in the tribe's order; None: an adapter of 'fresh-N' before any training."""

    @property
    def tribe(self) -> tuple[str, ...]:
        return tuple(self.adapters)

    @property
    def hostile(self) -> tuple[str, ...]:
        return hostile(self.config, self.tribe)

    @property
    def date(self) -> datetime:
        """What the run's chat template took for now."""
        record = self.store.read_run()
        return begun(record.get("date"), record.get("started"), self.store.run)

    def place(self, name: str) -> Path:
        """The PEFT directory of one adapter.

        Raises:
            SpartaError: the tribe has no such adapter, or it is a new one that no file holds yet.
        """
        if name not in self.adapters:
            raise SpartaError(
                f"{self.store.root}: has no adapter {name!r}; its tribe is {', '.join(self.tribe)}"
            )
        path = self.adapters[name]
        if path is None:
            raise SpartaError(
                f"{self.store.root}: {name} has learned nothing at iteration 0; choose a later one"
            )
        return path


def open_run(path: Path, iteration: int | None = None) -> Finished:
    """Open the run in ``path`` as it stood after ``iteration`` (None: the last that is complete).

    Raises:
        SpartaError: the directory is no run, the iteration is not complete, or an adapter is missing.
    """
    store = Store(path)
    if not store.run.is_file() or not store.config.is_file():
        raise no_run(path)
    store.read_run()  # refuses the form of another version
    config = load_config(store.config)
    complete = 0
    while store.adapters(complete).is_dir():
        complete += 1
    number = complete if iteration is None else iteration
    if not 0 <= number <= complete:
        raise SpartaError(f"{path}: iteration {number} is not complete; give one from 0 to {complete}")
    if number == 0:
        return Finished(config, store, 0, find_tribe(config))
    # The ratings stand in the tribe's order, which a directory's listing does not have.
    tribe = read_json(store.reputation(number - 1), ("after",))["after"]["ratings"]
    return Finished(config, store, number, {name: store.adapters(number - 1) / name for name in tribe})


def evaluations(store: Store) -> dict[int, dict[str, Any]]:
    """Complete iterations -> what was measured then, in order; empty where nothing was."""
    rows = read_lines(store.metrics, METRICS_KEYS) if store.metrics.is_file() else []
    return {row["iteration"]: row for row in rows if row["kind"] == "evaluation"}


def merits(finished: Finished) -> dict[str, float]:
    """What the adapters that are not hostile did in this iteration's evaluation, 0 to 1, as far as known.

    Of several tasks the mean counts, with judged scores brought from 1..10 to 0..1.
    """
    tasks = evaluations(finished.store).get(finished.iteration, {}).get("tasks", [])
    values = {name: merit(tasks, name) for name in finished.tribe if name not in finished.hostile}
    return {name: value for name, value in values.items() if value is not None}


def best_adapter(finished: Finished) -> str:
    """The adapter that did best in the held-out evaluation of this iteration; of equal ones the first.

    Hostile ones are left out; see ``merits`` for several tasks.

    Raises:
        SpartaError: nothing was measured then: reputation says too little to stand in for it.
    """
    ranked = merits(finished)
    if not ranked:
        measured = evaluations(finished.store)
        others = f", or --iteration {' or '.join(map(str, measured))}" if measured else ""
        raise SpartaError(
            f"{finished.store.root}: nothing was measured at iteration {finished.iteration}, so none is "
            f"best; name an adapter{others}"
        )
    return max(ranked, key=lambda name: ranked[name])
