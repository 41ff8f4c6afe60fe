"""Everything of a run's directory that its report shows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparta_lite.campaign.config import load_config
from sparta_lite.campaign.events import (
    Event,
    PhaseFinished,
    PhaseProgress,
    Planned,
    RunStarted,
    Warned,
    from_row,
)
from sparta_lite.campaign.records import DUEL_KEYS, JUDGMENT_KEYS, FoughtDuel, Judgment, who_learns
from sparta_lite.campaign.store import METRICS_KEYS, Store
from sparta_lite.combat import Votes
from sparta_lite.errors import SpartaError
from sparta_lite.files import read_json, read_lines
from sparta_lite.show.runs import state_of

AUDIT = "audit.json"
"""What the deeper audits of the judges leave in a run's directory."""


@dataclass(frozen=True)
class Settled:
    """One iteration whose votes have been settled."""

    iteration: int
    duels: tuple[FoughtDuel, ...]
    judgments: dict[int, tuple[Judgment, ...]]
    """Duel -> its judges' scores."""
    verdicts: tuple[dict[str, Any] | None, ...]
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
        return None if verdict is None else verdict["winner"]


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
    record: dict[str, Any]
    """``run.json``."""
    config: str
    """``config.yaml``, as it stands there."""
    sft_weight: float
    """Of the chosen answers' negative log-likelihood in the loss."""
    started: RunStarted
    learners: tuple[str, ...]
    """Adapters that learn: a baseline's one, else the tribe; the tribe also while that is not known yet."""
    start: dict[str, tuple[float, float]]
    """Adapter -> reputation and deviation before the first duel; empty before anything is settled."""
    evaluations: tuple[dict[str, Any], ...]
    """Rows of the metrics, in the order of iterations; each has 'iteration' and 'tasks'."""
    training: tuple[dict[str, Any], ...]
    """Rows of the metrics: one per adapter and optimizer step."""
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
    record = store.read_run()
    events = [from_row(row) for row in read_lines(store.events)] if store.events.is_file() else []
    starts = [event for event in events if isinstance(event, RunStarted)]
    if not starts:
        raise SpartaError(f"{root}: nothing has happened in it yet; report on it when it has begun")
    metrics = read_lines(store.metrics, METRICS_KEYS) if store.metrics.is_file() else []
    measured = {row["iteration"]: row for row in metrics if row["kind"] == "evaluation"}
    iterations = _iterations(store)
    plans = [event for event in events if isinstance(event, Planned)]
    return RunFiles(
        root=root,
        state=state_of(root),
        record=record,
        config=store.config.read_text(encoding="utf-8"),
        sft_weight=load_config(store.config).training.sft_weight,
        started=starts[-1],
        learners=who_learns(metrics) or starts[-1].tribe,
        start=_ratings(store.read_reputation(0)["before"]) if iterations else {},
        evaluations=tuple(measured[iteration] for iteration in sorted(measured)),
        training=tuple(row for row in metrics if row["kind"] == "training"),
        iterations=iterations,
        spent=_spent(events),
        planned=plans[-1].memory if plans else {},
        warnings=tuple(event.message for event in events if isinstance(event, Warned)),
        audit=_audit(root / AUDIT),
    )


def _iterations(store: Store) -> tuple[Settled, ...]:
    found: list[Settled] = []
    while store.reputation(len(found)).is_file():
        iteration = len(found)
        reputation = store.read_reputation(iteration)
        judgments: dict[int, list[Judgment]] = {}
        for row in read_lines(store.judgments(iteration), JUDGMENT_KEYS):
            judgments.setdefault(row["duel"], []).append(Judgment.from_row(row))
        duels = tuple(FoughtDuel.from_row(row) for row in read_lines(store.duels(iteration), DUEL_KEYS))
        verdicts = tuple(reputation["verdicts"])
        if len(verdicts) != len(duels):
            raise SpartaError(
                f"{store.reputation(iteration)}: has {len(verdicts)} verdicts for {len(duels)} duels; "
                "the files were changed or are damaged"
            )
        found.append(
            Settled(
                iteration=iteration,
                duels=duels,
                judgments={duel: tuple(cast) for duel, cast in judgments.items()},
                verdicts=verdicts,
                ratings=_ratings(reputation["after"]),
                weights=reputation["judge_weights"],
            )
        )
    return tuple(found)


def _ratings(standing: dict[str, Any]) -> dict[str, tuple[float, float]]:
    return {name: (each["reputation"], each["deviation"]) for name, each in standing["ratings"].items()}


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
