"""Held-out accuracy over the iterations, drawn with braille dots: two columns and four rows a cell."""

from __future__ import annotations

from functools import lru_cache

from rich.segment import Segment
from rich.style import Style

from sparta_lite.show.lines import ACCENT, ACCENT_STRONG, FAINT, PLAIN, SECOND, Line, length, rule, spaced
from sparta_lite.show.state import HeldOut
from sparta_lite.show.text import clean, clip

LEAST_WIDTH, LEAST_HEIGHT = 40, 7
_MARGIN = 8
"""Cells of the vertical axis and its labels."""
_NAME = 20
"""Cells of a learner's name in the legend."""
_DOTS = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))
"""The bit of a cell's dot at [column][row]; the Unicode block starts at U+2800."""

Points = list[tuple[float, float]]


@lru_cache(maxsize=2)
def chart_lines(
    history: tuple[HeldOut, ...],
    best_init: float | None,
    learner: str | None,
    iterations: int,
    width: int,
    height: int,
) -> list[Line]:
    """A title with the legend, ``height - 2`` rows of dots, and the iterations below them.

    Args:
        history: at least one measurement.
        learner: whose accuracy it is, where one learns alone; None: mean, best and worst of the tribe.
    """
    base = history[-1].base
    values = [base, *(value for point in history for value in (point.best, point.worst))]
    low, high = min(values), max(values)
    middle, span = (low + high) / 2, max(high - low, 0.02)
    canvas = _Canvas(width - _MARGIN - 3, height - 2, middle - span / 2, middle + span / 2)
    last = max(iterations, history[-1].iteration, 1)
    # What is drawn later covers what was there.
    canvas.line([(0.0, base), (1.0, base)], PLAIN, dots=1, period=4)
    if best_init is not None:
        canvas.line([(0.0, best_init), (1.0, best_init)], SECOND, dots=4, period=8)
    if learner is None:
        canvas.line([(point.iteration / last, point.worst) for point in history], ACCENT, dots=1, period=2)
        canvas.line([(point.iteration / last, point.best) for point in history], ACCENT, dots=1, period=2)
    canvas.line([(point.iteration / last, point.mean) for point in history], ACCENT_STRONG)
    lines = [_title(learner, best_init is not None, width)]
    for row, dots in enumerate(canvas.rows()):
        label = {0: canvas.high, height - 3: canvas.low}.get(row)
        axis = f" {label:.3f} ┤" if label is not None else " " * (_MARGIN - 1) + "│"
        lines.append([Segment(axis, FAINT), *dots])
    return [*lines, _axis(last, canvas.columns)]


def _title(learner: str | None, has_init: bool, width: int) -> Line:
    """With the legend, which the 80 columns of a usual terminal have just room for."""
    if learner is None:
        legend = [Segment("⠤⠤ mean", ACCENT_STRONG), Segment("⠄⠄ best, worst", ACCENT)]
    else:
        legend = [Segment(f"⠤⠤ {clip(clean(learner), _NAME)}", ACCENT_STRONG)]
    if has_init:
        legend.append(Segment("⠤ ⠤ best init", SECOND))
    line = spaced([*legend, Segment("⠄ ⠄ bare base", PLAIN)])
    title = "held-out accuracy"
    if length(line) + len(title) + 10 > width:
        return rule(title, width)
    return [*rule(title, width - length(line) - 4), Segment(" ", PLAIN), *line, Segment(" ──", FAINT)]


def _axis(last: int, columns: int) -> Line:
    """The iterations, as many as there is space for, each under its own measurement."""
    step = next(step for step in (1, 2, 5, 10, 20, 50, 100, last) if last // step * 5 <= columns)
    text = ""
    for iteration in range(0, last + 1, step):
        position = iteration * (columns - 1) // last
        text = text.ljust(position) + str(iteration)
    return [Segment(" " * _MARGIN + text, FAINT)]


class _Canvas:
    """``columns`` x ``rows`` cells for x from 0 to 1 and y from ``low`` to ``high``."""

    def __init__(self, columns: int, rows: int, low: float, high: float) -> None:
        self.columns, self.low, self.high = columns, low, high
        self._cells = [[(0, PLAIN) for _ in range(columns)] for _ in range(rows)]

    def line(self, points: Points, style: Style, dots: int = 1, period: int = 1) -> None:
        """Straight lines from point to point; in every ``period`` columns the first ``dots`` are set."""
        places = [self._place(x, y) for x, y in points]
        previous = places[0][1]
        for (left, start), (right, end) in zip(places, places[1:] or places, strict=False):
            for column in range(left, right + 1):
                row = start + round((end - start) * (column - left) / max(right - left, 1))
                if column % period < dots:
                    # A steep solid line is closed, so that it does not fall into dots.
                    between = range(min(previous, row) + 1, max(previous, row)) if dots == period else ()
                    for dot in (row, *between):
                        self._set(column, dot, style)
                previous = row

    def rows(self) -> list[Line]:
        """The cells, top row first, neighbours of one style joined."""
        lines: list[Line] = []
        for row in self._cells:
            line: Line = []
            for bits, style in row:
                character = chr(0x2800 + bits) if bits else " "
                if line and line[-1].style == style:
                    line[-1] = Segment(line[-1].text + character, style)
                else:
                    line.append(Segment(character, style))
            lines.append(line)
        return lines

    def _place(self, x: float, y: float) -> tuple[int, int]:
        """Column and row of dots, from the top left."""
        dots = len(self._cells) * 4 - 1
        return round(x * (self.columns * 2 - 1)), round((self.high - y) / (self.high - self.low) * dots)

    def _set(self, column: int, row: int, style: Style) -> None:
        bits, before = self._cells[row // 4][column // 2]
        kept = bits if before == style else 0
        self._cells[row // 4][column // 2] = (kept | _DOTS[column % 2][row % 4], style)
