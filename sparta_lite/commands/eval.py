"""``sparta-lite eval``: a run's adapters and the bare base on held-out questions, in one load of the base."""

from __future__ import annotations

import json as json_text
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from sparta_lite.campaign.hostility import titled
from sparta_lite.commands.quiet import quiet_libraries
from sparta_lite.commands.unchecked import note_unchecked
from sparta_lite.data.rows import require_source
from sparta_lite.errors import SpartaError
from sparta_lite.files import write_json
from sparta_lite.outcome.finished import Finished, open_run
from sparta_lite.show.text import counted

_REPORT_EVERY = 10.0  # seconds
_BASE = "bare base"


def evaluate(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run's directory.")],
    tasks: Annotated[
        str | None,
        typer.Option(metavar="A,B", help="Tasks with held-out questions.", show_default="the run's"),
    ] = None,
    adapters: Annotated[
        str, typer.Option(metavar="all|A,B", help="Which of the tribe; the bare base comes with them.")
    ] = "all",
    iteration: Annotated[
        int | None, typer.Option(help="After so many iterations; 0: before the first.", show_default="last")
    ] = None,
    items: Annotated[
        int | None, typer.Option(min=1, help="Questions per task.", show_default="as in the run")
    ] = None,
    paths: Annotated[
        list[str] | None,
        typer.Option("--path", metavar="TASK=FILE", help="A task's file in place of the hub."),
    ] = None,
    harness: Annotated[
        str | None, typer.Option(metavar="A,B", help="Tasks of lm-evaluation-harness.")
    ] = None,
    harness_chat: Annotated[
        bool, typer.Option("--harness-chat", help="Put the harness's requests into the chat template.")
    ] = False,
    include: Annotated[
        Path | None,
        typer.Option("--include-path", help="A directory with YAML of harness tasks of your own."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
    out: Annotated[
        Path | None, typer.Option(help="Where the record goes.", show_default="RUN/evaluations/")
    ] = None,
) -> None:
    """Measure a run's adapters and the bare base anew."""
    if harness is None and (include is not None or harness_chat):
        raise SpartaError("--include-path and --harness-chat belong to --harness; name its tasks")
    if out is not None and out.exists():
        raise SpartaError(f"{out}: exists already; give --out a file that does not")
    files = dict(map(_task_and_file, paths or []))
    for file in files.values():
        require_source(file)
    named = None if tasks is None else _listed(tasks, "--tasks")
    quiet_libraries()
    # The harness draws a bar per task and adapter; its turns are lines of ours. tqdm reads this on import.
    os.environ.setdefault("TQDM_DISABLE", "1")
    finished = open_run(run, iteration)
    names = _chosen(finished, adapters)
    from sparta_lite.outcome import evaluation
    from sparta_lite.outcome.harness import Order, require_harness

    order = None
    if harness is not None:
        require_harness()
        order = Order(_listed(harness, "--harness"), include, harness_chat, items)
    if harness is not None and named is None and not files:
        named = ()
    config, ours = evaluation.tasks_of(finished, named, files, items)
    for notice in (notice for task in ours for notice in task.notices):
        _say(notice)
    total = (len(names) + 1) * sum(len(task.questions) for task in ours)
    record = evaluation.measure(finished, config, names, ours, order, _progress(total), _say)
    place = out or evaluation.free_file(finished)
    write_json(place, record)
    if json:
        typer.echo(json_text.dumps(record, indent=1))
    else:
        typer.echo(_report(record))
    note_unchecked(run)
    _say(f"saved as {place}")


def _task_and_file(text: str) -> tuple[str, str]:
    task, given, file = text.partition("=")
    if not task or not given or not file:
        raise SpartaError(f"--path {text}: give TASK=FILE")
    return task, str(Path(file).expanduser())


def _listed(text: str, option: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(","))
    if not all(names) or len(set(names)) < len(names):
        raise SpartaError(f"{option} {text}: give names with commas between them, each once")
    return names


def _chosen(run: Finished, text: str) -> tuple[str, ...]:
    """The adapters that ``text`` names, in the tribe's order."""
    if text == "all":
        return run.tribe
    names = _listed(text, "--adapters")
    if unknown := [name for name in names if name not in run.tribe]:
        raise SpartaError(
            f"--adapters: the run has no {', '.join(unknown)}; its tribe is {', '.join(run.tribe)}"
        )
    return tuple(name for name in run.tribe if name in names)


def _progress(total: int) -> Callable[[int, int], None]:
    """Says every few seconds how many answers have been given."""
    done, said = 0, time.monotonic()

    def tell(more: int, _tokens: int) -> None:
        nonlocal done, said
        done += more
        if time.monotonic() - said > _REPORT_EVERY:
            said = time.monotonic()
            _say(f"{done:,} of {total:,} answers")

    return tell


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _report(record: Mapping[str, Any]) -> str:
    lines = [f"{record['run']}, {_when(record['iteration'])}"]
    for task in record["tasks"]:
        value, lost = ("mean score", "failed") if task["judged"] else ("accuracy", "unparsed")
        rows: list[tuple[Any, ...]] = [
            (
                name,
                figures["accuracy"],
                _interval(figures["interval"]),
                f"{figures['unparsed']:,}",
            )
            for name, figures in (*task["results"].items(), (_BASE, task["base"]))
        ]
        lines += ["", f"{task['task']}, {counted(task['items'], 'questions')}"]
        lines += _table(record, (value, "95 % interval", lost), rows, higher=True)
    if record["tasks"]:
        lines += ["", *_wrapped(f"intervals: {record['intervals']}")]
    for task in (record["harness"] or {}).get("tasks", []):
        kept = "" if task["filter"] == "none" else f" ({task['filter']})"
        rows = [
            (name, figures["value"], _number(figures["stderr"]))
            for name, figures in (*task["results"].items(), (_BASE, task["base"]))
        ]
        questions = "" if task["items"] is None else f", {counted(task['items'], 'questions')}"
        lines += ["", f"{task['task']}, {task['fewshot'] or 0}-shot{questions}, by lm-evaluation-harness"]
        lines += _table(record, (f"{task['metric']}{kept}", "± stderr"), rows, task["higher_is_better"])
    return "\n".join(lines)


def _when(iterations: int) -> str:
    return "before the first iteration" if iterations == 0 else f"after {counted(iterations, 'iterations')}"


def _table(
    record: Mapping[str, Any], titles: Sequence[str], rows: Sequence[tuple[Any, ...]], higher: bool | None
) -> list[str]:
    """Rows of name, value and further columns, the best value first, the bare base last.

    The best adapter that is not hostile is marked. Where all are alike nothing is marked, and where it is not
    known which way is better the order stays too.
    """
    *tribe, base = rows
    known = [row[1] for row in tribe if row[1] is not None and row[0] not in record["hostile"]]
    best = None if higher is None or len(set(known)) < 2 else (max if higher else min)(known)
    if higher is not None:
        sign = -1 if higher else 1
        tribe.sort(key=lambda row: (row[1] is None, 0.0 if row[1] is None else sign * row[1]))
    cells = [("", "adapter", *titles)]
    for name, value, *others in (*tribe, base):
        marked = best is not None and value == best and name not in (*record["hostile"], _BASE)
        cells.append(("*" if marked else "", titled(name, record["hostile"]), _number(value), *others))
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        f"{mark:1} {name:{widths[1]}}  "
        + "  ".join(f"{cell:>{width}}" for cell, width in zip(numbers, widths[2:], strict=True))
        for mark, name, *numbers in cells
    ]


def _wrapped(text: str) -> list[str]:
    """In lines that the terminal has room for."""
    console = Console()
    return [line.plain.rstrip() for line in Text(text).wrap(console, console.width)]


def _interval(interval: Sequence[float] | None) -> str:
    return "–" if interval is None else f"{interval[0]:.3f} to {interval[1]:.3f}"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}" if abs(value) < 1000 else f"{value:.4g}"
