"""The rows of ``metrics.jsonl``: what was measured, every update of an adapter, what an iteration took."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any, TypeVar

from pydantic import Field

from sparta_lite.campaign.records import Share
from sparta_lite.errors import SpartaError
from sparta_lite.typed import RESTORE, Count, Form, Number, Positive

Figure = Annotated[float, Field(ge=0, le=10.001)]
"""A share of right answers, or a mean score from 1 to 10."""


@dataclass(frozen=True)
class TaskFigures:
    """What was measured in one task. What is called accuracy is the mean score where ``judged``."""

    task: str
    judged: bool
    items: Positive
    """Questions."""
    accuracy: dict[str, Figure | None]
    """Of every adapter; None where no judgment was valid."""
    base: Figure | None
    """That of the bare base."""
    unparsed: dict[str, Count]
    """Per adapter the answers in which none could be found, or whose judgment failed."""
    base_unparsed: Count
    by_skill: dict[str, dict[str, Figure | None]]
    """Adapter -> group of questions -> accuracy."""


@dataclass(frozen=True)
class Evaluation:
    """What the tribe could do after so many iterations; the first task's figures stand at the top too."""

    iteration: Count
    """Complete iterations: 0 before the first."""
    items: Positive
    accuracy: dict[str, Figure | None]
    base: Figure | None
    by_skill: dict[str, dict[str, Figure | None]]
    tasks: Annotated[tuple[TaskFigures, ...], Field(min_length=1)]


@dataclass(frozen=True)
class Update:
    """One update of one adapter, measured on its batch before the update: see ``training.phase.DpoStep``."""

    iteration: Count
    adapter: str
    step: Count
    steps: Positive
    loss: Number
    margin: Number
    accuracy: Share
    chosen_logprob: Number
    rejected_logprob: Number
    chosen_length: Number
    rejected_length: Number
    gradient_norm: Number
    learning_rate: Number


@dataclass(frozen=True)
class Trained:
    """What an iteration's training came to."""

    iteration: Count
    pairs: Count
    moved: dict[str, Number]
    """Adapter -> L2 distance between its weights before and after."""
    cut_prompts: Count
    cut_completions: Count


@dataclass(frozen=True)
class Budget:
    """What an iteration took, to compare algorithms by: see ``baseline.budget``."""

    iteration: Count
    learners: Annotated[tuple[str, ...], Field(min_length=1)]
    generated: Count
    reference_answers: Count
    judgments: Count
    optimizer_steps: Count


Metric = Evaluation | Update | Trained | Budget
_M = TypeVar("_M", Evaluation, Update, Trained, Budget)

_KINDS: dict[type[Any], str] = {
    Evaluation: "evaluation",
    Update: "training",
    Trained: "trained",
    Budget: "budget",
}


@dataclass(frozen=True)
class _Kind:
    kind: str
    iteration: Count


_KIND = Form(_Kind)
_FORMS: dict[str, Form[Any]] = {name: Form(kind) for kind, name in _KINDS.items()}


def to_row(metric: Metric) -> dict[str, Any]:
    """The metric as a JSON object, its kind first."""
    return {"kind": _KINDS[type(metric)], **asdict(metric)}


def read_metric(data: bytes, where: str) -> Metric:
    """The metric that ``to_row`` wrote.

    Raises:
        SpartaError: the line is none of this version.
    """
    kind = _KIND.of(data, where).kind
    if kind not in _FORMS:
        raise SpartaError(f"{where}: no kind of metric is called {kind!r}; {RESTORE}")
    metric: Metric = _FORMS[kind].of(data, where)
    return metric


def of_kind(metrics: Iterable[Metric], kind: type[_M]) -> list[_M]:
    return [metric for metric in metrics if isinstance(metric, kind)]


def evaluations(metrics: Iterable[Metric]) -> dict[int, Evaluation]:
    """Complete iterations -> what was measured then, in order."""
    found = {metric.iteration: metric for metric in of_kind(metrics, Evaluation)}
    return {iteration: found[iteration] for iteration in sorted(found)}


def who_learns(metrics: Iterable[Metric]) -> tuple[str, ...] | None:
    """The adapters that learn; None before a run's first training."""
    return next((metric.learners for metric in metrics if isinstance(metric, Budget)), None)


def merit(tasks: Sequence[TaskFigures], name: str) -> float | None:
    """What an adapter is worth by the tasks of one evaluation, 0 to 1; None where one could not be measured.

    The mean counts, with judged scores brought from 1..10 to 0..1.
    """
    values = [(task.accuracy[name], task.judged) for task in tasks]
    shares = [(value - 1) / 9 if judged else value for value, judged in values if value is not None]
    if not values or len(shares) < len(values):
        return None
    return float(sum(shares) / len(shares))


def fault(metric: Metric, tribe: Sequence[str], iterations: int) -> str | None:
    """What does not fit a run of ``tribe`` over ``iterations``; None where all does."""
    last = iterations if isinstance(metric, Evaluation) else iterations - 1
    if metric.iteration > last:
        return f"iteration is {metric.iteration}, the run's last is {last}"
    match metric:
        case Evaluation():
            return _wrong_evaluation(metric, tribe)
        case Update():
            if metric.step >= metric.steps:
                return f"step is {metric.step} of {metric.steps}"
            return _foreign([metric.adapter], tribe)
        case Trained():
            return _foreign(metric.moved, tribe)
        case Budget():
            return _foreign(metric.learners, tribe)


def _wrong_evaluation(metric: Evaluation, tribe: Sequence[str]) -> str | None:
    first = metric.tasks[0]
    if (metric.items, metric.accuracy, metric.base) != (first.items, first.accuracy, first.base):
        return "its first figures are not those of the first task"
    for task in metric.tasks:
        if set(task.accuracy) != set(tribe):
            return f"accuracy of {_names(task.accuracy)} is not that of the tribe"
        if wrong := _foreign([*task.unparsed, *task.by_skill], tribe):
            return wrong
        values = [value for value in (*task.accuracy.values(), task.base) if value is not None]
        if not task.judged and (max(values, default=0.0) > 1 or None in task.accuracy.values()):
            return "accuracy is no share from 0 to 1"
    return None


def _foreign(names: Iterable[str], tribe: Sequence[str]) -> str | None:
    foreign = [name for name in names if name not in tribe]
    return f"{foreign[0][:40]!r} is not in the tribe" if foreign else None


def _names(figures: Mapping[str, object]) -> str:
    return ", ".join(figures)[:60] or "nobody"
