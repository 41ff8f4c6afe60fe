"""Rows sorted by adapter and cut into tiles, against what sorting them by hand gives."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparta_lite.kernels.segments import sort_rows

CPU = torch.device("cpu")
COUNT = 4
SCALES = [0.5, 2.0, 0.25, 1.5]


@given(
    slots=st.lists(st.none() | st.integers(0, COUNT - 1), max_size=60),
    length=st.sampled_from([1, 3, 40]),
)
@settings(max_examples=80, deadline=None)
def test_every_token_stands_in_one_tile_of_its_own_adapter(slots: list[int | None], length: int) -> None:
    segments = sort_rows(slots, SCALES, CPU, length)
    keys = [COUNT if slot is None else slot for slot in slots for _ in range(length)]
    assert segments.order.tolist() == sorted(range(len(keys)), key=lambda row: keys[row])
    assert segments.bounds.tolist() == [sum(key < bound for key in keys) for bound in range(COUNT + 2)]

    served = []
    for segment, first in segments.tiles.tolist():
        last = segments.bounds[segment + 1].item()
        places = range(first, min(first + segments.block, int(last)))
        assert all(keys[segments.order[place]] == segment for place in places)
        served += places
    assert served == list(range(len(keys)))


@given(
    slots=st.lists(st.none() | st.integers(0, COUNT - 1), min_size=30, max_size=30),
    others=st.lists(st.none() | st.integers(0, COUNT - 1), min_size=30, max_size=30),
)
@settings(max_examples=30, deadline=None)
def test_another_batch_of_as_many_rows_fits_the_same_tensors(
    slots: list[int | None], others: list[int | None]
) -> None:
    ours, theirs = sort_rows(slots, SCALES, CPU, 5), sort_rows(others, SCALES, CPU, 5)
    assert ours.block == theirs.block
    for name in ("order", "bounds", "tiles", "scales"):
        assert getattr(ours, name).shape == getattr(theirs, name).shape
        assert getattr(ours, name).dtype == getattr(theirs, name).dtype


def test_rows_without_adapter_have_scale_zero() -> None:
    assert sort_rows([None, 2], SCALES, CPU).scales.tolist() == [*SCALES, 0.0]


def test_tiles_grow_with_the_rows_of_an_adapter() -> None:
    assert [sort_rows([0, 1] * half, [1.0, 1.0], CPU).block for half in (1, 16, 17, 40, 500)] == [
        16, 16, 32, 64, 64,
    ]  # fmt: skip


def test_a_batch_takes_over_anothers_tables_in_its_own_tensors() -> None:
    names = ("order", "bounds", "tiles", "scales")
    ours = sort_rows([0, 0, None, 3], SCALES, CPU, 5)
    theirs = sort_rows([2, 1, 3, 1], [2 * scale for scale in SCALES], CPU, 5)
    addresses = [getattr(ours, name).data_ptr() for name in names]
    ours.overwrite(theirs)
    for name, address in zip(names, addresses, strict=True):
        assert torch.equal(getattr(ours, name), getattr(theirs, name))
        assert getattr(ours, name).data_ptr() == address
        assert address % 16 == 0


@pytest.mark.parametrize(("slots", "scales"), [([0, 1, 2], SCALES), ([0, 1, 2, 2], SCALES[:3])])
def test_tables_of_another_size_are_not_taken_over(slots: list[int | None], scales: list[float]) -> None:
    ours = sort_rows([0, 0, None, 3], SCALES, CPU)
    with pytest.raises(ValueError, match=r"segments of \d rows"):
        ours.overwrite(sort_rows(slots, scales, CPU))
