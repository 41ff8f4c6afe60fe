"""A run's directory opened again: its settings, and its adapters as any complete iteration left them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from sparta_lite.campaign.hostility import hostile
from sparta_lite.campaign.metrics import Metric, evaluations, merit
from sparta_lite.campaign.provenance import begun
from sparta_lite.campaign.reading import read_metrics, read_reputation, recorded_config
from sparta_lite.campaign.settings import Config
from sparta_lite.campaign.store import Store, no_run
from sparta_lite.campaign.tribe import find_tribe
from sparta_lite.errors import SpartaError


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
        return begun(record.date, record.started, self.store.run)

    def metrics(self) -> list[Metric]:
        """Raises SpartaError where they are damaged."""
        return read_metrics(self.store, self.tribe, self.config.iterations)

    def places(self, names: Sequence[str]) -> dict[str, Path | None]:
        """The PEFT directories of some adapters, as the run has written them.

        Raises:
            SpartaError: one was changed since.
        """
        if self.iteration:
            for name in names:
                self.store.require_adapter(self.iteration - 1, name)
        return {name: self.adapters[name] for name in names}

    def place(self, name: str) -> Path:
        """The PEFT directory of one adapter.

        Raises:
            SpartaError: the tribe has no such adapter, it is a new one that no file holds yet, or it was
                changed since the run has written it.
        """
        if name not in self.adapters:
            raise SpartaError(
                f"{self.store.root}: has no adapter {name!r}; its tribe is {', '.join(self.tribe)}"
            )
        path = self.places([name])[name]
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
    config = recorded_config(store)
    complete = store.complete()
    number = complete if iteration is None else iteration
    if not 0 <= number <= complete:
        raise SpartaError(f"{path}: iteration {number} is not complete; give one from 0 to {complete}")
    if number == 0:
        return Finished(config, store, 0, find_tribe(config))
    # The ratings stand in the tribe's order, which a directory's listing does not have.
    tribe = read_reputation(store, number - 1).tribe
    hostile(config, tribe)  # refuses settings of another tribe
    return Finished(config, store, number, {name: store.adapters(number - 1) / name for name in tribe})


def merits(finished: Finished) -> dict[str, float]:
    """What the adapters that are not hostile did in this iteration's evaluation, 0 to 1, as far as known.

    Of several tasks the mean counts, with judged scores brought from 1..10 to 0..1.
    """
    found = evaluations(finished.metrics()).get(finished.iteration)
    if found is None:
        return {}
    values = {name: merit(found.tasks, name) for name in finished.tribe if name not in finished.hostile}
    return {name: value for name, value in values.items() if value is not None}


def best_adapter(finished: Finished) -> str:
    """The adapter that did best in the held-out evaluation of this iteration; of equal ones the first.

    Hostile ones are left out; see ``merits`` for several tasks.

    Raises:
        SpartaError: nothing was measured then: reputation says too little to stand in for it.
    """
    ranked = merits(finished)
    if not ranked:
        measured = evaluations(finished.metrics())
        others = f", or --iteration {' or '.join(map(str, measured))}" if measured else ""
        raise SpartaError(
            f"{finished.store.root}: nothing was measured at iteration {finished.iteration}, so none is "
            f"best; name an adapter{others}"
        )
    return max(ranked, key=lambda name: ranked[name])
