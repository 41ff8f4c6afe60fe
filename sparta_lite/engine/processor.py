"""How fast this machine's processor computes, and how much of it is free.

Work is timed in CPU seconds of the thread that does it, so that what other programs take does not count. As
many threads as the run will have do it side by side: what they get of the cores says how many are idle.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median

import torch

_REPEAT = 0.003  # CPU seconds: what a clock of a microsecond measures well
_FEWEST = 8  # repeats; they also show what a thread gets of its core
_TURNS = 5  # repeats of each of two works that are compared
_LONGEST = 0.5  # seconds by the clock, after which repeats need not agree any more
_AGREE = 1.1  # the faster half of the repeats is that near to the fastest
_FREE = 0.85  # of a core; who gets less shares it
_MOST_THREADS = 16  # that are measured; more are taken to add as much each


@dataclass(frozen=True)
class Clocks:
    """Seconds that this thread has computed, and seconds that have passed."""

    cpu: Callable[[], float] = time.thread_time
    wall: Callable[[], float] = time.perf_counter


@dataclass(frozen=True)
class Timing:
    """One piece of work, done again and again in one thread."""

    repeats: tuple[float, ...]
    """CPU seconds that it took in each of them."""
    share: float
    """CPU seconds a second: what the thread got of a core."""

    @property
    def seconds(self) -> float:
        """Of the faster half, the median: disturbances only ever add."""
        return median(_faster_half(self.repeats))

    @property
    def apart(self) -> float:
        """How many times as long the slowest of the faster half took as the fastest."""
        half = _faster_half(self.repeats)
        return half[-1] / half[0]

    @property
    def agrees(self) -> bool:
        return self.apart <= _AGREE


@dataclass(frozen=True)
class Speed:
    """What a run may expect of the processor."""

    operations: float
    """fp32 or 16-bit operations a second of large matrix products, on as many threads as are planned with."""
    bandwidth: float
    """Bytes a second that are read and written."""
    apart: float
    """By how much repeats of one measurement differ, as a factor; 1: not at all."""
    waits: float
    """How many times as long as on an idle machine work takes while this one stays as it is."""
    busy: str | None
    """What people should hear of it, such as that threads outnumber idle cores; None: it is idle."""


def measure(dtype: torch.dtype, clocks: Clocks | None = None) -> Speed:
    """Time products and copies in torch's number of threads, for a tenth of a second where it is idle.

    Args:
        dtype: of the products.
        clocks: None: the machine's.
    """
    square = torch.ones(256, 256, dtype=dtype)
    stream = torch.ones(1 << 21)
    threads = torch.get_num_threads()
    counted = min(threads, _MOST_THREADS)
    with _one_thread(), ThreadPoolExecutor(counted) as pool:
        works = (lambda: square @ square, stream.clone)
        products, copies = (
            list(pool.map(lambda _, work=work: timed(work, clocks), range(counted))) for work in works
        )
    return speed(products, copies, 2 * 256**3, 2 * stream.nbytes, threads)


def speed(
    products: Sequence[Timing], copies: Sequence[Timing], operations: float, moved: float, threads: int
) -> Speed:
    """What the timings of threads that worked side by side come to.

    With fewer idle cores than threads it is that of as many threads as there are idle cores.

    Args:
        products: of a matrix product, one timing per thread.
        copies: of a copy.
        operations: in one product.
        moved: bytes in one copy.
        threads: of the run.
    """
    got = min(sum(each.share for each in timings) / len(timings) for timings in (products, copies))
    apart = max(median(each.apart for each in timings) for timings in (products, copies))
    working = threads if got >= _FREE else max(1, int(got * threads))
    note = None
    if working < threads:
        note = (
            f"{threads} threads get {got * threads:.1f} cores, planned for {working}; set threads={working}"
        )
    elif got < _FREE:
        note = f"a thread gets {got:.0%} of a core; runs take longer meanwhile"
    elif apart > _AGREE:
        note = f"one product took {apart:.1f} x as long as the same one before"
    share = working / len(products)
    return Speed(
        operations * share * sum(1 / each.seconds for each in products),
        moved * share * sum(1 / each.seconds for each in copies),
        apart,
        max(1.0, working / (got * threads)),
        None if note is None else f"the machine is busy: {note}",
    )


def timed(work: Callable[[], object], clocks: Clocks | None = None) -> Timing:
    """Do ``work`` until repeats agree, for half a second at most.

    They agree where the faster half of at least eight is within 10 % of the fastest.
    """
    clocks = clocks or Clocks()
    work()  # allocates, and finds its algorithm
    repeats: list[float] = []
    began, computed = clocks.wall(), clocks.cpu()

    def passed() -> Timing:
        gone = clocks.wall() - began
        return Timing(tuple(repeats), min(1.0, (clocks.cpu() - computed) / gone) if gone > 0 else 1.0)

    while len(repeats) < _FEWEST or not (passed().agrees or clocks.wall() - began > _LONGEST):
        repeats.append(_repeat(work, clocks.cpu))
    return passed()


def compared(works: Sequence[Callable[[], object]], clocks: Clocks | None = None) -> list[float]:
    """CPU seconds of each work in one thread: medians of repeats in turns: all are disturbed alike."""
    clocks = clocks or Clocks()
    taken: list[list[float]] = [[] for _ in works]
    with _one_thread():
        for work in works:
            work()
        for _ in range(_TURNS):
            for work, repeats in zip(works, taken, strict=True):
                repeats.append(_repeat(work, clocks.cpu))
    return [median(repeats) for repeats in taken]


def _repeat(work: Callable[[], object], clock: Callable[[], float]) -> float:
    calls, start = 0, clock()
    while True:
        work()
        calls += 1
        if (taken := clock() - start) >= _REPEAT:
            return taken / calls


def _faster_half(repeats: Sequence[float]) -> list[float]:
    return sorted(repeats)[: (len(repeats) + 1) // 2]


@contextmanager
def _one_thread() -> Iterator[None]:
    """Torch computes in the thread that calls it, and in those that begin meanwhile."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
