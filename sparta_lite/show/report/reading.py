"""Everything of a run's directory that its report shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparta_lite.campaign import reading
from sparta_lite.campaign.events import (
    Event,
    PhaseFinished,
    PhaseProgress,
    Planned,
    RunStarted,
    Warned,
    read_events,
)
from sparta_lite.campaign.metrics import Evaluation, Metric, Update, evaluations, of_kind, who_learns
from sparta_lite.campaign.reading import read_all_settled, read_metrics, recorded_config
from sparta_lite.campaign.records import FoughtDuel, Judgment
from sparta_lite.campaign.reputations import VerdictRow
from sparta_lite.campaign.run_record import RunRecord
from sparta_lite.campaign.store import Store
from sparta_lite.combat import Standing, Votes
from sparta_lite.errors import SpartaError
from sparta_lite.files import read_json
from sparta_lite.show.runs import EVENTS, state_of
from sparta_lite.typed import RESTORE, read_bytes

AUDIT = "audit.json"
"""What the deeper audits of the judges leave in a run's directory."""


@dataclass(frozen=True)
class Settled:
    """One iteration whose votes have been settled."""

    iteration: int
    duels: tuple[FoughtDuel, ...]
    judgments: dict[int, tuple[Judgment, ...]]
    """Duel -> its judges' scores."""
    verdicts: tuple[VerdictRow | None, ...]
    """Per duel aggregated scores and the winner's place; None where no vote was valid."""
    ratings: dict[str, tuple[float, float]]
    """Adapter -> reputation and deviation after the last duel."""
    weights: dict[str, float]
    """Judge -> its share of all judges' weight."""

    def votes(self, duel: int) -> Votes:
        return {judgment.judge: judgment.scores for judgment in self.judgments.get(duel, ())}

    def winner(self, place: int) -> int | None:
        """0 or 1; None where there was no winner. ``place``: of the duel in ``duels``."""
        verdict = self.verdicts[place]
        return None if verdict is None else verdict.winner


@dataclass(frozen=True)
class Spent:
    """What one phase of one iteration took, over all processes that worked on it."""

    iteration: int
    phase: str
    seconds: float
    tokens: int
    memory: int | None
    """Peak bytes of the process up to then; None where none was reported."""


@dataclass(frozen=True)
class RunFiles:
    """A run as its directory tells it, finished or not."""

    root: Path
    state: str
    """'finished', 'running', 'stopped' or 'failed'."""
    record: RunRecord
    config: str
    """``config.yaml``, as it stands there."""
    sft_weight: float
    """Of the chosen answers' negative log-likelihood in the loss."""
    started: RunStarted
    learners: tuple[str, ...]
    """Adapters that learn: a baseline's one, else the tribe; the tribe also while that is not known yet."""
    start: dict[str, tuple[float, float]]
    """Adapter -> reputation and deviation before the first duel; empty before anything is settled."""
    evaluations: tuple[Evaluation, ...]
    """In the order of iterations."""
    training: tuple[Update, ...]
    """One per adapter and optimizer step."""
    iterations: tuple[Settled, ...]
    spent: tuple[Spent, ...]
    planned: dict[str, int]
    """Phase -> bytes that the plan allowed for."""
    warnings: tuple[str, ...]
    audit: dict[str, Any] | None

    @property
    def tribe(self) -> tuple[str, ...]:
        return self.started.tribe

    @property
    def members(self) -> tuple[str, ...]:
        """Whose accuracy the run's is: those that learn, hostile ones left out."""
        return tuple(name for name in self.learners if name not in self.started.hostile)

    @property
    def learner(self) -> str | None:
        """Who learns alone; None where the tribe learns together."""
        return self.learners[0] if len(self.learners) == 1 else None


