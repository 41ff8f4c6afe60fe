"""The card's time and not the host's, on a simulated card that works off what it is told, in order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from sparta_lite.engine.timing import time_on_card

ASKING = 100.0  # microseconds that the host takes for a launch
CYCLE = 1e-3  # microseconds


class Card:
    """Times are those at which the host asks and at which the card is done, in microseconds."""

    def __init__(self) -> None:
        self.host = self.done = 0.0
        self.launched = 0

    def launch(self, takes: float, asking: float = ASKING) -> float:
        """What the card takes begins once it is asked for and all before it is done; when it is done."""
        self.host += asking
        self.done = max(self.done, self.host) + takes
        self.launched += 1
        return self.done

    def synchronize(self) -> None:
        self.host = max(self.host, self.done)


class Event:
    card: Card

    def __init__(self, enable_timing: bool = False) -> None:
        self.at = 0.0

    def record(self) -> None:
        self.at = self.card.launch(0.0, asking=1.0)

    def query(self) -> bool:
        return self.card.host >= self.at

    def elapsed_time(self, other: Event) -> float:
        return (other.at - self.at) / 1e3


class Scratch:
    def zero_(self) -> None:
        Event.card.launch(90.0)


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Card:
    Event.card = found = Card()
    monkeypatch.setattr(torch, "empty", lambda *_, **__: Scratch())
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", found.synchronize)
    monkeypatch.setattr(torch.cuda, "_sleep", lambda cycles: found.launch(cycles * CYCLE))
    return found


def kernel(card: Card, takes: float, asking: float = ASKING) -> Callable[[], Any]:
    return lambda: card.launch(takes, asking)


def test_the_time_of_the_host_is_not_counted(card: Card) -> None:
    """Asked for as it comes, a kernel of 12 us would take what asking for it takes."""
    found = time_on_card([kernel(card, 12.0), kernel(card, 30.0, asking=400.0)])
    assert found == pytest.approx([12.0, 30.0])


def test_a_card_that_was_not_held_for_long_enough_is_held_for_longer(card: Card) -> None:
    slow = 20 * ASKING * 10
    found = time_on_card([kernel(card, 12.0, slow), kernel(card, 30.0, slow)])
    assert found == pytest.approx([12.0, 30.0])
    assert card.launched > 3 * 2 * 7 * 4  # more than once


def test_what_waits_for_the_card_cannot_be_timed(card: Card) -> None:
    def waits() -> None:
        card.launch(12.0)
        card.synchronize()

    with pytest.raises(RuntimeError, match="could not be held back"):
        time_on_card([waits])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device; torch sees none")
def test_on_a_card_a_wait_takes_as_long_as_it_is() -> None:
    def wait(cycles: int) -> Callable[[], None]:
        return lambda: torch.cuda._sleep(cycles)  # type: ignore[no-untyped-call]

    wait(1)()
    short, long = time_on_card([wait(100_000), wait(400_000)])
    assert long / short == pytest.approx(4, rel=0.1)
