# python docs/picture.py RUN/events.jsonl
"""Draw docs/live.svg: the live view of a recorded run, late in its course."""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path

from rich.console import Console
from rich.segment import Segment, Segments
from rich.terminal_theme import TerminalTheme

from sparta_lite.campaign.events import EventReader, PhaseProgress, PhaseStarted, RunStarted, Stamped
from sparta_lite.errors import SpartaError
from sparta_lite.files import write_text
from sparta_lite.show.frame import frame
from sparta_lite.show.state import Board
from sparta_lite.typed import read_bytes

WIDTH, HEIGHT = 100, 32
THEME = TerminalTheme(
    background=(24, 26, 31),
    foreground=(208, 212, 220),
    normal=[
        (24, 26, 31),
        (232, 106, 112),
        (135, 190, 112),
        (226, 186, 116),
        (97, 168, 232),
        (200, 130, 220),
        (86, 190, 200),
        (208, 212, 220),
    ],
)


def moment(told: list[Stamped]) -> int:
    """The event to stop at: judging, some way into the iteration three quarters through the run.

    Raises:
        SpartaError: the run never got there.
    """
    events = [each.event for each in told]
    run = next((event for event in events if isinstance(event, RunStarted)), None)
    iteration = run.iterations * 3 // 4 if run else 0
    best, distance = None, 2.0
    for index, event in enumerate(events):
        if isinstance(event, (PhaseStarted, PhaseProgress)):
            done = event.done / max(event.total, 1) if isinstance(event, PhaseProgress) else 0.0
            if (event.phase, event.iteration) == ("judge", iteration) and abs(done - 0.6) < distance:
                best, distance = index, abs(done - 0.6)
    if best is None:
        raise SpartaError(f"the run did not judge in iteration {iteration + 1}; record a whole run")
    return best


def draw(told: list[Stamped]) -> str:
    """The view at that moment as SVG, without fonts from the network."""
    stop = moment(told)
    board = Board()
    for each in told[: stop + 1]:
        board.update(each.event)
    elapsed = told[stop].time - told[0].time
    console = Console(
        file=io.StringIO(),
        record=True,
        width=WIDTH,
        height=HEIGHT,
        force_terminal=True,
        color_system="truecolor",
    )
    for line in frame(board, WIDTH, HEIGHT, elapsed):
        console.print(Segments([*line, Segment.line()]), end="")
    svg = console.export_svg(title="sparta-lite run", theme=THEME, unique_id="live")
    return re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)


def main() -> None:
    if len(sys.argv) != 2:
        raise SystemExit("usage: python docs/picture.py RUN/events.jsonl")
    try:
        events = Path(sys.argv[1])
        reader = EventReader(events)
        told = [reader.read(line) for line in read_bytes(events).split(b"\n")[:-1]]
        write_text(Path(__file__).with_name("live.svg"), draw(told))
    except SpartaError as error:
        raise SystemExit(str(error)) from error


if __name__ == "__main__":
    main()
