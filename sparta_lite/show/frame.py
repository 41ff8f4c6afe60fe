"""The whole live view as lines of text."""

from __future__ import annotations

from statistics import fmean

from rich.segment import Segment
from rich.style import Style

from sparta_lite.show import chart, remaining
from sparta_lite.show.duel import duel_lines
from sparta_lite.show.leaderboard import leaderboard_lines
from sparta_lite.show.lines import (
    ACCENT,
    ACCENT_STRONG,
    BETTER,
    BETTER_STRONG,
    FAINT,
    MARGIN,
    PLAIN,
    STRONG,
    WORSE,
    WORSE_STRONG,
    Line,
    bar,
    cell,
    cut,
    length,
    spaced,
    spread,
)
from sparta_lite.show.state import ITERATION, PHASES, UNITS, Board, HeldOut, Round
from sparta_lite.show.text import clean, clip, duration, durations, memory

MOST_CHART = 16
DUEL_HEIGHT = 6
"""Title, instruction, two answers, two lines of votes."""
LEAST_TABLE = 8
"""A heading and seven adapters stay in view before the latest duel gets any space."""


def frame(board: Board, width: int, height: int, elapsed: float) -> list[Line]:
    """Exactly ``height`` lines of at most ``width`` terminal cells.

    Args:
        elapsed: seconds since this process started the run.
    """
    parts = [[_header(board, width, elapsed)], _headline(board, width), _progress(board, width)]
    bottom = [_warning(board, width)] if board.warnings else []
    room = height - sum(len(part) for part in (*parts, bottom))
    parts.append(leaderboard_lines(board, width, min(room, max(room - DUEL_HEIGHT, LEAST_TABLE))))
    room -= len(parts[-1])
    blanks = min(max(room - DUEL_HEIGHT, 0), len(parts) - 1)
    room -= blanks
    history = board.held_out()
    spare = room - DUEL_HEIGHT - chart.LEAST_HEIGHT
    if history and board.run is not None and spare >= 0 and width >= chart.LEAST_WIDTH:
        size = min(chart.LEAST_HEIGHT + spare // 2, MOST_CHART)
        level, learner = board.best_init, board.learner
        parts.append(chart.chart_lines(history, level, learner, board.run.iterations, width, size))
        room -= size
    if board.duel is not None and board.run is not None:
        parts.append(duel_lines(board.duel, board.run.duels, width, room))
    lines: list[Line] = []
    for index, part in enumerate(parts):
        if part and 0 < index <= blanks:
            lines.append([])
        lines += part
    lines += [[] for _ in range(height - len(lines) - len(bottom))]
    return [cut(line, width) for line in (lines + bottom)[:height]]


def _header(board: Board, width: int, elapsed: float) -> Line:
    left = [MARGIN, Segment("sparta-lite", ACCENT_STRONG)]
    right = [Segment(duration(elapsed), STRONG), MARGIN]
    run = board.run
    if run is None:
        return spread(left, right, width)
    left.append(Segment(f"  {clean(run.run)}", PLAIN))
    facts = [clip(clean(run.base), 30), f"{len(run.tribe)} adapters", clean(run.device), f"seed {run.seed}"]
    if board.baseline is not None:
        learner = "one adapter" if board.learner is None else clip(clean(board.learner), 24)
        facts.append(f"{board.baseline}: {learner} learns")
    while facts and sum(len(fact) + 3 for fact in facts) + length(left) + length(right) + 2 > width:
        facts.pop(0)
    return spread(left, [Segment("".join(f"{fact} · " for fact in facts), FAINT), *right], width)


def _headline(board: Board, width: int) -> list[Line]:
    """The tribe, or who learns alone, on held-out items beside best init and the bare base."""
    history = board.held_out()
    if not history:
        return []
    now, first, best_init = history[-1], history[0], board.best_init
    size = (width - 1) // 5
    long = size >= 15
    change = f"{now.mean - first.mean:+.3f}" if now.iteration > first.iteration else ""
    of_whom = ("held-out mean" if long else "mean") if board.learner is None else clean(board.learner)
    spread_out: list[tuple[str, str, str, Style]] = [
        ("best", f"{now.best:.3f}", clean(now.best_adapter), STRONG),
        ("worst", f"{now.worst:.3f}", clean(now.worst_adapter), STRONG),
    ]
    tiles = [
        (clip(of_whom, size - 1), f"{now.mean:.3f}", change, _mean_style(now, best_init)),
        *(spread_out if board.learner is None else []),
        ("best init" if long else "init", "–" if best_init is None else f"{best_init:.3f}", "", PLAIN),
        ("bare base" if long else "base", f"{now.base:.3f}", "", PLAIN),
    ]
    labels: Line = [MARGIN]
    values: Line = [MARGIN]
    for label, value, note, style in tiles:
        labels.append(cell(label, size, FAINT))
        note_style = BETTER if note.startswith("+") else WORSE if note.startswith("-") else FAINT
        if note and size >= 13:
            values += [Segment(value, style), cell(f" {clip(note, size - 7)}", size - len(value), note_style)]
        else:
            values.append(cell(value, size, style))
    return [labels, values]


def _mean_style(now: HeldOut, best_init: float | None) -> Style:
    if now.mean > max(now.base, best_init or 0.0):
        return BETTER_STRONG
    return WORSE_STRONG if now.mean < now.base else STRONG


def _progress(board: Board, width: int) -> list[Line]:
    run, current = board.run, board.round
    if board.finished is not None:
        return [[Segment(f" finished in {duration(board.finished.seconds)}", BETTER_STRONG)]]
    if run is None or current is None:
        return [[Segment(" loading", FAINT)]]
    iteration = f"iteration {board.iteration_shown}/{run.iterations}"
    left = [MARGIN, Segment(iteration, STRONG), Segment("  ", PLAIN)]
    left_over = remaining.left(board)
    right = [] if left_over is None else [Segment(f"{durations(left_over)} left", STRONG), MARGIN]
    phases = _phases(board, current)
    if length(left) + length(phases) + length(right) + 2 > width:
        phases = [Segment(f"▸ {current.phase}", ACCENT_STRONG)]
    return [spread([*left, *phases], right, width), _phase_progress(board, current, width)]


def _phases(board: Board, current: Round) -> Line:
    """The phases of an iteration: those behind plain, the current one marked, those ahead faint."""
    evaluates = bool(board.evaluations) or current.phase == "evaluate"
    position = PHASES.index(current.phase) if board.iteration_shown else 0
    parts = []
    for index, phase in enumerate(PHASES if evaluates else ITERATION):
        if phase == current.phase:
            parts.append(Segment(f"▸ {phase}", ACCENT_STRONG))
        else:
            parts.append(Segment(phase, PLAIN if index < position else FAINT))
    return spaced(parts)


def _phase_progress(board: Board, current: Round, width: int) -> Line:
    share = current.done / current.total if current.total else 1.0
    facts = [
        Segment(f"{share:4.0%}", STRONG),
        Segment(f"{current.done:,} of {current.total:,} {UNITS[current.phase]}", PLAIN),
    ]
    if (training := board.training_now) is not None and training.loss and training.margin:
        facts.append(Segment(f"loss {fmean(training.loss.values()):.3f}", PLAIN))
        facts.append(Segment(f"margin {fmean(training.margin.values()):+.2f}", PLAIN))
    if board.tokens_per_second is not None:
        facts.append(Segment(f"{board.tokens_per_second:,.0f} tokens/s", FAINT))
    if board.memory is not None:
        facts.append(Segment(memory(board.memory), FAINT))
    while len(facts) > 1 and length(spaced(facts)) + 3 > width * 4 // 5:
        facts.pop()
    size = max(width - length(spaced(facts)) - 4, 0)
    return [MARGIN, *bar(share, size, ACCENT), Segment("  ", PLAIN), *spaced(facts)]


def _warning(board: Board, width: int) -> Line:
    return [Segment(clip(f" ! {clean(board.warnings[-1])}", width), WORSE)]
