"""An ablation's directory: its arms, its seeds, and which of its runs are done."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field

from sparta_lite.ablation.arms import Arm, is_name
from sparta_lite.campaign.config import Config, load_config, show_config
from sparta_lite.campaign.store import ABLATION, Store
from sparta_lite.errors import SpartaError
from sparta_lite.files import clear_errors, sync, uninterrupted, write_json, write_text
from sparta_lite.typed import RESTORE, Form

FORMAT = 1
"""Version of the directory's form, in ``ablation.json``."""

MOST_SEEDS = 1000
"""Of one arm; without pairing those of the next arm begin so much higher."""

_HIGHEST_SEED = 2**63 - 1  # that settings take

RESULTS = ("summary.json", "table.json", "table.csv", "report.html")


@dataclass(frozen=True)
class Run:
    """One arm under one seed: an ordinary run in a directory of its own."""

    arm: str
    config: Config
    path: Path


@dataclass(frozen=True)
class Grid:
    """All runs of an ablation.

    ::

        ablation.json  <arm>/settings.yaml  <arm>/seed-<N>/     the last one is what `sparta-lite run` makes
        summary.json  table.json  table.csv  report.html        once every run is finished

    ``paired`` gives every arm the same seeds. Equal seeds share all that does not depend on what the arms do
    otherwise: which instructions an iteration draws and in which order, who opens each duel, the random
    numbers behind opponents, answers, sampled judgments and the order of the training pairs, new adapters of
    'fresh-N', and which held-out questions are taken where a task has more than are asked. So a difference
    within a seed holds less chance than one between seeds. Without it, arm number a (from 0) has the seeds
    first + 1000 a, + 1, ..., and shares nothing but the files that it reads.
    """

    root: Path
    arms: tuple[Arm, ...]
    seeds: int
    """Runs of every arm."""
    paired: bool

    def runs(self) -> Iterator[Run]:
        """Seed by seed, within a seed arm by arm: an ablation that is stopped has seen all arms alike."""
        for number in range(self.seeds):
            for place in range(len(self.arms)):
                yield self.run(place, number)

    def run(self, place: int, number: int) -> Run:
        """Of the arm in that place, the run of that number."""
        arm = self.arms[place]
        seed = arm.config.seed + number + (0 if self.paired else MOST_SEEDS * place)
        config = arm.config.model_copy(update={"seed": seed})
        return Run(arm.name, config, self.root / arm.name / f"seed-{seed}")

    def write(self) -> None:
        """Put the arms and their settings on the disk; runs that stand there are not touched.

        A new directory appears with all of it at once: there is none that a killed process could leave
        without its record.
        """
        if self.root.is_dir() and any(self.root.iterdir()):
            self._write(self.root)
            return
        partial = self.root.with_name(f".{self.root.name}.partial")
        with clear_errors(self.root), uninterrupted():
            shutil.rmtree(partial, ignore_errors=True)
            self._write(partial)
            partial.replace(self.root)
            sync(self.root.parent)

    def _write(self, root: Path) -> None:
        for arm in self.arms:
            write_text(root / arm.name / "settings.yaml", show_config(arm.config))
        arms = [{"name": arm.name, "settings": arm.settings} for arm in self.arms]
        record = {"format": FORMAT, "paired": self.paired, "seeds": self.seeds, "arms": arms}
        write_json(root / ABLATION, record)


@dataclass(frozen=True)
class _Version:
    format: int


@dataclass(frozen=True)
class _ArmRecord:
    name: str
    settings: tuple[str, ...]


@dataclass(frozen=True)
class _Record:
    """What ``ablation.json`` holds."""

    paired: bool
    seeds: Annotated[int, Field(ge=1, le=MOST_SEEDS)]
    arms: Annotated[tuple[_ArmRecord, ...], Field(min_length=2)]


_VERSION = Form(_Version)
_RECORD = Form(_Record)


def new_grid(root: Path, arms: Sequence[Arm], seeds: int, paired: bool) -> Grid:
    """A grid of which nothing is on the disk yet.

    Raises:
        SpartaError: there is nothing to compare, or a name is taken by a file of the ablation's own.
    """
    if len(arms) < 2:
        raise SpartaError("one arm alone is no comparison; give two or more")
    if not 1 <= seeds <= MOST_SEEDS:
        raise SpartaError(f"--seeds {seeds}: give 1 to {MOST_SEEDS}")
    if arms[0].config.seed + MOST_SEEDS * len(arms) > _HIGHEST_SEED:
        raise SpartaError(f"seed is {arms[0].config.seed}; those of further runs follow it, so lower it")
    if taken := [arm.name for arm in arms if arm.name in (ABLATION, *RESULTS)]:
        raise SpartaError(f"arm {taken[0]}: is the name of a file of the ablation; choose another")
    return Grid(root, tuple(arms), seeds, paired)


def open_grid(root: Path) -> Grid:
    """The ablation that stands in ``root``.

    Raises:
        SpartaError: there is none, or its files are damaged or of another version.
    """
    if not (root / ABLATION).is_file():
        raise SpartaError(f"{root}: no ablation there (no {ABLATION}); leave --resume out to start one")
    path = root / ABLATION
    if _VERSION.file(path).format != FORMAT:
        raise SpartaError(f"{path}: not of this version's form, {FORMAT}; go on with its own version")
    record = _RECORD.file(path)
    names = [arm.name for arm in record.arms]
    if len(set(names)) < len(names) or not all(map(is_name, names)):
        raise SpartaError(f"{path}: its arms have no names of their own; {RESTORE}")
    arms = [
        Arm(arm.name, arm.settings, load_config(root / arm.name / "settings.yaml")) for arm in record.arms
    ]
    return Grid(root, tuple(arms), record.seeds, record.paired)


def extended(grid: Grid, arms: Sequence[Arm] | None, seeds: int | None, paired: bool) -> Grid:
    """``grid`` with further arms and seeds; what it has stays where it is.

    Args:
        grid: as it stands on the disk.
        arms: given again, with all that it has among them; None: no more than it has.
        seeds: None: as many as it has.
        paired: whether pairing is asked for.

    Raises:
        SpartaError: what is given contradicts what was begun.
    """
    if paired and not grid.paired:
        raise SpartaError(f"{grid.root}: was started without --paired; resume without it")
    if seeds is not None and seeds < grid.seeds:
        raise SpartaError(f"{grid.root}: was started with {grid.seeds} seeds; give no fewer")
    known = {arm.name: arm for arm in grid.arms}
    given = {arm.name: arm for arm in arms or grid.arms}
    if lacking := [name for name in known if name not in given or given[name].config != known[name].config]:
        raise SpartaError(
            f"{grid.root}: the arm {lacking[0]} was started with other settings; resume with --out alone"
        )
    further = [arm for name, arm in given.items() if name not in known]
    return new_grid(grid.root, [*grid.arms, *further], seeds or grid.seeds, grid.paired)


def state(run: Run) -> str | None:
    """What ``run.json`` says of a run; None where it has not begun."""
    store = Store(run.path)
    return store.read_run().status if store.run.is_file() else None


def is_finished(run: Run) -> bool:
    """Whether a run needs no more work."""
    return state(run) == "finished"
