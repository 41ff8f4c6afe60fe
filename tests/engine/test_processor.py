"""The processor's rates, with clocks that stand in for the machine's: nothing here is timed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain, repeat

import pytest
import torch

from sparta_lite.engine.pace import measured
from sparta_lite.engine.processor import Clocks, Speed, Timing, measure, speed, timed

IDLE = Timing((0.001,) * 8, 1.0)
HALF = Timing((0.001,) * 8, 0.5)


class Machine:
    """Every call takes so much CPU time, and so many times longer by the clock."""

    def __init__(self, costs: Iterator[float], slower: float) -> None:
        self.costs, self.slower = costs, slower
        self.computed = self.passed = 0.0
        self.calls = 0
        self.clocks = Clocks(lambda: self.computed, lambda: self.passed)

    def work(self) -> None:
        cost = next(self.costs)
        self.calls += 1
        self.computed += cost
        self.passed += cost * self.slower


@pytest.mark.parametrize("slower", [1.0, 3.0, 40.0])
def test_other_programs_change_what_a_thread_gets_and_no_rate(slower: float) -> None:
    machine = Machine(repeat(0.004), slower)
    found = timed(machine.work, machine.clocks)
    assert found.seconds == pytest.approx(0.004)
    assert found.agrees
    assert found.share == pytest.approx(1 / slower)
    assert machine.calls == 9  # one before, and eight that agree


def test_short_work_is_done_again_within_a_repeat() -> None:
    machine = Machine(repeat(0.0001), 1.0)
    found = timed(machine.work, machine.clocks)
    assert found.seconds == pytest.approx(0.0001)
    assert machine.calls >= 8 * 30


def test_disturbed_repeats_are_outvoted_by_those_that_agree() -> None:
    # The first five take twice as long; with eight the faster half holds one of them, with ten none.
    machine = Machine(chain(repeat(0.008, 6), repeat(0.004)), 1.0)
    found = timed(machine.work, machine.clocks)
    assert found.agrees
    assert found.seconds == pytest.approx(0.004)
    assert len(found.repeats) == 10


def test_repeats_that_never_agree_end_after_half_a_second_and_are_told_so() -> None:
    machine = Machine((0.004 * 1.3**number for number in range(60)), 1.0)
    found = timed(machine.work, machine.clocks)
    assert 0.5 <= machine.passed < 0.5 + 2 * 0.004 * 1.3 ** (machine.calls - 1)
    assert not found.agrees
    told = speed([found], [IDLE], 1.0, 1.0, 1)
    assert told.apart == pytest.approx(found.apart)
    assert "the machine is busy: one product took " in str(told.busy)


def of(timings: Sequence[Timing], threads: int) -> Speed:
    return speed(timings, timings, 6.0, 8.0, threads)


def test_threads_that_each_get_a_core_add_up() -> None:
    found = of([IDLE] * 4, 4)
    assert (found.operations, found.bandwidth) == (pytest.approx(24_000), pytest.approx(32_000))
    assert (found.busy, found.waits, found.apart) == (None, 1.0, 1.0)


def test_threads_beyond_those_that_are_measured_count_as_much() -> None:
    assert of([IDLE] * 4, 32).operations == pytest.approx(8 * 24_000)


def test_no_more_threads_are_planned_with_than_cores_are_idle() -> None:
    """Four threads on four cores that others fill get two: two of them would have to wait for the others."""
    found = of([HALF] * 4, 4)
    assert found.operations == pytest.approx(12_000)
    assert found.busy == "the machine is busy: 4 threads get 2.0 cores, planned for 2; set threads=2"
    assert found.waits == 1.0


def test_two_threads_on_two_busy_cores_are_planned_as_one_that_waits() -> None:
    found = of([Timing((0.001,) * 8, 0.3)] * 2, 2)
    assert found.operations == pytest.approx(6_000)
    assert found.waits == pytest.approx(1 / 0.6)
    assert "planned for 1; set threads=1" in str(found.busy)


def test_one_thread_on_a_busy_machine_says_what_it_gets() -> None:
    found = of([HALF], 1)
    assert found.operations == pytest.approx(6_000)
    assert found.waits == pytest.approx(2.0)
    assert found.busy == "the machine is busy: a thread gets 50% of a core; runs take longer meanwhile"


@pytest.mark.parametrize("slower", [1.5, 5.0, 40.0])
@pytest.mark.parametrize("beside", [1.0, 2.0])
def test_the_ranges_of_a_busy_and_an_idle_machine_overlap(slower: float, beside: float) -> None:
    """``beside``: how much more CPU time work takes where two threads share a core."""
    idle = measured(10**9, of([IDLE], 1))
    busy = measured(10**9, of([Timing((0.001 * beside,) * 8, 1 / slower)], 1))
    least, most = (each / idle.operations for each in idle.margin)
    low, high = (each / busy.operations for each in busy.margin)
    assert low <= most
    assert least <= high
    assert low <= 1 / idle.operations <= high  # what it takes once nothing else runs
    assert low <= slower * beside / idle.operations <= high  # ... and while all stays as it is
    assert busy.notes
    assert not idle.notes


def test_a_measurement_leaves_torchs_threads_as_they_were() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        found = measure(torch.float32)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert found.operations > 1e8
    assert found.bandwidth > 1e7
