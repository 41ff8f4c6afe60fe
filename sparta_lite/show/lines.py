"""What every part of the live view is made of: lines of styled segments, and the few styles there are.

Colours are the terminal's own, without black, white, blue and yellow, so that light and dark themes both
read well; nothing is told by colour alone.
"""

from __future__ import annotations

from typing import Literal

from rich.cells import cell_len
from rich.segment import Segment
from rich.style import Style

from sparta_lite.show.text import clip, fit

Line = list[Segment]

PLAIN = Style()
STRONG = Style(bold=True)
FAINT = Style(dim=True)
ACCENT = Style(color="cyan")
ACCENT_STRONG = Style(color="cyan", bold=True)
SECOND = Style(color="magenta")
SECOND_STRONG = Style(color="magenta", bold=True)
BETTER = Style(color="green")
BETTER_STRONG = Style(color="green", bold=True)
WORSE = Style(color="red")
WORSE_STRONG = Style(color="red", bold=True)

MARGIN = Segment(" ", PLAIN)


def cell(text: str, width: int, style: Style = PLAIN, align: Literal["left", "right"] = "left") -> Segment:
    """``text`` clipped and padded to ``width`` cells."""
    return Segment(fit(text, width, align), style)


def spaced(parts: list[Segment], gap: int = 2) -> Line:
    """``parts`` with ``gap`` blanks between them."""
    return [*(Segment(part.text + " " * gap, part.style) for part in parts[:-1]), *parts[-1:]]


def length(line: Line) -> int:
    """Terminal cells that ``line`` takes."""
    return sum(cell_len(segment.text) for segment in line)


def cut(line: Line, width: int) -> Line:
    """``line`` in at most ``width`` cells; the part that crosses the edge ends with an ellipsis."""
    kept: Line = []
    for segment in line:
        size = cell_len(segment.text)
        if size > width:
            kept.append(Segment(clip(segment.text, width), segment.style))
            break
        kept.append(segment)
        width -= size
    return kept


def spread(left: Line, right: Line, width: int) -> Line:
    """``left`` and ``right`` at the two edges; the left one gives way, and the right one if it must."""
    right = right if length(right) <= width * 2 // 3 else []
    left = cut(left, max(width - length(right) - (2 if right else 0), 0))
    return [*left, Segment(" " * (width - length(left) - length(right)), PLAIN), *right]


def rule(title: str, width: int) -> Line:
    """A thin line across with a title in it."""
    name = clip(title, max(width - 6, 0))
    return [
        Segment("── ", FAINT),
        Segment(name, STRONG),
        Segment(" " + "─" * max(width - cell_len(name) - 4, 0), FAINT),
    ]


def bar(share: float, width: int, style: Style) -> Line:
    """A bar of ``width`` cells, ``share`` (0 to 1) of it filled, to half a cell."""
    halves = round(min(max(share, 0.0), 1.0) * width * 2)
    full, half = divmod(halves, 2)
    filled = "━" * full + ("╸" if half else "")
    return [Segment(filled, style), Segment("─" * (width - len(filled)), FAINT)]
