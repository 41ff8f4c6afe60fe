"""What happens when memory runs out: smaller batches, the same results, nothing left over."""

from __future__ import annotations

import gc
import random
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from sparta_lite.engine.bank import Bank
from sparta_lite.engine.base import Base
from sparta_lite.engine.cache import Cache
from sparta_lite.engine.chat import ScoreTokens
from sparta_lite.engine.decode import Prompt, generate
from sparta_lite.engine.likelihood import Continuation, likelihoods, log_probabilities
from sparta_lite.engine.memory import is_out_of_memory, shrink_to_fit
from sparta_lite.engine.model import Decoder, FusedDecoder
from sparta_lite.engine.score import expected_scores
from sparta_lite.errors import SpartaError
from sparta_lite.kernels.sampling import Sampling
from sparta_lite.training.dpo import train
from sparta_lite.training.packing import TokenizedPair
from sparta_lite.training.phase import DpoSettings, DpoStep

NAMES = ["ada", "ben", "cyd", None]
SAMPLING = Sampling(temperature=1.0, top_k=0, top_p=1.0)
TOKENS = ScoreTokens(prefix=(91, 5, 32), digits=(17, 18, 19, 20, 21, 22, 23, 24, 25), ten=(17, 16))

Shrunk = list[tuple[str, int, int]]


@pytest.fixture(scope="module", autouse=True)
def without_collector() -> Iterator[None]:
    """Memory must come free without it, and it is slow in a process that has much loaded."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gc, "collect", lambda: 0)
        yield


def prompts(count: int) -> list[Prompt]:
    rng = random.Random(5)
    return [
        Prompt(rng.choice(NAMES), tuple(rng.randrange(256) for _ in range(rng.randrange(1, 24))), key=index)
        for index in range(count)
    ]


def told(into: Shrunk) -> Callable[[str, int, int], None]:
    return lambda phase, before, after: into.append((phase, before, after))


def little_memory(monkeypatch: pytest.MonkeyPatch, tokens: int, calls: int = 0) -> list[weakref.ref[Tensor]]:
    """Let forward passes of more than ``tokens`` tokens fail halfway, from the ``calls``-th pass on.

    Returns:
        What failed passes had allocated; a reference is dead once nothing holds the memory.
    """
    hidden, made = FusedDecoder.hidden, []
    number = 0

    def limited(self: FusedDecoder, ids: Tensor, *rest: Any, **more: Any) -> Tensor:
        nonlocal number
        number += 1
        out = hidden(self, ids, *rest, **more)
        if ids.numel() > tokens and number > calls:
            made.append(weakref.ref(out))
            raise torch.OutOfMemoryError("CUDA out of memory")
        return out

    monkeypatch.setattr(FusedDecoder, "hidden", limited)
    return made


def test_the_errors_that_mean_it() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(10**15)
    assert is_out_of_memory(caught.value)
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"))
    assert is_out_of_memory(
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`")
    )
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not is_out_of_memory(ValueError("out of memory"))


@given(size=st.integers(1, 5000), least=st.integers(1, 50), fitting=st.integers(1, 5000))
def test_sizes_are_halved_until_one_fits(size: int, least: int, fitting: int) -> None:
    size, fitting = max(size, least), max(fitting, least)
    seen: Shrunk = []

    def attempt(size: int) -> int:
        if size > fitting:
            raise torch.OutOfMemoryError
        return -size

    result, found = shrink_to_fit(attempt, size, least=least, phase="x", advice="", on_shrink=told(seen))
    assert result == -found
    assert found <= fitting
    assert found in (size, least) or 2 * found >= fitting
    assert [before for _, before, _ in seen] + [found] == [size] + [after for _, _, after in seen]


def test_another_error_is_passed_on_and_none_is_tried_twice() -> None:
    sizes = []

    def attempt(size: int) -> None:
        sizes.append(size)
        raise RuntimeError("shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        shrink_to_fit(attempt, 8, phase="x", advice="", on_shrink=None)
    assert sizes == [8]


def test_a_failed_attempt_holds_no_memory_when_the_next_begins() -> None:
    alive: list[weakref.ref[Tensor]] = []

    def attempt(size: int) -> None:
        assert [each() for each in alive] == [None] * len(alive)
        held = torch.zeros(size)
        alive.append(weakref.ref(held))
        if size > 1:
            raise torch.OutOfMemoryError

    shrink_to_fit(attempt, 8, phase="x", advice="", on_shrink=None)
    assert len(alive) == 4


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(places=st.integers(2, 12), tokens=st.integers(24, 120), calls=st.integers(0, 12))
def test_generation_goes_on_in_fewer_places(
    base: Base, bank: Bank, places: int, tokens: int, calls: int
) -> None:
    asked = prompts(12)
    stopping = replace(base, stops=frozenset(range(0, 320, 9)))
    expected = generate(stopping, bank, asked, SAMPLING, 10, places)
    finished = 0

    def progress(items: int, _: int) -> None:
        nonlocal finished
        finished += items

    with pytest.MonkeyPatch.context() as patch:
        little_memory(patch, tokens, calls)
        assert generate(stopping, bank, asked, SAMPLING, 10, places, progress) == expected
    assert finished == 12


def test_finished_responses_are_not_made_again(
    base: Base, bank: Bank, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two of four rows are cut off after one token by the end of the context, then memory runs out."""
    room = base.context - 1
    asked = [Prompt("ada", tuple(range(200)) * 2 + tuple(range(room - 400)), key=each) for each in range(2)]
    asked += [Prompt("ben", (7, each), key=each) for each in range(2)]
    expected = generate(base, bank, asked, SAMPLING, 6, 4)
    hidden, seen = FusedDecoder.hidden, []

    def limited(self: FusedDecoder, ids: Tensor, *rest: Any, **more: Any) -> Tensor:
        seen.append(tuple(ids.shape))
        if len(seen) == 3:
            raise torch.OutOfMemoryError
        return hidden(self, ids, *rest, **more)

    monkeypatch.setattr(FusedDecoder, "hidden", limited)
    shrunk: Shrunk = []
    assert generate(base, bank, asked, SAMPLING, 6, 4, on_shrink=told(shrunk)) == expected
    assert shrunk == [("generation", 4, 2)]
    # Prefill of all, one step of the two that go on, the failure; then those two alone from their prompts.
    assert seen[3:] == [(2, 2)] + [(2, 1)] * 5


