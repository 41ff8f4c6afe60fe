"""Text that fits: model output made harmless, clipped by terminal cells, and small bars and sparklines."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Literal

from rich.cells import cell_len, chop_cells, set_cell_size

_ESCAPE_SEQUENCE = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"  # control sequences: colours, cursor movements
    r"|(?:\x1b\]|\x9d)[^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c)?"  # operating system commands: titles, links
)
# They change a character's width in some terminals and not in others.
_VARIATION_SELECTORS = re.compile("[\ufe00-\ufe0f\U000e0100-\U000e01ef]")
_SPARKS = "▁▂▃▄▅▆▇█"


@lru_cache(maxsize=256)
def clean(text: str) -> str:
    """One line of printable characters: escape sequences and controls dropped, white space collapsed.

    Nothing that a model writes can move the cursor, set a colour, or reverse the reading direction.
    """
    text = _VARIATION_SELECTORS.sub("", _ESCAPE_SEQUENCE.sub("", text))
    return " ".join("".join(c if c.isprintable() else " " if c.isspace() else "" for c in text).split())


def harmless(text: str) -> str:
    """Printable characters alone, like ``clean``, but with its white space as it is."""
    return "".join(c for c in _ESCAPE_SEQUENCE.sub("", text) if c.isprintable())


def probability(value: float) -> str:
    """With three decimals, or its power of ten where these would show nothing."""
    return f"{value:.0e}".replace("e-0", "e-") if 0 < value < 0.001 else f"{value:.3f}"


def clip(text: str, width: int) -> str:
    """``text`` in at most ``width`` terminal cells; an ellipsis follows a whole word where one is near."""
    if cell_len(text) <= width:
        return text
    text = text.rstrip()
    if cell_len(text) <= width:
        return text
    if width <= 0:
        return ""
    kept = set_cell_size(text, width - 1)
    if not text.startswith(kept + " "):
        space = kept.rfind(" ")
        if space > len(kept) * 2 // 3:
            kept = kept[:space]
    return kept.rstrip() + "…"


def fit(text: str, width: int, align: Literal["left", "right"] = "left") -> str:
    """``text`` clipped and padded to exactly ``width`` cells."""
    text = clip(text, width)
    padding = " " * (width - cell_len(text))
    return padding + text if align == "right" else text + padding


@lru_cache(maxsize=64)
def wrapped(text: str, width: int, lines: int) -> tuple[str, ...]:
    """``text`` in at most ``lines`` lines of at most ``width`` cells; the last one is clipped."""
    rows: list[str] = []
    rest = text
    while rest and len(rows) < lines:
        if len(rows) == lines - 1 or cell_len(rest) <= width:
            rows.append(clip(rest, width))
            break
        head = chop_cells(rest, width)[0]
        if not rest.startswith(head + " "):
            # A word that takes most of the line is cut: Chinese and code have no spaces to break at.
            space = head.rfind(" ")
            if space > len(head) // 2:
                head = head[:space]
        rows.append(head.rstrip())
        rest = rest[len(head) :].lstrip()
    return tuple(rows)


def sparkline(values: Sequence[float | None], low: float, high: float) -> str:
    """One character per value, ``low`` to ``high`` from bottom to top; a blank where there is no value."""
    span = high - low
    return "".join(
        " " if value is None else _SPARKS[round((value - low) / span * (len(_SPARKS) - 1)) if span > 0 else 0]
        for value in values
    )


def duration(seconds: float) -> str:
    """``0:07``, ``12:34``, ``1:02:03``, ``3 d 04 h``."""
    whole = round(seconds)
    minutes, hours = whole // 60, whole // 3600
    if hours >= 48:
        return f"{hours // 24} d {hours % 24:02d} h"
    if hours:
        return f"{hours}:{minutes % 60:02d}:{whole % 60:02d}"
    return f"{minutes}:{whole % 60:02d}"


def durations(seconds: tuple[float, float]) -> str:
    """``12:34``, or ``12:34 to 1:02:03`` where they differ."""
    least, most = map(duration, seconds)
    return least if least == most else f"{least} to {most}"


def memory(size: int) -> str:
    """Bytes as ``812 MiB`` or ``21.4 GiB``."""
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"


def counted(number: int, units: str) -> str:
    """``1 step`` or ``1,240 steps``, for ``units`` in the plural."""
    return f"{number:,} {units.removesuffix('s') if number == 1 else units}"


def rate(per_second: float) -> str:
    """``1,240/s``, ``12.5/s``, or ``0.04/s``."""
    if per_second >= 100:
        return f"{per_second:,.0f}/s"
    return f"{per_second:.1f}/s" if per_second >= 1 else f"{per_second:.2f}/s"
