"""The plot of an ablation: accuracy by iteration, and how far each arm is from the first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from sparta_lite.files import write_text

_COLOURS = ("#4477aa", "#ee6677", "#228833", "#aa3377", "#66ccee", "#bbaa22", "#777777")  # Paul Tol's bright
_HEIGHT = 420  # pixels per task


def write_plot(path: Path, summary: Mapping[str, Any]) -> None:
    """Draw ``summary`` (see ``summarize``) as one HTML file that needs no network; one row per task."""
    from plotly.graph_objects import Figure, Scatter
    from plotly.subplots import make_subplots

    tasks = [task["task"] for task in summary["arms"][0]["runs"][0]["tasks"]]
    titles = [
        title for task in tasks for title in (f"{task}: mean over the tribe", "difference to the first arm")
    ]
    figure: Figure = make_subplots(
        len(tasks), 2, subplot_titles=titles, column_widths=[0.6, 0.4], horizontal_spacing=0.18
    )
    for place, task in enumerate(tasks, start=1):
        rows = [row for row in summary["rows"] if row["task"] == task]
        for number, arm in enumerate(summary["arms"]):
            colour = _COLOURS[number % len(_COLOURS)]
            iterations, means, spreads = _curve(arm["runs"], place - 1)
            figure.add_trace(
                Scatter(
                    x=iterations,
                    y=means,
                    error_y={"type": "data", "array": spreads, "thickness": 1},
                    name=arm["name"],
                    legendgroup=arm["name"],
                    showlegend=place == 1,
                    line_color=colour,
                ),
                place,
                1,
            )
        for row in rows:
            if row["kind"] == "baseline" and row["mean"] is not None:
                figure.add_hline(row["mean"], line_dash="dot", annotation_text=row["arm"], row=place, col=1)
        compared = [row for row in rows if row["difference"] is not None]
        figure.add_trace(
            Scatter(
                x=[row["difference"] for row in compared],
                y=[row["arm"] for row in compared],
                error_x={
                    "type": "data",
                    "array": [_length(row, "high") for row in compared],
                    "arrayminus": [_length(row, "low") for row in compared],
                },
                text=[row["verdict"] for row in compared],
                mode="markers",
                marker_color=_COLOURS[-1],
                showlegend=False,
            ),
            place,
            2,
        )
        figure.add_vline(0, line_width=1, row=place, col=2)
        figure.update_xaxes(title="iterations", dtick=1, row=place, col=1)
        figure.update_yaxes(autorange="reversed", row=place, col=2)
    title = "bars: left one standard deviation over the seeds, right 95 % intervals by t"
    figure.update_layout(
        template="plotly_white", height=_HEIGHT * len(tasks) + 80, title={"text": title, "font_size": 12}
    )
    write_text(path, figure.to_html(include_plotlyjs=True, div_id="ablation"))


def _curve(
    runs: Sequence[Mapping[str, Any]], place: int
) -> tuple[list[int], list[float | None], list[float]]:
    """Iterations, and mean and standard deviation over the runs that were measured there."""
    iterations = runs[0]["tasks"][place]["iterations"]
    columns = list(zip(*(run["tasks"][place]["mean"] for run in runs), strict=True))
    known = [[value for value in column if value is not None] for column in columns]
    means = [fmean(each) if each else None for each in known]
    return iterations, means, [stdev(each) if len(each) > 1 else 0.0 for each in known]


def _length(row: Mapping[str, Any], end: str) -> float:
    """Of a difference's bar on that side; 0 where there is no interval."""
    return 0.0 if row[end] is None else abs(float(row[end] - row["difference"]))
