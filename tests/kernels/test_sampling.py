"""Draws against an independent generator and against transformers' own logits warpers."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from sparta_lite.kernels.sampling import Sampling, choose, distribution, uniforms

VOCABULARY, DRAWS = 12, 20_000
WORD = (1 << 64) - 1


def splitmix64(key: int, counter: int) -> float:
    """Steele, Lea and Flood 2014, in unbounded integers."""
    z = (key + (counter + 1) * 0x9E3779B97F4A7C15) & WORD
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & WORD
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & WORD
    return ((z ^ (z >> 31)) >> 11) / 2**53


def test_the_published_first_outputs_of_splitmix64_for_seed_zero() -> None:
    published = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    found = uniforms(torch.zeros(3, dtype=torch.int64), torch.arange(3))
    assert found.tolist() == [(each >> 11) / 2**53 for each in published]


@given(st.lists(st.tuples(st.integers(-(1 << 63), (1 << 63) - 1), st.integers(0, 1 << 40)), min_size=1))
def test_uniforms_equal_splitmix64_in_python_integers(pairs: list[tuple[int, int]]) -> None:
    keys, counters = (torch.tensor(column, dtype=torch.int64) for column in zip(*pairs, strict=True))
    found = uniforms(keys, counters)
    assert found.dtype == torch.float64
    assert found.tolist() == [splitmix64(key, counter) for key, counter in pairs]
    assert ((found >= 0) & (found < 1)).all()


def some_logits(rows: int = 1) -> Tensor:
    return torch.randn(rows, VOCABULARY, generator=torch.Generator().manual_seed(5))


def allowed(logits: Tensor, sampling: Sampling) -> Tensor:
    """The distribution that transformers would sample from, float64 [vocabulary]."""
    ids = torch.zeros(1, 1, dtype=torch.int64)
    logits = TemperatureLogitsWarper(sampling.temperature)(ids, logits.double())
    if sampling.top_k:
        logits = TopKLogitsWarper(sampling.top_k)(ids, logits)
    if sampling.top_p < 1:
        logits = TopPLogitsWarper(sampling.top_p)(ids, logits)
    return logits.softmax(-1)[0]


SETTINGS = [
    Sampling(1.0, 0, 1.0),
    Sampling(0.7, 50, 0.95),
    Sampling(1.5, 5, 1.0),
    Sampling(1.0, 0, 0.8),
    Sampling(2.0, 8, 0.7),
    Sampling(0.5, VOCABULARY, 0.99),
]


@pytest.mark.parametrize("sampling", SETTINGS, ids=str)
def test_the_distribution_is_that_of_transformers(sampling: Sampling) -> None:
    logits = some_logits(20)
    expected = torch.stack([allowed(row[None], sampling) for row in logits])
    torch.testing.assert_close(distribution(logits, sampling), expected, atol=1e-6, rtol=1e-5)
    greedy = distribution(logits, Sampling(0))
    assert torch.equal(greedy, torch.nn.functional.one_hot(logits.argmax(-1), VOCABULARY).double())


@pytest.mark.parametrize("along", ["keys", "counters"])
@pytest.mark.parametrize("sampling", SETTINGS, ids=str)
def test_draws_follow_the_filtered_distribution(sampling: Sampling, along: str) -> None:
    expected = allowed(some_logits(), sampling)
    moving, still = torch.arange(DRAWS), torch.full((DRAWS,), 11)
    keys, counters = (moving, still) if along == "keys" else (still, moving)
    drawn = choose(some_logits().expand(DRAWS, -1), sampling, keys, counters)
    counts = torch.bincount(drawn, minlength=VOCABULARY).double()

    possible = expected > 0
    assert not counts[~possible].any()
    mean = expected[possible] * DRAWS
    deviation = ((counts[possible] - mean) ** 2 / mean).sum().item()
    freedom = int(possible.sum()) - 1
    # The 0.9999 quantile of chi-square (Wilson and Hilferty 1931).
    bound = freedom * (1 - 2 / (9 * freedom) + 3.719 * (2 / (9 * freedom)) ** 0.5) ** 3
    assert freedom > 1
    assert deviation < bound


@pytest.mark.parametrize(
    "sampling", [Sampling(0), Sampling(0, 1, 0.1), Sampling(1.0, 1, 1.0), Sampling(1.0, 0, 1e-6)], ids=str
)
def test_temperature_zero_and_the_narrowest_cuts_are_greedy(sampling: Sampling) -> None:
    logits = some_logits(50)
    assert torch.equal(choose(logits, sampling, torch.arange(50), torch.arange(50)), logits.argmax(-1))


@pytest.mark.parametrize("sampling", [Sampling(1.0, 0, 1.0), Sampling(0.7, 6, 0.9)], ids=str)
@given(order=st.permutations(range(8)), size=st.integers(1, 8))
def test_a_draw_depends_on_nothing_but_its_own_row(sampling: Sampling, order: list[int], size: int) -> None:
    logits, keys, counters = some_logits(8), torch.arange(8) * 977 - 3, torch.arange(8) % 3
    everything = choose(logits, sampling, keys, counters)
    some = torch.tensor(order[:size])
    assert torch.equal(choose(logits[some], sampling, keys[some], counters[some]), everything[some])


@pytest.mark.parametrize("sampling", [Sampling(1.0, 0, 1.0), Sampling(1.0, 0, 0.999), Sampling(1.0, 4, 1.0)])
def test_impossible_tokens_are_never_drawn(sampling: Sampling) -> None:
    logits = torch.full((1, VOCABULARY), -torch.inf)
    logits[0, [3, 7]] = 0.0
    keys, counters = torch.arange(2000), torch.zeros(2000, dtype=torch.int64)
    drawn = choose(logits.expand(2000, -1), sampling, keys, counters)
    assert set(drawn.tolist()) == {3, 7}


def test_logits_in_bf16_are_drawn_from_in_full_precision() -> None:
    logits = some_logits(30).bfloat16()
    keys, counters = torch.arange(30), torch.zeros(30, dtype=torch.int64)
    assert torch.equal(
        choose(logits, Sampling(), keys, counters), choose(logits.float(), Sampling(), keys, counters)
    )


@pytest.mark.parametrize("sampling", [Sampling(0), Sampling(1.0, 3, 0.9), Sampling(1.5, 0, 1.0)], ids=str)
def test_rows_that_pad_the_vocabulary_are_never_drawn(sampling: Sampling) -> None:
    """As if the logits had none: the draw from all others stays the one that it was."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(200, VOCABULARY, generator=generator)
    logits[:, 9:] += 3  # the likeliest, had they a text
    keys, counters = torch.arange(200), torch.arange(200)
    assert (choose(logits, sampling, keys, counters) >= 9).any()
    found = choose(logits, replace(sampling, vocabulary=9), keys, counters)
    assert torch.equal(found, choose(logits[:, :9].contiguous(), sampling, keys, counters))
