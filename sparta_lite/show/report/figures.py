"""The charts, as Plotly figures without colours of their own.

Every trace says in ``meta`` which of the page's colours is its own, and which adapter it stands for: the page
paints it so, in the light and in the dark, and fades it while another adapter is looked at.
"""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import plotly.graph_objects as go

from sparta_lite.campaign.metrics import TaskFigures
from sparta_lite.show.report.reading import RunFiles, Settled, Spent
from sparta_lite.show.state import PHASES

COLOURS = 10
"""Adapters with a colour of their own; the next ten have the same, drawn with dashes."""
_DASHES = ("solid", "dash", "dot", "dashdot")
_DODGE = 0.3  # iterations between the first adapter's bars and the last one's
_DIGITS = 5
"""Significant digits of what is drawn. Names are escaped: Plotly reads some HTML in its texts."""
_OF = "<br><span style='font-size:9px'>of {}</span>"
"""Under a share: how many duels it is of."""
_NAME = 40
"""Characters of a name beside an axis; of a longer one both ends are kept."""

Interval = tuple[float, float]
Point = tuple[str, float, Interval | None, str]
"""Label, value, interval, colour."""


@dataclass(frozen=True)
class Measured:
    """One task after so many iterations."""

    iteration: int
    figures: TaskFigures


def colour(number: int) -> str:
    """The name of the colour of the ``number``-th adapter of the tribe."""
    return f"a{number % COLOURS}"


def accuracy(run: RunFiles, rows: Sequence[Measured]) -> go.Figure:
    """One task over the iterations: the run's members, their mean, the best initial adapter, the bare base.

    Args:
        run: whose members and colours they are.
        rows: the task's figures, iteration by iteration; one at least.
    """
    at = [row.iteration for row in rows]
    tasks = [row.figures for row in rows]
    what = "mean score" if tasks[0].judged else "held-out accuracy"
    figure = by_iteration(what, at[-1], "iterations learned from")
    for number, name in enumerate(run.tribe):
        if name in run.members:
            figure.add_trace(curve(name, number, at, [task.accuracy[name] for task in tasks], marked=True))
    if run.learner is None:
        known = [[task.accuracy[name] for name in run.members] for task in tasks]
        figure.add_trace(reference("mean of the tribe", "ink", at, [*map(_mean, known)], "solid", 3.5))
    else:
        figure.data[0].line.width = 3.5
    initial = [value for name, value in tasks[0].accuracy.items() if name not in run.started.hostile]
    if at[0] == 0 and (measured := [value for value in initial if value is not None]):
        figure.add_trace(reference("best init", "ink", at, [max(measured)] * len(at), "dash", 1.5))
    if tasks[-1].base is not None:
        figure.add_trace(reference("bare base", "faint", at, [tasks[-1].base] * len(at), "dot", 2))
    return figure


def headline(points: Sequence[Point], judged: bool) -> go.Figure:
    """Values with their intervals, one under the other."""
    figure = blank("mean score" if judged else "held-out accuracy", "", height=70 + 46 * len(points))
    for label, value, interval, own in points:
        error = None if interval is None else [[interval[1] - value], [value - interval[0]]]
        trace = go.Scatter(
            x=[value],
            y=[label],
            mode="markers",
            marker={"size": 11},
            meta={"colour": own},
            name=label,
            hovertemplate="%{y}: %{x:.3f}<extra></extra>",
        )
        if error is not None:
            trace.error_x = {"type": "data", "symmetric": False, "array": error[0], "arrayminus": error[1]}
            trace.error_x.thickness, trace.error_x.width = 2, 5
        figure.add_trace(trace)
    figure.update_yaxes(autorange="reversed", showgrid=False, ticklabelstandoff=8)
    return figure


def reputations(run: RunFiles) -> go.Figure:
    """Reputation of every adapter over the iterations, its deviation as a bar; drawn side by side."""
    at = list(range(len(run.iterations) + 1))
    figure = by_iteration("reputation", at[-1])
    for number, name in enumerate(run.tribe):
        ratings = [run.start[name], *(settled.ratings[name] for settled in run.iterations)]
        aside = [place + _DODGE * (number / (len(run.tribe) - 1) - 0.5) for place in at]
        line = curve(name, number, aside, [reputation for reputation, _ in ratings], marked=True)
        line.error_y = {"type": "data", "array": [short(deviation) for _, deviation in ratings]}
        line.error_y.thickness, line.error_y.width = 1, 3
        figure.add_trace(line)
    return figure


