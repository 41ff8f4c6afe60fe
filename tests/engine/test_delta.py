"""Rows of several sequences under the delta rule: each is what it is alone, and padding is nothing."""

from __future__ import annotations

from itertools import accumulate

import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from sparta_lite.engine.delta import Carried, advance, fork, run
from sparta_lite.engine.mixing import AttentionSpec, DeltaSpec
from sparta_lite.engine.packing import Row, lay_out

SPEC = DeltaSpec(1, 2, 3, 4, torch.randn(14, 3, generator=torch.Generator().manual_seed(0)).double())
Lengths = list[list[int]]
"""Of each row the tokens of its beginning, then of each of its ends."""

lengths = st.lists(st.lists(st.integers(0, 5), min_size=2, max_size=4).filter(any), min_size=1, max_size=4)


def inputs(rows: int, length: int) -> list[Tensor]:
    """qkv, decay and beta, float64."""
    dice = torch.Generator().manual_seed(length)
    qkv = torch.randn(rows, length, SPEC.channels, generator=dice).double()
    decay, beta = (torch.rand(rows, length, SPEC.value_heads, generator=dice).double() for _ in range(2))
    return [qkv, -decay, beta]


def alone(row: list[int], own: list[Tensor]) -> Tensor:
    """Outputs of one row's tokens, each sequence of it run by itself; the beginning's are its first end's."""
    beginning, *ends = row
    starts = accumulate(ends[:-1], initial=beginning)
    outputs = []
    for number, (start, end) in enumerate(zip(starts, ends, strict=True)):
        places = [*range(beginning), *range(start, start + end)]
        output, _ = run(SPEC, *(each[None, places] for each in own))  # type: ignore[arg-type]
        outputs.append(output[0] if number == 0 else output[0, beginning:])
    return torch.cat(outputs)


@example(rows=[[3, 1, 2], [0, 2, 3]], copies=2)
@example(rows=[[70, 66, 3], [2, 130, 0], [5, 0, 0]], copies=1)
@given(lengths, st.integers(1, 3))
@settings(max_examples=25)
def test_a_fork_gives_every_sequence_what_it_has_alone(rows: Lengths, copies: int) -> None:
    taken = fork(rows)
    several = any(sum(map(bool, ends)) > 1 for _, *ends in rows)
    assert (taken is not None) == several
    if taken is None:
        return
    length = max(map(sum, rows))
    leaves = [each.requires_grad_() for each in inputs(copies * len(rows), length)]
    found = taken.repeat(copies).run(SPEC, *leaves)  # type: ignore[arg-type]
    places = [(copy * len(rows) + number, row) for copy in range(copies) for number, row in enumerate(rows)]
    ours, theirs = [], []
    for number, row in places:
        ours.append(found[number, : sum(row)])
        theirs.append(alone(row, [each[number] for each in leaves]))
    flat, expected = torch.cat(ours), torch.cat(theirs)
    torch.testing.assert_close(flat, expected, rtol=1e-10, atol=1e-10)
    weights = torch.arange(1, flat.numel() + 1).view_as(flat)
    gradients = (torch.autograd.grad((each * weights).sum(), leaves) for each in (flat, expected))
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-8)


def test_a_layout_says_how_its_rows_fork() -> None:
    rows = [Row((1, 2), ((3,), (4, 5))), Row((), ((4, 5),))]
    assert lay_out([Row((1, 2), ((3,), ())), rows[1]]).mixing([SPEC]).fork is None
    assert lay_out(rows).mixing([AttentionSpec(1, 2)]).fork is None
    taken = lay_out(rows).mixing([AttentionSpec(1, 2), SPEC]).fork
    assert taken is not None
    assert taken.lengths.tolist() == [2, 2]  # a row of one sequence is all beginning
    assert taken.sources.tolist() == [0, 0]
    assert taken.beginnings.tolist() == [[0, 1], [5, 6]]


def test_padding_behind_a_row_touches_nothing_that_is_carried_on() -> None:
    """Whatever stands there: a state is that of the row alone, and going on by a token too."""
    longest, real = 90, [90, 1, 2, 33, 64]
    qkv, decay, beta = inputs(len(real), longest)
    lengths = torch.tensor(real)
    carried = []
    for noise in (0.0, 1e3):
        padded = qkv.clone()
        for row, length in enumerate(real):
            padded[row, length:] = noise
        _, after = run(SPEC, padded, decay, beta, lengths)
        carried.append(after)
    more = inputs(len(real), 1)
    for row, length in enumerate(real):
        _, expected = run(SPEC, *(each[row : row + 1, :length] for each in (qkv, decay, beta)))  # type: ignore[arg-type]
        for after in carried:
            torch.testing.assert_close(after.recurrent[row], expected.recurrent[0], rtol=1e-9, atol=1e-12)
            assert torch.equal(after.convolution[row], expected.convolution[0])
        whole = [
            torch.cat([each[row : row + 1, :length], new[row : row + 1]], 1)
            for each, new in zip((qkv, decay, beta), more, strict=True)
        ]
        output, state = run(SPEC, *whole)  # type: ignore[arg-type]
        convolution, recurrent = carried[0].convolution[row : row + 1], carried[0].recurrent[row : row + 1]
        mine = Carried(convolution.clone(), recurrent.float())
        new = [each[row : row + 1] for each in more]
        torch.testing.assert_close(advance(SPEC, *new, mine), output[:, -1:], rtol=1e-4, atol=1e-5)  # type: ignore[arg-type]
        torch.testing.assert_close(mine.recurrent.double(), state.recurrent, rtol=1e-4, atol=1e-5)
        assert torch.equal(mine.convolution, state.convolution)
