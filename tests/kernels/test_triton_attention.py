"""The Triton kernel of a decode step's attention against its definition in float64.

Without a card it runs interpreted; on one, compiled.

The tolerance is a bound. With u the largest relative error of one rounding to the dtype (rounding.py, which
says what interpreted bf16 shows), weights and results are each rounded
once: 2 u. A score is a sum of head_dim products in fp32 and lies in an exponent, so that its error e is a
relative one of its weight, which numerator and denominator share: 2 e. A cap c adds 4 * 2**-24 c to e, for
its tanh is a difference from 1. Sums over n positions and the few operations between add at most
(n + 16) * 2**-24. All are relative to the mean of the values' sizes.
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

triton = pytest.importorskip("triton")

from sparta_lite.kernels import reference  # noqa: E402
from sparta_lite.kernels.triton_attention import SPAN, newest_attention  # noqa: E402

from .rounding import ROUNDING  # noqa: E402

pytestmark = pytest.mark.usefixtures("poisoned_memory")


class Problem:
    """One token per row, and a cache with NaN behind each row's end and in a place too many."""

    def __init__(
        self,
        counts: Sequence[int],
        device: torch.device,
        heads: int = 4,
        kv_heads: int = 2,
        width: int = 32,
        dtype: torch.dtype = torch.float32,
        capacity: int | None = None,
        size: float = 1.0,
        softcap: float | None = None,
        sinks: bool = False,
    ) -> None:
        generator = torch.Generator().manual_seed(len(counts) + width)
        self.counts, self.dtype, self.softcap = list(counts), dtype, softcap
        capacity = capacity or max(counts)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator).to(device, dtype)

        self.q = size * normal(len(counts), heads, width)
        self.sinks = 2 * normal(heads) if sinks else None
        self.keys, self.values = (normal(len(counts) + 1, kv_heads, capacity, width) for _ in range(2))
        for row, count in enumerate([*counts, 0]):
            self.keys[row, :, count:] = torch.nan
            self.values[row, :, count:] = torch.nan

    def run(self) -> Tensor:
        counts = torch.tensor(self.counts, dtype=torch.int32, device=self.q.device)
        return newest_attention(self.q, self.keys, self.values, counts, self.softcap, self.sinks)

    def check(self) -> None:
        found = self.run()
        assert (found.shape, found.dtype) == (self.q.shape, self.dtype)
        q, keys, values = (each.cpu().double() for each in (self.q, self.keys[:-1], self.values[:-1]))
        sinks = None if self.sinks is None else self.sinks.cpu().double()
        exact = reference.newest_attention(q, keys, values, self.counts, self.softcap, sinks)
        means = reference.newest_attention(q, keys, values.abs(), self.counts, self.softcap, sinks)
        width = q.shape[-1]
        strongest = (q.norm(dim=-1).max() * keys.nan_to_num().norm(dim=-1).max()).item() / width**0.5
        score = (width + 2) * 2.0**-24 * strongest + 4 * 2.0**-24 * (self.softcap or 0.0)
        bound = 2 * ROUNDING[self.dtype] + 2 * score + (max(self.counts) + 16) * 2.0**-24
        error = (found.cpu().double() - exact).abs()
        assert (error <= bound * means).all(), (error / means).max() / bound


def test_the_definition_is_torchs_own() -> None:
    q, keys, values = (torch.randn(3, heads, 7, 16, dtype=torch.float64) for heads in (6, 2, 2))
    expected = scaled_dot_product_attention(q[:, :, :1], keys, values, enable_gqa=True)[:, :, 0]
    torch.testing.assert_close(reference.newest_attention(q[:, :, 0], keys, values, [7] * 3), expected)


def test_a_sink_is_one_more_position_of_zeros_and_a_wide_cap_is_none() -> None:
    q, keys, values = (torch.randn(3, heads, 7, 16, dtype=torch.float64) for heads in (6, 2, 2))
    scores = q[:, :, :1] @ keys.repeat_interleave(3, 1).mT / 4  # [rows, heads, 1, 7]
    sinks = torch.randn(6, dtype=torch.float64)
    weights = torch.cat([scores, sinks.view(1, 6, 1, 1).expand(3, -1, -1, -1)], -1).softmax(-1)
    more = torch.cat([values.repeat_interleave(3, 1), torch.zeros(3, 6, 1, 16, dtype=torch.float64)], 2)
    found = reference.newest_attention(q[:, :, 0], keys, values, [7] * 3, 1e6, sinks)
    torch.testing.assert_close(found, (weights @ more)[:, :, 0])


@pytest.mark.parametrize(
    "counts",
    [[1], [1, 1, 1], [5, 1, 64, 65, 17], [SPAN, SPAN + 1, 1, 2 * SPAN + 3]],
    ids=["one position", "first tokens", "ragged", "several spans"],
)
def test_every_load(counts: list[int], device: torch.device) -> None:
    Problem(counts, device).check()


@pytest.mark.parametrize("shared", range(1, 9))
def test_query_heads_that_share_a_key_head(shared: int, device: torch.device) -> None:
    Problem([3, 40], device, heads=2 * shared, kv_heads=2).check()


@pytest.mark.parametrize("width", [32, 48, 64, 80, 128, 256])
@pytest.mark.parametrize("dtype", ROUNDING, ids=str)
def test_every_width_and_dtype(width: int, dtype: torch.dtype, device: torch.device) -> None:
    Problem([70, 9], device, width=width, dtype=dtype).check()


@pytest.mark.parametrize("dtype", ROUNDING, ids=str)
def test_spans_are_put_together_in_every_dtype(dtype: torch.dtype, device: torch.device) -> None:
    Problem([SPAN + 30, 20], device, dtype=dtype).check()


def test_scores_far_apart(device: torch.device) -> None:
    """Weights run from 1 down to less than any number; the greatest scores stand in different spans."""
    Problem([SPAN + 9, 30], device, size=60.0).check()


@pytest.mark.parametrize("dtype", ROUNDING, ids=str)
@pytest.mark.parametrize(("softcap", "sinks"), [(1.5, False), (None, True), (30.0, True)])
def test_scores_with_a_cap_or_a_sink(
    softcap: float | None, sinks: bool, dtype: torch.dtype, device: torch.device
) -> None:
    """In one span and in several; a sink counts once, and a row of one position has it, too."""
    Problem([SPAN + 30, 1, 20], device, heads=6, dtype=dtype, size=3.0, softcap=softcap, sinks=sinks).check()
    Problem([1, 9], device, heads=3, kv_heads=1, dtype=dtype, softcap=softcap, sinks=sinks).check()


def test_a_row_does_not_depend_on_its_neighbours_nor_on_the_capacity(device: torch.device) -> None:
    together = Problem([SPAN + 5, 9, 2 * SPAN], device)
    alone = Problem([1], device, capacity=SPAN + 5)
    alone.counts, alone.q = together.counts[:1], together.q[:1]
    alone.keys, alone.values = (
        each[:2, :, : SPAN + 5].contiguous() for each in (together.keys, together.values)
    )
    assert torch.equal(alone.run()[0], together.run()[0])
    short = Problem([9], device)
    short.q = together.q[1:2]
    short.keys, short.values = (each[1:3, :, :9].contiguous() for each in (together.keys, together.values))
    # In a single span it is divided at once instead of in the second kernel: the same arithmetic.
    assert torch.equal(short.run()[0], together.run()[1])
