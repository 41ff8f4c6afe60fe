"""Grouped low-rank updates against a loop over rows in float64."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sparta_lite.kernels.lora import add_lora, merged, route

CPU = torch.device("cpu")
SLOTS, RANK, INNER, LENGTH = 4, 3, 6, 5
EQUAL = [0.5] * SLOTS
UNEQUAL = [0.5, 2.0, 0.25, 1.5]
PATTERNS: dict[str, list[int | None]] = {
    "identical": [2] * 6,
    "distinct": [0, 1, 2, 3],
    "distinct, unsorted": [3, 1, 0, 2],
    "uniform": [0, 0, 1, 1, 2, 2, 3, 3],
    "uniform, shuffled": [1, 3, 0, 2, 2, 0, 3, 1],
    "the bank's middle": [1, 1, 2, 2],
    "with a slot in between unused": [1, 3],
    "skewed": [3, 0, 0, 0, 0, 0, 1],
    "one row": [3],
    "with bare rows": [None, 2, None, 0, 2],
    "mostly bare": [None, None, None, None, 1, None],
}


def problem(
    rows: int, widths: Sequence[int], dtype: torch.dtype, seed: int = 0
) -> tuple[list[Tensor], Tensor, Tensor, list[Tensor]]:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    outputs = [normal(rows, LENGTH, width) for width in widths]
    x = normal(rows, LENGTH, INNER)
    return outputs, x, normal(SLOTS, len(widths) * RANK, INNER), [normal(SLOTS, w, RANK) for w in widths]


def row_by_row(
    outputs: Sequence[Tensor],
    x: Tensor,
    a: Tensor,
    b: Sequence[Tensor],
    slots: Sequence[int | None],
    scales: Sequence[float],
) -> list[Tensor]:
    results = []
    for part, output in enumerate(outputs):
        result = output.double().clone()
        for row, slot in enumerate(slots):
            if slot is not None:
                shrink = a[slot, part * RANK : (part + 1) * RANK].double()
                result[row] += scales[slot] * (x[row].double() @ shrink.T) @ b[part][slot].double().T
        results.append(result)
    return results


@pytest.mark.parametrize("widths", [(7,), (8, 4, 4)], ids=["one projection", "three projections"])
@pytest.mark.parametrize("scales", [EQUAL, UNEQUAL], ids=["equal scales", "unequal scales"])
@pytest.mark.parametrize("slots", PATTERNS.values(), ids=PATTERNS.keys())
def test_it_equals_a_loop_over_rows(
    slots: list[int | None], scales: list[float], widths: tuple[int, ...]
) -> None:
    outputs, x, a, b = problem(len(slots), widths, torch.float64)
    routing = route(slots, scales, CPU)
    assert routing is not None
    expected = row_by_row(outputs, x, a, b, slots, scales)
    results = add_lora(outputs, x, a, b, routing)
    for result, each in zip(results, expected, strict=True):
        torch.testing.assert_close(result, each, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("slots", PATTERNS.values(), ids=PATTERNS.keys())
def test_a_gain_scales_every_module_on_its_own(slots: list[int | None]) -> None:
    outputs, x, a, b = problem(len(slots), (8, 4, 4), torch.float64)
    each_module = torch.randn(SLOTS, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    gain = each_module.repeat_interleave(RANK, dim=1)
    routing = route(slots, UNEQUAL, CPU)
    assert routing is not None
    scaled = [b_p * factor[:, None, None] for b_p, factor in zip(b, each_module.T, strict=True)]
    expected = row_by_row(outputs, x, a, scaled, slots, UNEQUAL)
    results = add_lora([each.clone() for each in outputs], x, a, b, routing, gain)
    for result, wanted in zip(results, expected, strict=True):
        torch.testing.assert_close(result, wanted, rtol=1e-12, atol=1e-12)

    def run(x: Tensor, a: Tensor, *b: Tensor) -> tuple[Tensor, ...]:
        return tuple(add_lora(outputs, x, a, b, routing, gain))

    assert torch.autograd.gradcheck(run, [each.requires_grad_() for each in (x, a, *b)])


def test_full_and_sorted_rows_are_served_without_moving_them() -> None:
    routing = route([1, 1, 2, 2], EQUAL, CPU)
    assert routing is not None
    assert (routing.grid.first, routing.grid.lines, routing.grid.cells) == (1, 2, 2)
    assert routing.grid.gather is None
    assert routing.grid.scatter is None


def test_a_batch_on_the_bare_base_needs_no_routing() -> None:
    assert route([None, None], EQUAL, CPU) is None
    assert route([], EQUAL, CPU) is None


@given(
    slots=st.lists(st.none() | st.integers(0, SLOTS - 1), min_size=1, max_size=12),
    scales=st.sampled_from([EQUAL, UNEQUAL]),
    seed=st.integers(0, 100),
)
@settings(max_examples=60, deadline=None)
def test_any_mix_equals_the_loop_and_leaves_bare_rows_untouched(
    slots: list[int | None], scales: list[float], seed: int
) -> None:
    routing = route(slots, scales, CPU)
    if routing is None:
        assert set(slots) == {None}
        return
    outputs, x, a, b = problem(len(slots), (8, 4), torch.float32, seed)
    before = [output.clone() for output in outputs]
    expected = row_by_row(outputs, x, a, b, slots, scales)
    results = add_lora(outputs, x, a, b, routing)
    for output, result, each in zip(before, results, expected, strict=True):
        torch.testing.assert_close(result.double(), each, rtol=1e-5, atol=1e-5)
        for row, slot in enumerate(slots):
            assert slot is not None or torch.equal(result[row], output[row])


def test_bare_rows_stay_exact_beside_huge_adapters() -> None:
    slots: list[int | None] = [None, 1, 3, None, None, 1]
    outputs, x, a, b = problem(len(slots), (8,), torch.float32)
    routing = route(slots, UNEQUAL, CPU)
    assert routing is not None
    before = outputs[0].clone()
    (result,) = add_lora(outputs, x, a * 1e30, [b[0] * 1e30], routing)
    for row in (0, 3, 4):
        assert torch.equal(result[row], before[row])


@pytest.mark.parametrize(
    ("slots", "scales"),
    [([1, 1, 2, 2], EQUAL), ([2, 0, 2], EQUAL), ([2, 1, 2, 0], UNEQUAL), ([None, 3, 1, 3], UNEQUAL)],
    ids=["view", "gather", "gather, unequal scales", "gather, bare rows"],
)
def test_gradients_are_the_numerical_ones(slots: list[int | None], scales: list[float]) -> None:
    outputs, x, a, b = problem(len(slots), (3, 2), torch.float64)
    routing = route(slots, scales, CPU)
    assert routing is not None

    def run(x: Tensor, a: Tensor, *b: Tensor) -> tuple[Tensor, ...]:
        return tuple(add_lora(outputs, x, a, b, routing))

    assert torch.autograd.gradcheck(run, [each.requires_grad_() for each in (x, a, *b)])


def test_adapters_that_serve_no_row_get_no_gradient() -> None:
    slots: list[int | None] = [3, None, 1]
    outputs, x, a, b = problem(len(slots), (4,), torch.float64)
    routing = route(slots, EQUAL, CPU)
    assert routing is not None
    (result,) = add_lora(outputs, x, a.requires_grad_(), b, routing)
    result.square().sum().backward()
    assert a.grad is not None
    assert a.grad[[1, 3]].abs().amin() > 0
    assert not a.grad[[0, 2]].any()


@pytest.mark.parametrize("adapters", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("slots", PATTERNS.values(), ids=PATTERNS.keys())
def test_a_base_in_bf16_keeps_its_dtype(slots: list[int | None], adapters: torch.dtype) -> None:
    outputs, x, a, b = problem(len(slots), (8, 4), torch.bfloat16)
    a, b = a.to(adapters), [each.to(adapters) for each in b]
    routing = route(slots, UNEQUAL, CPU)
    assert routing is not None
    expected = row_by_row(outputs, x, a, b, slots, UNEQUAL)
    results = add_lora(outputs, x, a, b, routing)
    for result, each in zip(results, expected, strict=True):
        assert result.dtype == torch.bfloat16
        torch.testing.assert_close(result.double(), each, rtol=3e-2, atol=1e-1)


@pytest.mark.parametrize("widths", [(7,), (8, 4, 4)], ids=["one projection", "three projections"])
@pytest.mark.parametrize("gained", [False, True], ids=["one scale", "a gain besides"])
def test_an_update_in_the_weight_is_the_update_of_its_outputs(widths: tuple[int, ...], gained: bool) -> None:
    _, x, a, b = problem(2, widths, torch.float64)
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(sum(widths), INNER, generator=generator, dtype=torch.float64)
    gain = torch.rand(SLOTS, len(widths) * RANK, generator=generator, dtype=torch.float64) if gained else None
    before = weight.clone()
    found = merged(weight, a, b, 2, UNEQUAL[2], gain)
    assert torch.equal(weight, before)
    a = a if gain is None else a * gain[..., None]
    expected = row_by_row((x @ weight.T).split(widths, dim=-1), x, a, b, [2, 2], UNEQUAL)
    torch.testing.assert_close(x @ found.T, torch.cat(expected, dim=-1), rtol=1e-12, atol=1e-12)


def test_only_one_slot_for_every_row_is_the_only_one() -> None:
    asked: list[list[int | None]] = [[2, 2], [0], [1, 2], [2, None]]
    assert [getattr(route(slots, EQUAL, CPU), "only", None) for slots in asked] == [2, 0, None, None]