def test_a_cache_that_cannot_be_allocated(base: Base, bank: Bank, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = prompts(9)
    expected = generate(base, bank, asked, SAMPLING, 5, 8)
    made = Cache.__init__

    def limited(self: Cache, decoder: Decoder, places: int, capacity: int) -> None:
        if places > 3:
            torch.empty(10**15)
        made(self, decoder, places, capacity)

    monkeypatch.setattr(Cache, "__init__", limited)
    shrunk: Shrunk = []
    assert generate(base, bank, asked, SAMPLING, 5, 8, on_shrink=told(shrunk)) == expected
    assert shrunk == [("generation", 8, 4), ("generation", 4, 2)]


def test_scores_and_log_probabilities_are_the_same(
    base: Base, bank: Bank, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = prompts(30)
    rows = [Continuation(each.adapter, each.ids, (3, 1, 4)) for each in asked]
    scores = expected_scores(base, bank, asked, TOKENS, 0, 400)
    found = log_probabilities(base, bank, rows, 400)
    whole = likelihoods(base, bank, rows, 400)
    failed = little_memory(monkeypatch, 60)
    shrunk: Shrunk = []
    counted: list[tuple[int, int]] = []
    again = expected_scores(
        base, bank, asked, TOKENS, 0, 400, lambda *step: counted.append(step), on_shrink=told(shrunk)
    )
    # Smaller batches round otherwise; only large ones have the adapter added to the weights.
    assert [each.value for each in again] == pytest.approx([each.value for each in scores], rel=1e-5)
    assert sum(done for done, _ in counted) == 30
    # A size that was found too large is never tried again.
    assert {phase for phase, _, _ in shrunk} == {"scoring"}
    assert all(later <= after for (_, _, after), (_, later, _) in pairwise(shrunk))
    assert len(failed) == len(shrunk)
    assert all(reference() is None for reference in failed)
    for one, other in zip(found, log_probabilities(base, bank, rows, 400), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=3e-6)
    for before, after in zip(whole, likelihoods(base, bank, rows, 400), strict=True):
        assert (after.total, after.greedy) == (pytest.approx(before.total, abs=1e-5), before.greedy)


def test_one_row_that_does_not_fit_ends_it(base: Base, bank: Bank, monkeypatch: pytest.MonkeyPatch) -> None:
    little_memory(monkeypatch, 10)
    with pytest.raises(SpartaError, match=r"scoring: out of memory: one row of 13 tokens .*; lower"):
        log_probabilities(base, bank, [Continuation("ada", (1,) * 10, (2, 3, 4))] * 3, 100)
    with pytest.raises(SpartaError, match="generation: out of memory: not even one row fits; lower"):
        generate(base, bank, [Prompt("ada", (1,) * 11)] * 3, SAMPLING, 5, 3)
    pair = TokenizedPair((1, 2, 3), (4, 5, 6, 7), (8, 9, 10, 11))
    with pytest.raises(SpartaError, match=r"training: out of memory: not even one pair .*; lower"):
        learn(base, bank, [pair] * 4, [])


def learn(base: Base, bank: Bank, pairs: list[TokenizedPair], steps: list[DpoStep]) -> Shrunk:
    shrunk: Shrunk = []
    train(
        base.decoder,
        bank,
        pairs,
        DpoSettings(learning_rate=1e-3, batch=8, micro_batch=4, sft_weight=0.1),
        seed=1,
        iteration=0,
        pad=0,
        on_step=steps.append,
        on_shrink=told(shrunk),
    )
    return shrunk


@pytest.mark.parametrize("calls", [0, 5, 6])
def test_training_learns_the_same(
    base: Base, bank: Bank, monkeypatch: pytest.MonkeyPatch, calls: int
) -> None:
    """Memory runs out at once, halfway through the gradients of the first update, or in the second."""
    rng = random.Random(9)
    pairs = [
        TokenizedPair(*(tuple(rng.randrange(256) for _ in range(rng.randrange(2, 8))) for _ in range(3)))
        for _ in range(16)
    ]
    start = bank.snapshot()
    try:
        expected: list[DpoStep] = []
        assert learn(base, bank, pairs, expected) == []
        learned = bank.snapshot()
        bank.restore(start)
        steps: list[DpoStep] = []
        little_memory(monkeypatch, 150, calls)
        shrunk = learn(base, bank, pairs, steps)
        assert shrunk[0] == ("training", 4, 2)
        assert all(later <= after for (_, _, after), (_, later, _) in pairwise(shrunk))
        for before, after in zip(expected, steps, strict=True):
            assert (after.loss, after.gradient_norm) == pytest.approx(
                (before.loss, before.gradient_norm), rel=1e-4
            )
            assert after.chosen_logprob == pytest.approx(before.chosen_logprob, rel=1e-5)
        for name, tensor in bank.tensors():
            torch.testing.assert_close(tensor, learned[name], rtol=0, atol=2e-5)
    finally:
        bank.restore(start)


def test_an_optimizer_that_does_not_fit_ends_it(
    base: Base, bank: Bank, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(torch.optim.AdamW, "step", full)
    start = bank.snapshot()
    pairs = [TokenizedPair((1, 2), (3, 4), (5,))]
    with pytest.raises(SpartaError, match=r"training: out of memory: .*adamw-8bit"):
        train(base.decoder, bank, pairs, DpoSettings(), seed=1, iteration=0, pad=0, on_step=lambda _: None)
    assert all(torch.equal(tensor, start[name]) for name, tensor in bank.tensors())
