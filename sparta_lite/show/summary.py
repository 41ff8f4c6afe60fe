"""What a run came to, for the end of every view that people read."""

from __future__ import annotations

from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from sparta_lite.show.leaderboard import leaderboard_lines
from sparta_lite.show.lines import BETTER, FAINT, STRONG, WORSE, cut
from sparta_lite.show.state import Board, HeldOut
from sparta_lite.show.text import clean


def summary(board: Board) -> RenderableType:
    """The leaderboard, and held-out accuracy per iteration beside best init and the bare base.

    Without ground truth the leaderboard alone, with reputations and wins; empty before anything is known.
    """
    parts: list[RenderableType] = []
    history = board.held_out()
    if board.standings or history:
        parts += [Text("\nleaderboard\n", style=STRONG), _Leaderboard(board)]
    if board.standings and board.baseline is None:
        parts.append(_weights(board))
    if history:
        parts += [
            Text("\nheld-out accuracy", style=STRONG),
            _accuracies(board, history),
            *_members(board),
            _verdict(board, history),
        ]
    return Group(*parts)


def _members(board: Board) -> list[Text]:
    """Whose accuracy it is, where not that of the whole tribe."""
    if board.learner is not None:
        alone = f" {board.baseline}: {clean(board.learner)} learned alone, the figures are its own"
        return [Text(alone, FAINT)]
    if board.hostile:
        return [Text(f" hostile, and left out: {clean(', '.join(board.hostile))}", FAINT)]
    return []


class _Leaderboard:
    """The live view's leaderboard, all of it, at the width of wherever it is printed."""

    def __init__(self, board: Board) -> None:
        self._board = board

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = options.max_width
        for line in leaderboard_lines(self._board, width, len(self._board.adapters) + 1):
            yield from cut(line, width)
            yield Segment.line()


def _weights(board: Board) -> Text:
    """How far the judges' weights are from counting alike: with calm reputations hardly at all."""
    weights = [standing.weight for standing in board.standings.values()]
    even = f"{1 / len(weights):.2%}"
    return Text(
        f"\n judge weights {min(weights):.2%} to {max(weights):.2%}; all alike would be {even}", style=FAINT
    )


def _accuracies(board: Board, history: tuple[HeldOut, ...]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, header_style=FAINT)
    table.add_column("iterations", justify="right")
    of_whom = Text("mean" if board.learner is None else clean(board.learner))
    table.add_column(of_whom, justify="right", style=STRONG)
    for title in (*(("best", "worst") if board.learner is None else ()), "best init", "bare base"):
        table.add_column(title, justify="right")
    best_init = "–" if board.best_init is None else f"{board.best_init:.3f}"
    for point in history:
        figures = (point.mean, point.best, point.worst) if board.learner is None else (point.mean,)
        numbers = [f"{value:.3f}" for value in figures]
        table.add_row(str(point.iteration), *numbers, best_init, f"{point.base:.3f}")
    return table


def _verdict(board: Board, history: tuple[HeldOut, ...]) -> Text:
    now = history[-1]
    text = Text(f" {clean(board.learner or 'mean')} {now.mean:.3f}: ")
    if board.best_init is not None:
        text.append_text(_change(now.mean - board.best_init)).append(
            f" against best init {board.best_init:.3f}, "
        )
    return text.append_text(_change(now.mean - now.base)).append(f" against the bare base {now.base:.3f}")


def _change(value: float) -> Text:
    return Text(f"{value:+.3f}", style=BETTER if value > 0 else WORSE if value < 0 else "")