def judge_weights(run: RunFiles) -> go.Figure:
    """How much each judge counts after every iteration, 1 being as much as if all counted alike."""
    at = [settled.iteration + 1 for settled in run.iterations]
    figure = by_iteration("weight, 1 = like everyone", at[-1])
    for number, name in enumerate(run.tribe):
        weights = [settled.weights[name] * len(run.tribe) for settled in run.iterations]
        figure.add_trace(curve(name, number, at, weights, marked=True))
    return figure


def wins(tribe: Sequence[str], iterations: Sequence[Settled]) -> go.Figure:
    """Who beats whom: the row's share of its decided duels with the column."""
    place = {name: number for number, name in enumerate(tribe)}
    won = [[0] * len(tribe) for _ in tribe]
    for settled in iterations:
        for number, each in enumerate(settled.duels):
            if (winner := settled.winner(number)) is not None:
                fighters = each.duel.fighters
                won[place[fighters[winner]]][place[fighters[1 - winner]]] += 1
    met = [[won[row][column] + won[column][row] for column in place.values()] for row in place.values()]
    shares = [
        [won[row][column] / met[row][column] if met[row][column] else None for column in place.values()]
        for row in place.values()
    ]
    figure = blank("", "", height=150 + 40 * len(tribe))
    figure.add_trace(
        go.Heatmap(
            z=shares,
            x=[html.escape(name) for name in tribe],
            y=[html.escape(name) for name in tribe],
            zmin=0,
            zmax=1,
            xgap=2,
            ygap=2,
            text=[
                [
                    "" if share is None else f"{100 * share:.0f}{_OF.format(count)}"
                    for share, count in zip(*rows, strict=True)
                ]
                for rows in zip(shares, met, strict=True)
            ],
            customdata=[
                [f"{won[row][column]} of {met[row][column]}" for column in place.values()]
                for row in place.values()
            ],
            texttemplate="%{text}",
            hovertemplate="%{y} beats %{x} in %{customdata} duels<extra></extra>",
            showscale=False,
            meta={"colour": "diverging"},
        )
    )
    figure.update_xaxes(side="top", tickangle=-45, showgrid=False, ticks="", **by_name(tribe))
    figure.update_yaxes(autorange="reversed", showgrid=False, ticks="", ticklabelstandoff=6, **by_name(tribe))
    return figure


def training(run: RunFiles, key: str, title: str) -> go.Figure:
    """One of the figures of DPO over all optimizer steps, per adapter and on average."""
    figure = blank("optimizer steps", title, height=300)
    first = [0]
    """Steps before each iteration."""
    for iteration in range(max(row.iteration for row in run.training) + 1):
        steps = max((row.steps for row in run.training if row.iteration == iteration), default=0)
        first.append(first[-1] + steps)
    together: dict[int, list[float]] = {}
    for number, name in enumerate(run.tribe):
        rows = [row for row in run.training if row.adapter == name]
        if not rows:
            continue
        at = [first[row.iteration] + row.step + 1 for row in rows]
        figure.add_trace(curve(name, number, at, [getattr(row, key) for row in rows], marked=len(rows) < 3))
        for step, row in zip(at, rows, strict=True):
            together.setdefault(step, []).append(getattr(row, key))
    if run.learner is None:
        means = [fmean(together[step]) for step in sorted(together)]
        figure.add_trace(reference("mean of the tribe", "ink", sorted(together), means, "solid", 2.5))
    for end in first[1:-1]:
        figure.add_vline(x=end + 0.5, line={"width": 1, "color": "rgba(128,128,128,0.35)"})
    figure.update_yaxes(exponentformat="power")  # a margin of 5e-8 would be 50n
    return figure


