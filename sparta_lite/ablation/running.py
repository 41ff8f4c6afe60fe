"""All runs of an ablation, one after the other, on one loaded base."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import torch

from sparta_lite.ablation.arms import of_arm
from sparta_lite.ablation.grid import Grid, Run, is_finished, state
from sparta_lite.campaign.config import load_config
from sparta_lite.campaign.events import Event
from sparta_lite.campaign.inputs import look_up
from sparta_lite.campaign.keeping import Kept, Key, base_key
from sparta_lite.campaign.loop import run_on
from sparta_lite.campaign.planning import planned, with_sizes_of
from sparta_lite.campaign.provenance import begun
from sparta_lite.campaign.resident import choose
from sparta_lite.campaign.settings import Config
from sparta_lite.campaign.store import Store
from sparta_lite.combat import begin
from sparta_lite.engine.template import now
from sparta_lite.errors import SpartaError


@dataclass(frozen=True)
class RunBegins:
    run: Run
    number: int
    """From 1, over all runs of the ablation."""
    runs: int
    resumed: bool


@dataclass(frozen=True)
class RunEnds:
    run: Run
    number: int
    runs: int
    worked: bool
    """False: it was finished before."""


@dataclass(frozen=True)
class RunFails:
    run: Run
    number: int
    runs: int
    why: str


AblationEvent = RunBegins | RunEnds | RunFails

Listener = Callable[[Event | AblationEvent], None]
"""Told what begins and how it ends, and in between what the inner run tells."""


def run_all(grid: Grid, listener: Listener) -> None:
    """Bring every run of the grid to its end; what is finished is not touched.

    A run that fails holds up no other one, and is tried again when the grid is run again.

    Raises:
        SpartaError: an arm cannot run, which is said before anything runs; or, when all others are
            finished, some failed: it names them and says why.
    """
    keys = _checked(grid)
    for run in grid.runs():
        _require_same(run)
    grid.write()
    runs = list(grid.runs())
    # Arms on another base come behind all runs of the first one: every base is loaded once.
    order = list(dict.fromkeys(keys.values()))
    runs.sort(key=lambda run: order.index(keys[run.arm]) if run.arm in keys else -1)
    kept, threads = Kept(_date(grid)), torch.get_num_threads()
    failed: dict[str, list[str]] = {}
    for number, run in enumerate(runs, start=1):
        finished = is_finished(run)
        if not finished:
            begun = state(run) is not None
            torch.set_num_threads(threads)  # an arm that does not set them shall not inherit another's
            try:
                listener(RunBegins(run, number, len(runs), begun))  # may read what an earlier try has left
                run_on(kept, run.config, run.path, begun, listener)
            except SpartaError as error:
                failed.setdefault(str(error), []).append(f"{run.arm}, seed {run.config.seed}")
                listener(RunFails(run, number, len(runs), str(error)))
                continue
        listener(RunEnds(run, number, len(runs), not finished))
    if failed:
        raise SpartaError(_said(grid, failed, len(runs)))


def _date(grid: Grid) -> datetime:
    """Of the first run that has begun, else now: chat templates may print it, in all arms the same."""
    for run in grid.runs():
        store = Store(run.path)
        with contextlib.suppress(SpartaError):  # that run will say so itself
            record = store.read_run()
            return begun(record.date, record.started, store.run)
    return now()


def _said(grid: Grid, failed: Mapping[str, Sequence[str]], runs: int) -> str:
    """Which of so many runs failed, by what stopped them, and how to go on."""
    count = sum(map(len, failed.values()))
    which = "; ".join(f"{' and '.join(names)}: {why}" for why, names in failed.items())
    which = which.replace(f"{grid.root}/", "")  # the command names it
    again = f"sparta-lite ablate --resume --out {shlex.quote(str(grid.root))}"
    return (
        f"{count} of {runs} runs failed, so there is no table ({which}); when the cause is gone, "
        f"`{again}` tries {'it' if count == 1 else 'them'} again and leaves the others as they are"
    )


@dataclass(frozen=True)
class _Needs:
    """What an arm needs of the process and is measured by."""

    base: Key
    trainer: str
    questions: tuple[tuple[str, int], ...]
    """Task, and how many questions."""


def _checked(grid: Grid) -> dict[str, Key]:
    """Arm -> which base it needs; refuses what cannot run, before any work.

    Arms whose runs are all finished are left out: nothing has to be there for them.
    """
    needs: dict[str, _Needs] = {}
    for place, arm in enumerate(grid.arms):
        runs = (grid.run(place, number) for number in range(grid.seeds))
        if (ahead := next((run for run in runs if not is_finished(run)), None)) is not None:
            with of_arm(arm.name):
                needs[arm.name] = _needs(ahead.config)
    first = next(iter(needs), None)
    for name, own in needs.items():
        if own.questions != needs[str(first)].questions:
            raise SpartaError(
                f"arm {name}: is measured by other questions than {first}; leave evaluation and data alone"
            )
    trainers = {own.trainer for own in needs.values()}
    if "unsloth" in trainers and len(trainers) > 1:
        raise SpartaError(
            "training.trainer: unsloth changes libraries that the others use; compare it by separate runs"
        )
    return {name: own.base for name, own in needs.items()}


def _needs(config: Config) -> _Needs:
    """Raises SpartaError when a run with these settings would be refused."""
    places, _, tasks = look_up(config)
    if not tasks:
        raise SpartaError(
            "nothing is measured, so nothing can be compared; set evaluation.tasks and evaluation.items"
        )
    begin(tuple(places), config.reputation.settings())
    choices = choose(config)
    planned(config, choices)
    questions = tuple((task.name, len(task.questions)) for task in tasks)
    return _Needs(base_key(config, choices), choices.trainer, questions)


def _require_same(run: Run) -> None:
    """Refuse a run that stands there with other settings than its arm's."""
    recorded = Store(run.path).config
    if state(run) is None:
        return
    before = load_config(recorded)
    if with_sizes_of(run.config, before) != before:
        raise SpartaError(
            f"{recorded}: has other settings than arm {run.arm}; put it back, or choose another --out"
        )
