"""The leaderboard of the live view: as many columns as the width allows, the most telling ones first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from rich.cells import cell_len
from rich.segment import Segment
from rich.style import Style

from sparta_lite.campaign.events import AdapterStanding
from sparta_lite.show.lines import (
    ACCENT,
    BETTER,
    FAINT,
    MARGIN,
    PLAIN,
    STRONG,
    WORSE,
    Line,
    bar,
    cell,
    spaced,
)
from sparta_lite.show.state import Board, Place
from sparta_lite.show.text import clean, clip, sparkline

WIDE = 100
"""From this width on names and trends get more space."""


@dataclass(frozen=True)
class Column:
    """One column. Where space is short, columns of higher ``rank`` give way first."""

    title: str
    rank: int
    cells: list[str]
    styles: list[Style]
    align: Literal["left", "right"] = "right"

    @cached_property
    def width(self) -> int:
        return max(cell_len(text) for text in (self.title, *self.cells))


def leaderboard_lines(board: Board, width: int, height: int) -> list[Line]:
    """A heading and one line per adapter in at most ``height`` lines; the last says how many are left out."""
    places = board.leaderboard()
    if not places:
        return []
    columns = _fitting(_columns(board, places, width), width)
    lines = [[MARGIN, *spaced([cell(c.title, c.width, FAINT, c.align) for c in columns])]]
    spare = width - 3 - sum(column.width + 2 for column in columns)
    shown = len(places) if len(places) < height else height - 2
    for row, place in enumerate(places[: max(shown, 0)]):
        line = [MARGIN, *spaced([cell(c.cells[row], c.width, c.styles[row], c.align) for c in columns])]
        if place.accuracy is not None and spare >= 8:
            line += [Segment("  ", PLAIN), *bar(place.accuracy, min(spare, 40), ACCENT)]
        lines.append(line)
    if shown < len(places):
        lines.append([Segment(clip(f" … {len(places) - shown} more", width), FAINT)])
    return lines[: max(height, 0)]


def _fitting(columns: list[Column], width: int) -> list[Column]:
    """The columns that fit, in their own order; the adapters' names stay in any case."""
    kept: list[str] = []
    left = width + 1  # a margin before the first column, no gap after the last
    for column in sorted(columns, key=lambda column: column.rank):
        if kept and column.width + 2 > left:
            break
        kept.append(column.title)
        left -= column.width + 2
    return [column for column in columns if column.title in kept]


def _columns(board: Board, places: list[Place], width: int) -> list[Column]:
    count = len(places)
    wide = width >= WIDE
    names = [clip(clean(place.adapter), 24 if wide else 13) for place in places]
    columns = [Column("adapter", 0, names, [STRONG] * count, "left")]
    if any(marks := [board.mark(place.adapter) for place in places]):
        styles = [WORSE if mark == "hostile" else BETTER for mark in marks]
        columns.append(Column("", 0, marks, styles, "left"))

    def standing(title: str, rank: int, text: Callable[[AdapterStanding], str], style: Style = PLAIN) -> None:
        cells = ["–" if place.standing is None else text(place.standing) for place in places]
        columns.append(Column(title, rank, cells, [style] * count))

    if board.standings and board.baseline is None:  # where one learns alone, nobody's reputation moves
        standing("reputation", 1, lambda standing: f"{standing.reputation:.2f} ±{standing.deviation:.2f}")
        standing("W", 4, lambda standing: str(standing.wins))
        standing("D", 6, lambda standing: str(standing.draws), FAINT)
        standing("L", 4, lambda standing: str(standing.losses))
        standing("weight", 3, lambda standing: f"{standing.weight:.2%}")
    if any(place.failed_votes for place in places):
        columns.append(Column("no vote", 8, [str(place.failed_votes) for place in places], [PLAIN] * count))
    if (training := board.training_now) is not None:
        losses = [_number(training.loss.get(place.adapter), ".3f") for place in places]
        margins = [_number(training.margin.get(place.adapter), "+.2f") for place in places]
        columns += [
            Column("loss", 9, losses, [PLAIN] * count),
            Column("margin", 10, margins, [PLAIN] * count),
        ]
    if board.evaluations:
        low = min(min(event.accuracy.values()) for event in board.evaluations.values())
        high = max(max(event.accuracy.values()) for event in board.evaluations.values())
        trends = [sparkline(place.history[-24 if wide else -9 :], low, high) for place in places]
        accuracies = [_number(place.accuracy, ".3f") for place in places]
        changes = [_number(place.change, "+.3f") for place in places]
        columns += [
            Column("held-out", 2, accuracies, [STRONG] * count),
            Column("change", 5, changes, [_direction(place.change) for place in places]),
            Column("trend", 7, trends, [ACCENT] * count, "left"),
        ]
    return columns


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)


def _direction(change: float | None) -> Style:
    if not change:
        return PLAIN
    return BETTER if change > 0 else WORSE
