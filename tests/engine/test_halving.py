"""Whether a CPU computes in bf16: decided by stand-in timings, and once by the machine's own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch

from sparta_lite.engine import halving
from sparta_lite.engine.device import choose_dtype
from sparta_lite.engine.processor import Clocks, compared

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def forgotten() -> None:
    halving.gains.cache_clear()


def take(monkeypatch: pytest.MonkeyPatch, *gains: float) -> list[list[tuple[Any, torch.dtype]]]:
    """Let bf16 be so many times as fast, kind by kind; returns shapes and dtypes of what is compared."""
    seen: list[list[tuple[Any, torch.dtype]]] = []

    def compared(works: Sequence[Callable[[], torch.Tensor]]) -> list[float]:
        made = [work() for work in works]
        seen.append([(tuple(each.shape), each.dtype) for each in made])
        return [gains[len(seen) - 1] * 0.001, 0.001]

    monkeypatch.setattr(halving, "compared", compared)
    return seen


def test_bf16_must_be_faster_in_every_kind_of_product(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = take(monkeypatch, 2.0, 3.0, 1.5)
    dtype, why = choose_dtype("auto", CPU, (576, 1536))
    assert dtype == torch.bfloat16
    assert why.endswith("2.0 x in decoding, 3.0 x in long passes, 1.5 x in training")
    # Gate and up of SmolLM2: a step's rows, a pass's tokens, and the way back.
    shapes = [(24, 3072), (256, 3072), (256, 576)]
    assert seen == [[(shape, torch.float32), (shape, torch.bfloat16)] for shape in shapes]


@pytest.mark.parametrize("gains", [(1.4,), (2.0, 1.4), (2.0, 2.0, 1.4), (0.05,)])
def test_one_kind_that_gains_too_little_ends_the_asking(
    monkeypatch: pytest.MonkeyPatch, gains: tuple[float, ...]
) -> None:
    seen = take(monkeypatch, *gains)
    dtype, why = choose_dtype("auto", CPU, (576, 1536))
    assert dtype == torch.float32
    assert f"{gains[-1]:.1f} x in " in why
    assert len(seen) == len(gains)


@pytest.mark.parametrize("widths", [(8192, 28672), (10**9, 10**9), (1, 10**12), (10**12, 1)])
def test_what_is_asked_of_a_large_base_stays_small(
    monkeypatch: pytest.MonkeyPatch, widths: tuple[int, int]
) -> None:
    seen = take(monkeypatch, 2.0, 2.0, 2.0)
    assert choose_dtype("auto", CPU, widths)[0] == torch.bfloat16
    (decoded, _), (passed, _), (back, _) = (pair[0] for pair in seen)
    outputs, inputs = decoded[1], back[1]
    assert outputs * inputs <= 1 << 22
    assert passed[0] * max(outputs, inputs) <= 1 << 22


def test_small_bases_and_those_of_unknown_widths_are_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = take(monkeypatch)
    for widths in ((256, 704), (64, 128), None):
        assert choose_dtype("auto", CPU, widths)[0] == torch.float32
    assert choose_dtype("bfloat16", CPU, (576, 1536)) == (torch.bfloat16, "as the settings say")
    assert not seen


def test_works_that_are_compared_take_turns() -> None:
    turns: list[str] = []
    now = 0.0

    def work(name: str, cost: float) -> Callable[[], None]:
        def done() -> None:
            nonlocal now
            turns.append(name)
            now += cost

        return done

    clocks = Clocks(lambda: now, lambda: now)
    found = compared([work("a", 0.02), work("b", 0.01)], clocks)
    assert found == pytest.approx([0.02, 0.01])
    assert turns == ["a", "b"] * 6  # once before, then five times


def test_this_machine_gives_an_answer() -> None:
    dtype, why = choose_dtype("auto", CPU, (512, 1024))
    assert dtype in (torch.float32, torch.bfloat16)
    assert "x in decoding" in why