def lengths(run: RunFiles) -> go.Figure:
    """Mean tokens of every adapter's own answers, iteration by iteration."""
    at = [settled.iteration + 1 for settled in run.iterations]
    figure = by_iteration("tokens of its own answers", at[-1], height=300)
    for number, name in enumerate(run.tribe):
        means = [_mean_length(each, name) for each in run.iterations]
        if any(mean is not None for mean in means):
            figure.add_trace(curve(name, number, at, means, marked=True))
    return figure


def _mean_length(settled: Settled, name: str) -> float | None:
    own = [
        len(response.ids)
        for each in settled.duels
        for fighter, response in zip(each.duel.fighters, each.responses, strict=True)
        if fighter == name
    ]
    return fmean(own) if own else None


def time_spent(spent: Sequence[Spent]) -> go.Figure:
    """Seconds of every phase, iteration by iteration; what is measured before the first stands at 0."""
    figure = by_iteration("seconds", max(row.iteration for row in spent) + 1, "iterations complete")
    for number, phase in enumerate(PHASES):
        rows = [row for row in spent if row.phase == phase]
        if not rows:
            continue
        figure.add_trace(
            go.Bar(
                x=[row.iteration if phase == "evaluate" else row.iteration + 1 for row in rows],
                y=[short(row.seconds) for row in rows],
                name=phase,
                meta={"colour": f"p{number}"},
                hovertemplate=f"{phase}: %{{y:.2f}} s<extra></extra>",
            )
        )
    figure.update_layout(barmode="stack", showlegend=True, bargap=0.35)
    return figure


def blank(across: str, up: str, height: int = 380) -> go.Figure:
    """An empty figure with its axes' titles.

    Args:
        height: in pixels.
    """
    figure = go.Figure(layout={"template": go.layout.Template(), "height": height, "showlegend": False})
    figure.update_xaxes(title={"text": across}, automargin=True)
    figure.update_yaxes(title={"text": up}, automargin=True)
    return figure


def by_iteration(up: str, last: int, across: str = "iterations", height: int = 380) -> go.Figure:
    """An empty figure over the iterations up to ``last``, with ticks at whole ones alone."""
    figure = blank(across, up, height)
    figure.update_xaxes(tick0=0, dtick=math.ceil(max(last, 1) / 12), tickformat="d")
    return figure


def by_name(names: Sequence[str]) -> dict[str, Any]:
    """Of an axis: one place for every name, also for one that Plotly would take for a number or a date."""
    return {
        "type": "category",
        "tickmode": "array",
        "tickvals": [html.escape(name) for name in names],
        "ticktext": [html.escape(shortened(name)) for name in names],
    }


def shortened(name: str) -> str:
    """A name that leaves room for the chart beside it."""
    return name if len(name) <= _NAME else f"{name[: _NAME // 2]}…{name[1 - _NAME // 2 :]}"


def curve(
    name: str, number: int, at: Sequence[float], values: Sequence[float | None], marked: bool
) -> go.Scatter:
    """The line of the adapter or arm in place ``number``; ``marked``: with a dot at every value."""
    return go.Scatter(
        x=list(at),
        y=[None if value is None else short(value) for value in values],
        name=html.escape(name),
        mode="lines+markers" if marked else "lines",
        line={"width": 1.6, "dash": _DASHES[number // COLOURS % len(_DASHES)]},
        marker={"size": 5},
        meta={"colour": colour(number), "adapter": name},
        hovertemplate=f"{html.escape(name)}: %{{y}}<extra></extra>",
    )


def reference(
    name: str, own: str, at: Sequence[int], values: Sequence[float | None], dash: str, width: float
) -> go.Scatter:
    """A line that stands for no single adapter or arm, in the page's colour ``own``."""
    return go.Scatter(
        x=list(at),
        y=[None if value is None else short(value) for value in values],
        name=name,
        mode="lines" if len(at) > 1 else "markers",
        line={"width": width, "dash": dash},
        meta={"colour": own},
        hovertemplate=f"{name}: %{{y}}<extra></extra>",
    )


def _mean(values: Sequence[float | None]) -> float | None:
    """Of those that are known."""
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def short(value: float) -> float:
    """As many digits as can be seen."""
    return float(f"{value:.{_DIGITS}g}")
