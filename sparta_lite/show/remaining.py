"""How long a run still takes: measured where a phase was measured, else as it was planned."""

from __future__ import annotations

import math

from sparta_lite.campaign.events import Phase
from sparta_lite.show.state import ITERATION, PHASES, Board

Span = tuple[float, float]
"""Seconds: the least and the most."""


def left_in_phase(board: Board) -> float | None:
    """What is left of the current phase at this process's pace; None before anything was measured."""
    if board.round is None:
        return None
    remaining = board.round.total - board.round.done
    pace = _pace(board, board.round.phase)
    return remaining * pace if pace is not None else None if remaining else 0.0


def left(board: Board) -> Span | None:
    """What is left of the run: the current phase, and every phase still to come.

    A phase to come is expected to have as many units as its latest round, at the mean seconds a unit that
    this process measured for that phase. What it has not measured yet counts as it was planned, times what
    the phases that were measured took of their plan's middle; match-making and settling count for nothing
    until then. None where something was neither measured nor planned.
    """
    if board.run is None or board.round is None:
        return None
    here = left_in_phase(board)
    least = most = here or 0.0
    for phase in PHASES:
        rounds: float = _rounds_to_come(board, phase)
        pace = _pace(board, phase)
        if here is None and phase == board.round.phase:
            rounds += 1 - board.round.done / board.round.total
        if rounds <= 0 or board.totals.get(phase) == 0:  # some baselines have no votes to cast
            continue
        if pace is not None:
            least, most = (each + rounds * board.totals[phase] * pace for each in (least, most))
        elif (span := _corrected(board, phase)) is not None:
            least, most = least + rounds * span[0], most + rounds * span[1]
        elif phase not in ("match", "settle"):
            return None
    return least, most


def _corrected(board: Board, phase: Phase) -> Span | None:
    """A round as it was planned, corrected by what those that were measured took."""
    planned = board.planned.get(phase)
    if planned is None:
        return None
    took = expected = 0.0
    for other in PHASES:
        pace, span = _pace(board, other), board.planned.get(other)
        if pace is not None and span is not None:
            took += board.totals[other] * pace
            expected += _middle(span)
    factor = took / expected if expected else 1.0
    return planned[0] * factor, planned[1] * factor


def _middle(span: Span) -> float:
    """The geometric mean: as many times the least as the most is of it."""
    return math.sqrt(span[0] * span[1])


def _pace(board: Board, phase: Phase) -> float | None:
    """Seconds a unit."""
    units, seconds = board.measured_rounds.get(phase, (0, 0.0))
    if board.round is not None and board.round.phase == phase:
        more_units, more_seconds = board.round.measured
        units, seconds = units + more_units, seconds + more_seconds
    return seconds / units if units > 0 else None


def _rounds_to_come(board: Board, phase: Phase) -> int:
    """Whole rounds of ``phase`` after the current one."""
    assert board.run is not None
    current = board.round
    if phase == "evaluate":
        running = current is not None and current.phase == "evaluate" and current.done < current.total
        if not board.evaluations:
            return board.run.iterations - current.iteration if running and current else 0
        measured = sorted(board.evaluations)
        every = measured[1] - measured[0] if len(measured) > 1 else 1
        return max(-(-(board.run.iterations - measured[-1]) // every) - running, 0)
    rounds = board.run.iterations - board.learned
    if current is not None and current.phase != "evaluate" and current.iteration == board.learned:
        rounds -= ITERATION.index(phase) <= ITERATION.index(current.phase)
    return max(rounds, 0)
