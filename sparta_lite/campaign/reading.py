"""The records of a run as objects that fit each other: the one way in which its directory is read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparta_lite.campaign import metrics, reputations
from sparta_lite.campaign.records import DUELS, JUDGMENTS, FoughtDuel, Judgment, bouts
from sparta_lite.campaign.reputations import REPUTATION, Reputation
from sparta_lite.campaign.run_record import digest_of_file
from sparta_lite.campaign.store import Store, no_run
from sparta_lite.combat import Bout, as_trace
from sparta_lite.errors import SpartaError
from sparta_lite.typed import RESTORE, whole_lines

if TYPE_CHECKING:
    from sparta_lite.campaign.settings import Config


@dataclass(frozen=True)
class Settled:
    """One iteration whose votes have been settled."""

    duels: tuple[FoughtDuel, ...]
    judgments: tuple[Judgment, ...]
    reputation: Reputation

    def bouts(self) -> list[Bout]:
        return bouts(self.duels, self.judgments)


def recorded_config(store: Store) -> Config:
    """The settings of a run whose records are as they were written.

    In the settings sizes of batches may be edited, and the places of what has been moved.

    Raises:
        SpartaError: a file was changed since, or is damaged.
    """
    from sparta_lite.campaign.config import load_recorded  # slow to import: a list of runs needs none

    config = load_recorded(store.config)
    record = store.read_run()
    written = record.files.get(store.config.name)
    if written is not None and written != digest_of_file(store.config):
        from sparta_lite.campaign.inputs import is_digest_of  # slow to import

        if not is_digest_of(record.settings, config, store.config):
            raise SpartaError(f"{store.config}: was changed since the run began; put it back")
    store.require_unchanged()
    return config


def read_reputation(store: Store, iteration: int) -> Reputation:
    """What an iteration's votes came to.

    Raises:
        SpartaError: nothing did yet, or the file is damaged.
    """
    path = store.reputation(iteration)
    record = REPUTATION.of(store.content(path), str(path))
    if wrong := reputations.fault(record, iteration):
        raise SpartaError(f"{path}: {wrong}; {RESTORE}")
    return record


def read_settled(store: Store, iteration: int) -> Settled:
    """All records of an iteration whose votes have been settled.

    Raises:
        SpartaError: a file is missing or damaged, or they do not fit each other.
    """
    reputation = read_reputation(store, iteration)
    path = store.duels(iteration)
    rows = DUELS.lines(store.content(path), path)
    duels = tuple(map(FoughtDuel.from_row, rows))
    if len(duels) != len(reputation.verdicts):
        raise SpartaError(
            f"{store.reputation(iteration)}: has {len(reputation.verdicts)} verdicts for {len(duels)} duels; "
            f"{RESTORE}"
        )
    alone = store.read_run().algorithm != "sparta"
    for number, fought in enumerate(duels):
        require(duel_fault(fought, number, reputation.tribe, alone), f"{path}, line {number + 1}")
    path = store.judgments(iteration)
    judgments = tuple(JUDGMENTS.lines(store.content(path), path))
    for number, judgment in enumerate(judgments, start=1):
        require(judgment_fault(judgment, duels, reputation.tribe), f"{path}, line {number}")
    _require_full_panels(judgments, len(duels), path)
    return Settled(duels, judgments, reputation)


def _require_full_panels(judgments: Sequence[Judgment], duels: int, path: Path) -> None:
    """As many judges hear every duel, each of them once."""
    heard = Counter((judgment.duel, judgment.judge) for judgment in judgments)
    if twice := next((place for place, times in heard.items() if times > 1), None):
        raise SpartaError(f"{path}: duel {twice[0]} was judged twice by {twice[1][:40]}; {RESTORE}")
    sizes = Counter(duel for duel, _ in heard)
    size = len(heard) // max(duels, 1)
    if odd := next((duel for duel in range(duels) if sizes[duel] != size), None):
        raise SpartaError(f"{path}: duel {odd} has {sizes[odd]} votes where others have {size}; {RESTORE}")


def read_all_settled(store: Store) -> list[Settled]:
    """Every iteration whose votes have been settled.

    Raises:
        SpartaError: see ``read_settled``; or an iteration's tribe is not that of the others.
    """
    settled = [read_settled(store, iteration) for iteration in range(store.settled())]
    for iteration, each in enumerate(settled):
        if set(each.reputation.tribe) != set(settled[0].reputation.tribe):
            raise SpartaError(f"{store.reputation(iteration)}: is not of the tribe of the others; {RESTORE}")
    return settled


def read_metrics(store: Store, tribe: Sequence[str], iterations: int) -> list[metrics.Metric]:
    """Every row of the metrics; none where nothing has been measured yet.

    Raises:
        SpartaError: the file is damaged, or a row does not fit the run.
    """
    path = store.metrics
    if not path.is_file() and store.digest(path) is None:
        return []
    rows = []
    for text, where in whole_lines(store.content(path), path):
        row = metrics.read_metric(text, where)
        require(metrics.fault(row, tribe, iterations), where)
        rows.append(row)
    tasks = [[task.task for task in row.tasks] for row in metrics.of_kind(rows, metrics.Evaluation)]
    if any(each != tasks[0] for each in tasks):
        raise SpartaError(f"{path}: was not measured by the same tasks throughout; {RESTORE}")
    return rows


def read_trace(run: Path) -> dict[str, Any]:
    """A run's recorded votes, in the form that ``combat.replay`` takes: settled iterations only.

    Raises:
        SpartaError: the directory is no run, a file is damaged, or nothing has been settled yet.
    """
    store = Store(run)
    if not store.run.is_file():
        raise no_run(run)
    store.read_run()  # refuses the form of another version
    settled = read_all_settled(store)
    if not settled:
        raise SpartaError(f"{run}: no iteration has been judged yet; let the run go on with --resume")
    return as_trace(settled[0].reputation.before, [each.bouts() for each in settled])


def duel_fault(fought: FoughtDuel, number: int, tribe: Sequence[str], alone: bool) -> str | None:
    """What is wrong with the duel in a line, ``alone`` where an adapter fights itself; None: nothing is."""
    if fought.duel.index != number:
        return f"holds duel {fought.duel.index} where {number} belongs"
    if foreign := [name for name in fought.duel.fighters if name not in tribe]:
        return f"the fighter {foreign[0][:40]!r} is not in the tribe"
    if (fought.duel.fighters[0] == fought.duel.fighters[1]) != alone:
        return f"its fighters are {' and '.join(fought.duel.fighters)}"
    return None


def judgment_fault(judgment: Judgment, duels: Sequence[FoughtDuel], tribe: Sequence[str]) -> str | None:
    """The same of a judgment."""
    if judgment.duel >= len(duels):
        return f"judges duel {judgment.duel}, and there are {len(duels)}"
    if judgment.judge not in tribe:
        return f"the judge {judgment.judge[:40]!r} is not in the tribe"
    first, second = duels[judgment.duel].duel.fighters
    if first != second and judgment.judge in (first, second):
        return f"{judgment.judge!r} judges its own duel"
    for score, failure in zip(judgment.scores, judgment.failures, strict=True):
        if (score is None) != (failure is not None):
            return "has a score and a failure for one answer, or neither"
    return None


def require_tokens(fought: Iterable[FoughtDuel], vocabulary: int, where: str) -> None:
    """Raises SpartaError where an answer holds tokens that the base has not."""
    highest = max((token for each in fought for answer in each.responses for token in answer.ids), default=0)
    if highest >= vocabulary:
        raise SpartaError(f"{where}: holds the token {highest}, and the base knows {vocabulary}; {RESTORE}")


def require(wrong: str | None, where: str) -> None:
    """Raises SpartaError where something is wrong."""
    if wrong is not None:
        raise SpartaError(f"{where}: {wrong}; {RESTORE}")
