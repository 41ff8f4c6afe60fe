"""The window alone, over a master of six adapters with two numbers each."""

from __future__ import annotations

import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from sparta_lite.engine.residency import Window
from sparta_lite.engine.sites import SiteLora

COUNT = 6


def tiny_window(size: int) -> tuple[Window, Tensor, list[int]]:
    a = torch.arange(COUNT * 2.0).view(COUNT, 1, 2)
    window = Window([{"o": SiteLora(a, ())}], size, torch.device("cpu"))
    copied: list[int] = []
    copy = window._copy

    def watched(slot: int, index: int) -> None:
        copied.append(slot)
        copy(slot, index)

    window._copy = watched  # type: ignore[method-assign]
    return window, a, copied


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("bring"), st.sets(st.integers(0, COUNT - 1), min_size=1, max_size=3)),
        st.tuples(st.just("prefetch"), st.sets(st.integers(0, COUNT - 1), max_size=4)),
        st.tuples(st.just("write"), st.sets(st.integers(0, COUNT - 1), min_size=1, max_size=1)),
        st.tuples(st.just("close"), st.just(set())),
    ),
    max_size=25,
)


@given(size=st.integers(3, 5), steps=STEPS)
def test_a_batch_always_finds_the_masters_numbers(size: int, steps: list[tuple[str, set[int]]]) -> None:
    window, master, _ = tiny_window(size)
    for kind, slots in steps:
        if kind == "bring":
            places = window.bring(slots, ())
            assert len(set(places.values())) == len(slots)
            stands = window.layers[0]["o"].a
            assert all(torch.equal(stands[places[slot]], master[slot]) for slot in slots)
        elif kind == "prefetch":
            window.prefetch(sorted(slots))
        elif kind == "write":
            master[slots.pop()].add_(1)
        else:
            window.close()


@given(size=st.integers(1, 5), asked=st.lists(st.integers(0, COUNT - 1), max_size=40))
def test_the_least_recently_used_adapter_gives_way(size: int, asked: list[int]) -> None:
    window, _, copied = tiny_window(size)
    held: list[int] = []
    expected = []
    for slot in asked:
        window.bring([slot], ())
        if slot in held:
            held.remove(slot)
        else:
            expected.append(slot)
            del held[: max(0, len(held) - size + 1)]
        held.append(slot)
    assert copied == expected


def test_prefetching_never_touches_the_batch_at_hand() -> None:
    window, master, copied = tiny_window(3)
    window.prefetch([4])
    assert copied == []  # nothing stands on the device yet
    places = window.bring([0, 1], ())
    window.prefetch([2, 3, 4])
    assert copied == [0, 1, 2]
    assert all(torch.equal(window.layers[0]["o"].a[places[slot]], master[slot]) for slot in (0, 1))
    window.bring([2, 0], ())
    assert copied == [0, 1, 2]
    window.prefetch([5, 0])
    window.bring([5], [0, 2])
    assert copied == [0, 1, 2, 5]
    # The batch at hand may still be reading what the master no longer holds.
    master[5].add_(1)
    window.prefetch([5])
    assert copied == [0, 1, 2, 5]
    window.bring([5], ())
    assert copied == [0, 1, 2, 5, 5]


def test_a_copy_that_failed_is_made_again() -> None:
    window, master, copied = tiny_window(2)
    window.bring([0, 1], ())
    watched = window._copy

    def fails(slot: int, index: int) -> None:
        raise torch.OutOfMemoryError

    window._copy = fails  # type: ignore[method-assign]
    with pytest.raises(torch.OutOfMemoryError):
        window.bring([2], ())
    window._copy = watched  # type: ignore[method-assign]
    place = window.bring([0], ())[0]
    assert torch.equal(window.layers[0]["o"].a[place], master[0])
    assert copied == [0, 1, 0]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device; torch sees none")
def test_on_a_card_copies_wait_for_the_work_that_still_reads_and_work_waits_for_copies() -> None:
    """A busy card is far behind the program: whoever does not wait reads another adapter's numbers."""
    device = torch.device("cuda")
    count, width = 8, 1 << 20
    master = torch.empty(count, 1, width, pin_memory=True)
    for slot in range(count):
        master[slot] = slot
    window = Window([{"o": SiteLora(master, ())}], 3, device)
    rng, found, expected = random.Random(1), [], []
    for _ in range(60):
        slots = rng.sample(range(count), 2)
        places = window.bring(slots, ())
        torch.cuda._sleep(2_000_000)
        found += [window.layers[0]["o"].a[places[slot]].aminmax() for slot in slots]
        expected += slots
        window.prefetch(rng.sample(range(count), 2))
    values = [(low.item(), high.item()) for low, high in found]
    assert values == [(slot, slot) for slot in expected]
