"""How long a card takes for a piece of work, however long the host takes to ask for it."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence

import torch

_LAUNCHES = 7
_CACHE = 1 << 28  # bytes, more than any card's second cache holds: a layer's matrix is never still in there
_HELD = 1 << 24  # cycles that the card waits at first, some 10 ms
_TRIES = 7  # each waits twice as long as the one before


def time_on_card(runs: Sequence[Callable[[], object]], launches: int = _LAUNCHES) -> list[float]:
    """Microseconds of each on the card, medians of alternated launches that find its caches cold.

    The card is told to wait until all of it is asked for, and then goes from one launch to the next as in a
    recorded graph. Timed as it is asked for, a short kernel would take as long as Python takes to launch it.

    Args:
        runs: what is timed. Each has run before, so that it neither compiles nor takes new memory.
        launches: of each.

    Raises:
        RuntimeError: the card was never held back for long enough, or something in ``runs`` waits for it.
    """
    scratch = torch.empty(_CACHE, dtype=torch.uint8, device="cuda")
    for attempt in range(_TRIES):
        torch.cuda.synchronize()
        torch.cuda._sleep(_HELD << attempt)
        held = torch.cuda.Event()
        held.record()
        marks = [[_launch(run, scratch) for run in runs] for _ in range(launches)]
        in_time = not held.query()
        torch.cuda.synchronize()
        if in_time:
            taken = [[begin.elapsed_time(end) for begin, end in each] for each in marks]
            return [1e3 * statistics.median(each) for each in zip(*taken, strict=True)]
    raise RuntimeError("the card could not be held back while it was asked for what is timed")


def _launch(run: Callable[[], object], scratch: torch.Tensor) -> tuple[torch.cuda.Event, torch.cuda.Event]:
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    scratch.zero_()
    begin.record()
    run()
    end.record()
    return begin, end
