"""Rows of several sequences: what stands where, who sees whom, and who shares a row."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from sparta_lite.engine.base import Base
from sparta_lite.engine.packing import Row, lay_out, share
from sparta_lite.engine.shape import sharing_pays

tokens = st.lists(st.integers(1, 5), max_size=6).map(tuple)
some = st.lists(st.integers(1, 5), min_size=1, max_size=6).map(tuple)
rows = st.lists(
    st.builds(Row, tokens, st.lists(some, min_size=1, max_size=3).map(tuple)), min_size=1, max_size=4
)
sequences = st.lists(
    st.tuples(st.sampled_from(["ada", "ben", None]), some), min_size=1, max_size=9, unique=True
)


@given(rows)
def test_every_token_sees_its_own_sequence_up_to_itself(rows: list[Row]) -> None:
    layout = lay_out(rows, pad=9)
    length = layout.ids.shape[1]
    everything = torch.ones(len(rows), 1, length, length, dtype=torch.bool).tril()
    mask = everything if layout.mask is None else layout.mask
    assert mask.any(-1).all()
    for number, row in enumerate(rows):
        for tail, own in enumerate(row.tails):
            sequence = row.shared + own
            for index in range(len(sequence)):
                place = row.place(tail, index)
                seen = mask[number, 0, place].nonzero()[:, 0]
                assert tuple(layout.ids[number, seen].tolist()) == sequence[: index + 1]
                assert layout.positions[number, seen].tolist() == list(range(index + 1))


def test_rows_of_one_sequence_need_no_mask() -> None:
    assert lay_out([Row((), ((1, 2, 3),)), Row((), ((4,),))]).mask is None
    assert lay_out([Row((), ((1, 2, 3),)), Row((4,), ((5,), (6,)))]).mask is not None


@given(sequences, st.integers(1, 20))
def test_sharing_loses_no_sequence_and_mixes_no_adapters(
    base: Base, sequences: list[tuple[str | None, tuple[int, ...]]], most: int
) -> None:
    packed = share(base.decoder, sequences, most)
    assert sorted(index for members, _ in packed for index in members) == list(range(len(sequences)))
    for members, row in packed:
        assert len({sequences[index][0] for index in members}) == 1
        assert [row.shared + tail for tail in row.tails] == [sequences[index][1] for index in members]
        if len(members) > 1:
            assert all(row.tails)
            assert row.length <= most


def test_those_share_a_row_that_have_most_in_common(base: Base) -> None:
    question, other = tuple(range(100, 130)), tuple(range(200, 230))
    template = (7,) * 5
    asked = [
        ("ada", template + question + (1, 2)),
        ("ada", template + other + (1, 2, 3)),
        ("ben", template + question + (1, 2)),
        ("ada", template + question + (1, 3, 4)),
        ("ada", template + other),
    ]
    found = {tuple(sorted(members)): row for members, row in share(base.decoder, asked, 1000)}
    assert found.keys() == {(0, 3), (1, 4), (2,)}
    assert len(found[0, 3].shared) == 36
    assert found[1, 4].tails in {((230 - 1,), (229, 1, 2, 3)), ((229, 1, 2, 3), (229,))}


def test_sharing_pays_by_the_tokens_it_saves_against_the_attention_it_adds() -> None:
    # 10 tokens saved; a row of 30 attends to 900 pairs instead of twice the half of 400.
    assert sharing_pays(10, [20, 20], 0.0199)
    assert not sharing_pays(10, [20, 20], 0.0201)
    assert not sharing_pays(0, [20, 20], 0.0)
