"""The charts of an ablation, as Plotly figures without colours of their own; see ``figures``."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

import plotly.graph_objects as go

from sparta_lite.show.report.figures import (
    blank,
    by_iteration,
    by_name,
    colour,
    curve,
    reference,
    short,
    shortened,
)
from sparta_lite.show.state import PHASES

_ROW = 34  # pixels of one arm's line
_SEED_WIDTH, _SEED_OPACITY = 1.0, 0.3
_LEVELS = (("ink", "dash"), ("faint", "dot"))
"""Colour and dash of the rows that are no arm: best init, bare base."""


def differences(rows: Sequence[Mapping[str, Any]], judged: bool) -> go.Figure:
    """How far every arm is from the first, with its t interval; filled where that excludes zero.

    Args:
        rows: of one task, in the table's order; those without a difference are left out.
        judged: it is a mean score from 1 to 10 rather than a share.
    """
    compared = [(place, row) for place, row in enumerate(rows) if row["difference"] is not None]
    what = "mean score" if judged else "held-out accuracy"
    first = html.escape(shortened(rows[0]["arm"]))
    figure = blank(f"{what}, difference to {first}", "", 80 + _ROW * len(compared))
    for place, row in compared:
        is_arm = row["kind"] == "arm"
        trace = go.Scatter(
            x=[short(row["difference"])],
            y=[html.escape(row["arm"])],
            mode="markers",
            marker={"size": 10, "symbol": "circle" if row["separable"] else "circle-open"},
            name=html.escape(row["arm"]),
            meta={"colour": colour(place), "adapter": row["arm"]} if is_arm else {"colour": "faint"},
            hovertemplate=f"{html.escape(row['arm'])}: %{{x:+.3f}}, {row['verdict']}<extra></extra>",
        )
        if row["low"] is not None:
            above, below = row["high"] - row["difference"], row["difference"] - row["low"]
            trace.error_x = {"type": "data", "symmetric": False, "array": [above], "arrayminus": [below]}
            trace.error_x.thickness, trace.error_x.width = 2, 5
        figure.add_trace(trace)
    figure.add_vline(x=0, line={"width": 1.5, "color": "rgba(128,128,128,0.6)"})
    figure.update_xaxes(tickformat="+.2~f", zeroline=False)
    names = by_name([row["arm"] for _, row in compared])
    figure.update_yaxes(autorange="reversed", showgrid=False, ticklabelstandoff=8, **names)
    return figure


def curves(arms: Sequence[Mapping[str, Any]], task: int, rows: Sequence[Mapping[str, Any]]) -> go.Figure:
    """Mean accuracy by iteration: thin every run of every arm, thick the mean over an arm's runs.

    Args:
        arms: those of the summary.
        task: its place in every run.
        rows: of that task; its rows that are no arm are drawn as level lines.
    """
    judged = arms[0]["runs"][0]["tasks"][task]["judged"]
    at = max((run["tasks"][task]["iterations"] for arm in arms for run in arm["runs"]), key=len)
    figure = by_iteration(
        "mean score" if judged else "held-out accuracy", at[-1], "iterations learned from", 420
    )
    for number, arm in enumerate(arms):
        runs = [run["tasks"][task] for run in arm["runs"]]
        for run, seed in zip(runs, (run["seed"] for run in arm["runs"]), strict=True):
            thin = curve(arm["name"], number, run["iterations"], run["mean"], marked=False)
            thin.line.width, thin.opacity = _SEED_WIDTH, _SEED_OPACITY
            thin.hovertemplate = f"{html.escape(arm['name'])}, seed {seed}: %{{y}}<extra></extra>"
            figure.add_trace(thin)
    for number, arm in enumerate(arms):
        runs = [run["tasks"][task] for run in arm["runs"]]
        thick = curve(arm["name"], number, runs[0]["iterations"], _over_runs(runs), marked=True)
        thick.line.width = 2.8
        figure.add_trace(thick)
    for row, (own, dash) in zip((row for row in rows if row["kind"] != "arm"), _LEVELS, strict=True):
        if row["mean"] is not None:
            figure.add_trace(reference(row["arm"], own, at, [row["mean"]] * len(at), dash, 1.5))
    return figure


def costs(arms: Sequence[Mapping[str, Any]]) -> go.Figure:
    """Seconds of every phase but the evaluation, mean over an arm's runs, one bar per arm."""
    figure = blank("seconds per run", "", 110 + _ROW * len(arms))
    for number, phase in enumerate(PHASES):
        seconds = [fmean(run["phases"].get(phase, 0.0) for run in arm["runs"]) for arm in arms]
        if phase == "evaluate" or not any(seconds):
            continue
        figure.add_trace(
            go.Bar(
                x=[*map(short, seconds)],
                y=[html.escape(arm["name"]) for arm in arms],
                orientation="h",
                name=phase,
                meta={"colour": f"p{number}"},
                hovertemplate=f"%{{y}}, {phase}: %{{x:.2f}} s<extra></extra>",
            )
        )
    figure.update_layout(barmode="stack", showlegend=True, bargap=0.4)
    names = by_name([arm["name"] for arm in arms])
    figure.update_yaxes(autorange="reversed", showgrid=False, ticklabelstandoff=8, **names)
    return figure


def _over_runs(runs: Sequence[Mapping[str, Any]]) -> list[float | None]:
    """Mean of the runs that were measured, at each iteration."""
    columns = zip(*(run["mean"] for run in runs), strict=True)
    known = [[value for value in column if value is not None] for column in columns]
    return [fmean(values) if values else None for values in known]
