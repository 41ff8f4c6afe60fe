"""Tasks of lm-evaluation-harness for a tribe: loaded once, asked of every adapter, as one record."""

from __future__ import annotations

import contextlib
import math
import random
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib import metadata, util
from pathlib import Path
from typing import Any

import numpy as np

from sparta_lite.campaign.settings import Config
from sparta_lite.engine.bank import Bank
from sparta_lite.engine.base import Base
from sparta_lite.errors import SpartaError

Say = Callable[[str], None]

_SEED, _NUMPY_SEED = 0, 1234  # the harness's own: its few-shot examples are those of published figures


@dataclass(frozen=True)
class Order:
    """What is asked of the harness."""

    tasks: tuple[str, ...]
    """Names of tasks, groups or tags."""
    include: Path | None = None
    """A directory with YAML files of tasks beside the harness's own."""
    chat: bool = False
    """Whether requests go through the base's chat template."""
    limit: int | None = None
    """Questions per task; None: all."""


def require_harness() -> None:
    """Raises SpartaError where lm-evaluation-harness is not installed."""
    if util.find_spec("lm_eval") is None:
        raise SpartaError(
            "--harness: lm-evaluation-harness is not installed; run `pip install 'sparta-lite[eval]'`"
        )


def load_tasks(order: Order) -> Mapping[str, Any]:
    """The harness's tasks with their data.

    Raises:
        SpartaError: a name is unknown, a task's data cannot be had, or it would run generated code.
    """
    with _clean_output():
        from lm_eval.tasks import TaskManager

        random.seed(_SEED)
        np.random.seed(_NUMPY_SEED)
        found = None
        if order.include is not None:
            if not order.include.is_dir():
                raise SpartaError(
                    f"--include-path: {order.include} is no directory; give one with tasks' YAML"
                )
            # Reading the harness's own thousands of files takes many times as long.
            found = TaskManager(include_path=order.include, include_defaults=False)
        if found is None or set(order.tasks) - set(found.all_tasks):
            found = TaskManager(include_path=order.include)
        if unknown := sorted(set(order.tasks) - set(found.all_tasks)):
            raise SpartaError(
                f"--harness: no task is called {', '.join(unknown)}; `lm-eval ls tasks` lists the harness's "
                "own, --include-path adds a directory with others"
            )
        try:
            loaded: Mapping[str, Any] = found.load(list(order.tasks))
        except Exception as error:  # a task is a program, and fails as one
            raise SpartaError(f"--harness: the tasks cannot be loaded: {_first_line(error)}") from error
    for name, task in loaded["tasks"].items():
        if getattr(task, "UNSAFE_CODE", False):
            raise SpartaError(
                f"--harness: {name} runs code that a model wrote, which is refused here; leave it out"
            )
        if task.get_config("num_fewshot") is None:
            task.set_config(key="num_fewshot", value=0)
    return loaded


def ask(
    config: Config,
    base: Base,
    bank: Bank,
    loaded: Mapping[str, Any],
    order: Order,
    names: Sequence[str | None],
    date: datetime,
    say: Say,
) -> dict[str, Any]:
    """Every adapter's results, with the harness's own standard errors.

    Args:
        config: sizes of batches, seed, system prompt.
        base: the resident base.
        bank: the adapters.
        loaded: what ``load_tasks`` gave.
        order: the same as there.
        names: adapters; None is the bare base.
        date: what a chat template that prints the date prints.
        say: told whose turn it is.
    """
    with _clean_output():
        from lm_eval.evaluator import evaluate

        from sparta_lite.engine.harness import HarnessModel

        results: dict[str | None, Mapping[str, Any]] = {}
        for number, name in enumerate(names):
            say(f"harness: {name or 'bare base'}, {number + 1} of {len(names)}")
            for task in loaded["tasks"].values():
                task.set_fewshot_seed(seed=_NUMPY_SEED)
            results[name] = evaluate(
                HarnessModel(
                    base,
                    bank,
                    name,
                    config.sizes.batch_tokens,
                    config.sizes.places,
                    config.seed,
                    config.generation.thinking,
                    date,
                ),
                loaded,
                limit=order.limit,
                log_samples=False,
                system_instruction=config.generation.system if order.chat else None,
                apply_chat_template=order.chat,
                fewshot_as_multiturn=order.chat,
            )
    return {
        "version": metadata.version("lm_eval"),
        "chat": order.chat,
        "limit": order.limit,
        "tasks": list(_tasks(results, names)),
    }


def _tasks(results: Mapping[str | None, Mapping[str, Any]], names: Sequence[str | None]) -> Iterator[Any]:
    """One record per task and metric: value and standard error of every adapter."""
    one = results[names[0]]
    for task, figures in one["results"].items():
        for key in figures:
            metric, comma, kept = key.partition(",")
            if not comma or metric.endswith("_stderr"):
                continue
            by_name = {name: _figure(results[name]["results"][task], metric, kept) for name in names}
            yield {
                "task": task,
                "metric": metric,
                "filter": kept,
                "higher_is_better": one["higher_is_better"].get(task, {}).get(metric),
                "fewshot": one["n-shot"].get(task),
                "items": figures.get("sample_len"),
                "task_version": one["versions"].get(task),
                "results": {name: figure for name, figure in by_name.items() if name is not None},
                "base": by_name.get(None),
            }


def _figure(figures: Mapping[str, Any], metric: str, kept: str) -> dict[str, float | None]:
    return {
        "value": _finite(figures[f"{metric},{kept}"]),
        "stderr": _finite(figures.get(f"{metric}_stderr,{kept}")),
    }


def _finite(value: Any) -> float | None:
    """The harness writes ``N/A`` where it has no figure."""
    number = isinstance(value, int | float | np.number) and math.isfinite(value)
    return float(value) if number else None


@contextlib.contextmanager
def _clean_output() -> Iterator[None]:
    """What the harness prints goes to standard error: standard output holds results alone."""
    with contextlib.redirect_stdout(sys.stderr):
        yield


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