def read_run(root: Path) -> RunFiles:
    """Read the run in ``root``.

    Raises:
        SpartaError: the directory is no run, is damaged, or nothing has happened in it yet.
    """
    store = Store(root)
    if not store.run.is_file() or not store.config.is_file():
        raise SpartaError(
            f"{root}: neither a run's nor an ablation's directory; give one that `sparta-lite run` or "
            "`sparta-lite ablate` made"
        )
    record, config = store.read_run(), recorded_config(store)
    events = read_events(store.content(store.events), store.events) if store.events.is_file() else []
    starts = [event for event in events if isinstance(event, RunStarted)]
    if not starts:
        raise SpartaError(f"{root}: nothing has happened in it yet; report on it when it has begun")
    started = starts[-1]
    metrics = read_metrics(store, started.tribe, started.iterations)
    settled = read_all_settled(store)
    _require_fitting(store, started, metrics, settled)
    plans = [event for event in events if isinstance(event, Planned)]
    return RunFiles(
        root=root,
        state=state_of(root),
        record=record,
        config=read_bytes(store.config).decode(),
        sft_weight=config.training.sft_weight,
        started=started,
        learners=who_learns(metrics) or started.tribe,
        start=_ratings(settled[0].reputation.before) if settled else {},
        evaluations=tuple(evaluations(metrics).values()),
        training=tuple(of_kind(metrics, Update)),
        iterations=tuple(_settled(iteration, each) for iteration, each in enumerate(settled)),
        spent=_spent(events),
        planned=plans[-1].memory if plans else {},
        warnings=tuple(event.message for event in events if isinstance(event, Warned)),
        audit=_audit(root / AUDIT),
    )


def _require_fitting(
    store: Store, started: RunStarted, metrics: Sequence[Metric], settled: Sequence[reading.Settled]
) -> None:
    """Refuse files of different runs."""
    for iteration, each in enumerate(settled):
        if set(each.reputation.tribe) != set(started.tribe) or iteration >= started.iterations:
            raise SpartaError(f"{store.reputation(iteration)}: is not of the run in {EVENTS}; {RESTORE}")
    if set(who_learns(metrics) or started.tribe) <= set(started.hostile):
        raise SpartaError(f"{store.metrics}: nobody learns but hostile adapters; {RESTORE}")


def _settled(iteration: int, found: reading.Settled) -> Settled:
    judgments: dict[int, list[Judgment]] = {}
    for judgment in found.judgments:
        judgments.setdefault(judgment.duel, []).append(judgment)
    return Settled(
        iteration=iteration,
        duels=found.duels,
        judgments={duel: tuple(cast) for duel, cast in judgments.items()},
        verdicts=found.reputation.verdicts,
        ratings=_ratings(found.reputation.after),
        weights=found.reputation.judge_weights,
    )


def _ratings(standing: Standing) -> dict[str, tuple[float, float]]:
    return {name: (rating.reputation, rating.deviation) for name, rating in standing.ratings.items()}


def _spent(events: list[Event]) -> tuple[Spent, ...]:
    """A killed process has left its progress alone: the last word of each process counts."""
    last: dict[tuple[int, int, str], tuple[float, int]] = {}
    peak: dict[tuple[int, str], int] = {}
    process = 0
    for event in events:
        match event:
            case RunStarted():
                process += 1
            case PhaseProgress():
                last[process, event.iteration, event.phase] = (event.seconds, event.tokens)
                place = (event.iteration, event.phase)
                peak[place] = max(peak.get(place, 0), event.memory)
            case PhaseFinished():
                last[process, event.iteration, event.phase] = (event.seconds, event.tokens)
    totals: dict[tuple[int, str], tuple[float, int]] = {}
    for (_, iteration, phase), (seconds, tokens) in last.items():
        before = totals.get((iteration, phase), (0.0, 0))
        totals[iteration, phase] = (before[0] + seconds, before[1] + tokens)
    return tuple(Spent(*place, *total, peak.get(place)) for place, total in totals.items())


def _audit(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    audit = read_json(path)
    if not isinstance(audit, dict):
        raise SpartaError(f"{path}: not a JSON object; run the audit again, or remove the file")
    return audit
