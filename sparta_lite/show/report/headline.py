"""The result of a run: its held-out figures now, with their spread, and how they came about."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, pstdev

from sparta_lite.campaign.intervals import Interval, wilson
from sparta_lite.campaign.metrics import TaskFigures
from sparta_lite.show.report import figures
from sparta_lite.show.report.figures import Measured
from sparta_lite.show.report.html import Html, chart, note, paragraph, section, tag
from sparta_lite.show.report.parts import NONE, Part, adapter, number
from sparta_lite.show.report.reading import RunFiles
from sparta_lite.show.text import counted


@dataclass(frozen=True)
class _Value:
    """One figure of the headline; the interval is of 95 %, None where none can be given."""

    label: str
    who: str
    value: float
    interval: Interval | None
    colour: str


def measured(run: RunFiles) -> list[Part]:
    """The headline of the first task, and every task over the iterations."""
    if not run.evaluations:
        empty = paragraph(
            "Nothing was measured on held-out questions: evaluation.items is 0, or it is early."
        )
        return [Part(section("headline", "Held-out accuracy", empty), {})]
    by_task = [
        [Measured(row.iteration, row.tasks[place]) for row in run.evaluations]
        for place in range(len(run.evaluations[0].tasks))
    ]
    drawn = {f"accuracy-{place}": figures.accuracy(run, rows) for place, rows in enumerate(by_task)}
    charts = []
    for place, rows in enumerate(by_task):
        title = [tag("h3", rows[0].figures.task)] if len(by_task) > 1 else []
        charts += [
            *title,
            chart(f"accuracy-{place}", f"{rows[0].figures.task}: accuracy over the iterations"),
        ]
    said = note(
        f"Thick: {run.learner or 'the tribe’s mean'}. Dashed: the best initial adapter. Dotted: the bare "
        f"base, without any. {_left_out(run)}Nothing of these questions enters duels or training."
    )
    course = Part(section("accuracy", "Accuracy by iteration", *charts, said), drawn)
    return [_headline(run, by_task[0]), course]


def _headline(run: RunFiles, rows: Sequence[Measured]) -> Part:
    now = rows[-1].figures
    values = _values(run, rows[0], now)
    judged = now.judged
    tiles = tag("div", *(_tile(run, value) for value in values), class_="tiles")
    spread = [value for name in run.members if (value := now.accuracy[name]) is not None]
    across = (
        f"The adapters lie between {min(spread):.3f} and {max(spread):.3f}, standard deviation "
        f"{pstdev(spread):.3f}. "
        if len(spread) > 1
        else ""
    )
    if judged:
        how = "Scores from 1 to 10, given by the bare base. "
    else:
        picked = "Best and best init were" if run.learner is None else "Best init was"
        mean = "; for the mean as if all adapters failed the same questions, so at most so wide"
        how = (
            f"Intervals: 95%, over {now.items:,} held-out questions (Wilson)"
            f"{mean if run.learner is None else ''}. {picked} picked on these very questions and "
            f"flatter{'' if run.learner is None else 's'} a little. "
        )
    seed = "One run with one seed: another seed moves these figures too."
    points = [(value.label, value.value, value.interval, value.colour) for value in values]
    verdict = _verdict(run, values, rows[-1].iteration)
    body = [verdict, tiles, chart("headline", "values with their intervals")]
    return Part(
        section(
            "headline",
            f"Held-out {'score' if judged else 'accuracy'}: {now.task}",
            *body,
            note(across, _left_out(run), how, seed),
        ),
        {"headline": figures.headline(points, judged)},
    )


def _left_out(run: RunFiles) -> str:
    """Who is measured, but counts in no figure of the headline."""
    names = run.started.hostile
    return f"Hostile, and left out here: {', '.join(names)}. " if names else ""


def _values(run: RunFiles, first: Measured, now: TaskFigures) -> list[_Value]:
    """Tribe mean and best, or who learned alone; best init, bare base: those that are known."""
    known = {name: value for name in run.members if (value := now.accuracy[name]) is not None}
    before = {
        name: value
        for name, value in first.figures.accuracy.items()
        if value is not None and name not in run.started.hostile
    }
    values = []

    def add(label: str, who: str, value: float, colour: str) -> None:
        interval = None if now.judged else wilson(value * now.items, now.items)
        values.append(_Value(label, who, value, interval, colour))

    if known and run.learner is not None:
        add("learner", run.learner, known[run.learner], "accent")
    elif known:
        best = max(known, key=known.__getitem__)
        add("tribe mean", f"{len(known)} adapters", fmean(known.values()), "accent")
        add("best", best, known[best], "ink")
    if before and first.iteration == 0:
        best = max(before, key=before.__getitem__)
        add("best init", best, before[best], "ink")
    if now.base is not None:
        add("bare base", "no adapter", now.base, "faint")
    return values


def _tile(run: RunFiles, value: _Value) -> Html:
    around = NONE if value.interval is None else f"{value.interval[0]:.3f} to {value.interval[1]:.3f}"
    return tag(
        "div",
        tag("span", value.label, class_="label"),
        tag("span", f"{value.value:.3f}", class_=f"value {value.colour}"),
        tag("span", around, class_="interval"),
        tag("span", adapter(run, value.who) if value.who in run.tribe else value.who, class_="who"),
        class_="tile",
    )


def _verdict(run: RunFiles, values: list[_Value], iterations: int) -> Html:
    """The result in a sentence."""
    by_label = {value.label: value.value for value in values}
    result = by_label.get("tribe mean" if run.learner is None else "learner")
    if result is None:
        return paragraph("No answer could be judged.")
    against = [
        f"{number(result - by_label[label], '+.3f')} against {words}"
        for label, words in (("best init", "the best initial adapter"), ("bare base", "the bare base"))
        if label in by_label
    ]
    learned = counted(iterations, "iterations")
    when = f"After {learned}" if iterations else "Before any training"
    if run.learner is None:
        start: list[str] = [f"{when} the tribe’s mean is "]
    else:
        of = f" of {run.started.algorithm}" if iterations else ""
        start = [f"{when}{of} the learner ", adapter(run, run.learner), " is at "]
    shown = tag("strong", f"{result:.3f}")
    return tag("p", *start, shown, ": " + ", ".join(against) + "." if against else ".", class_="lead")
