"""The Triton kernels of grouped LoRA against their definition in float64.

Without a card they run interpreted; on one, compiled.

Tolerances are bounds, not habits. With u the largest relative error of one rounding (rounding.py, which says
what interpreted bf16 shows), every result and every gradient passes at most four of them: both factors A and
B, the low-rank state, the result. Sums are taken in fp32; n terms add at most n * 2**-24. Both are relative
to the same computation with every number made positive.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

triton = pytest.importorskip("triton")

from sparta_lite.kernels import reference, triton_lora  # noqa: E402
from sparta_lite.kernels.segments import sort_rows  # noqa: E402
from sparta_lite.kernels.triton_lora import grouped_lora  # noqa: E402

from .rounding import ROUNDING  # noqa: E402

SCALES = [0.5, 2.0, 0.25, 1.5]
SLOTS = len(SCALES)
PATTERNS: dict[str, list[int | None]] = {
    "identical": [2] * 20,
    "distinct": [0, 1, 2, 3],
    "distinct, unsorted": [3, 1, 0, 2],
    "uniform": [0, 0, 1, 1, 2, 2, 3, 3],
    "uniform, shuffled": [1, 3, 0, 2, 2, 0, 3, 1],
    "skewed": [3, *[0] * 37, 1],
    "empty segments": [1, 3, 3],
    "rows without adapter": [None, 2, None, 0, 2, *[None] * 17],
    "no adapter at all": [None] * 3,
}
DTYPES = [
    (torch.float32, torch.float32),
    (torch.bfloat16, torch.float32),
    (torch.bfloat16, torch.bfloat16),
    (torch.float16, torch.float32),
    (torch.float32, torch.bfloat16),
]

pytestmark = pytest.mark.usefixtures("poisoned_memory")


class Problem:
    """Inputs of one layer, and what its results and gradients must be."""

    def __init__(
        self,
        slots: Sequence[int | None],
        device: torch.device,
        width: int = 37,
        widths: Sequence[int] = (19,),
        rank: int = 8,
        dtype: torch.dtype = torch.float32,
        adapters: torch.dtype = torch.float32,
        gained: bool = False,
    ) -> None:
        generator = torch.Generator().manual_seed(len(slots) + rank)

        def normal(kind: torch.dtype, *shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator).to(device, kind)

        self.segments = sort_rows(slots, SCALES, device)
        self.outputs = [normal(dtype, len(slots), each) for each in widths]
        self.slopes = [normal(dtype, len(slots), each) for each in widths]  # of a loss, in the results
        self.x = normal(dtype, len(slots), width)
        self.a = normal(adapters, SLOTS, len(widths) * rank, width)
        self.b = [normal(adapters, SLOTS, each, rank) for each in widths]
        gain = torch.randn(SLOTS, len(widths), generator=generator).repeat_interleave(rank, dim=1)
        self.gain = gain.to(device) if gained else None
        terms = max(width, sum(widths), len(slots)) + len(widths) * rank
        self.tolerance = 4 * max(ROUNDING[dtype], ROUNDING[adapters]) + terms * 2.0**-24

    def forward(self) -> list[Tensor]:
        outputs = [each.clone() for each in self.outputs]
        return grouped_lora(outputs, self.x, self.a, self.b, self.segments, self.gain)

    def gradients(self, run: Any = None, change: Any = lambda each: each) -> list[Tensor]:
        """The results, then the gradients of x, A, each B and each output."""
        leaves = [change(each.detach().clone()) for each in (self.x, self.a, *self.b, *self.outputs)]
        x, a, *others = (leaf.requires_grad_() for leaf in leaves)
        b, outputs = others[: len(self.b)], others[len(self.b) :]
        run = run or (lambda outputs, x, a, b: grouped_lora(outputs, x, a, b, self.segments, self.gain))
        results = run(outputs, x, a, b)
        torch.autograd.backward(results, [change(slope) for slope in self.slopes])
        found = [*results, *(leaf.grad for leaf in leaves)]
        return [each.detach() for each in found if each is not None]

    def exact(self, sizes: bool = False) -> list[Tensor]:
        """What ``gradients`` must give; ``sizes``: the same with every number made positive."""
        order = self.segments.order.long().cpu()

        def run(outputs: list[Tensor], x: Tensor, a: Tensor, b: list[Tensor]) -> list[Tensor]:
            ordered = [each[order] for each in outputs]
            bounds = self.segments.bounds.tolist()[:-1]
            if self.gain is not None:  # to scale the low-rank states is to scale A
                gain = self.gain.cpu().double()[..., None]
                a = a * (gain.abs() if sizes else gain)
            results = reference.grouped_lora(ordered, x[order], a, b, SCALES, bounds)
            return [result[order.argsort()] for result in results]

        return self.gradients(run, lambda each: each.cpu().double().abs() if sizes else each.cpu().double())

    def check(self, found: Sequence[Tensor]) -> None:
        exact, sizes = self.exact(), self.exact(sizes=True)
        for each, expected, size in zip(found, exact, sizes, strict=False):
            assert each.shape == expected.shape
            error = (each.cpu().double() - expected).abs()
            assert (error <= self.tolerance * size).all(), (error / size.clamp(min=1e-30)).max()


@pytest.mark.parametrize("slots", PATTERNS.values(), ids=PATTERNS.keys())
def test_results_and_gradients_under_every_load(slots: list[int | None], device: torch.device) -> None:
    problem = Problem(slots, device)
    problem.check(problem.forward())
    problem.check(problem.gradients())


@pytest.mark.parametrize(("dtype", "adapters"), DTYPES, ids=str)
def test_every_dtype(dtype: torch.dtype, adapters: torch.dtype, device: torch.device) -> None:
    problem = Problem([1, 3, None, 0, 1, 1], device, dtype=dtype, adapters=adapters)
    results = problem.forward()
    found = problem.gradients()
    assert {each.dtype for each in (*results, found[0], found[1])} == {dtype}
    assert found[2].dtype == found[3].dtype == adapters
    problem.check(results)
    problem.check(found)


@pytest.mark.parametrize("rank", [1, 4, 8, 16, 32, 64, 128])
def test_every_rank(rank: int, device: torch.device) -> None:
    problem = Problem([1, 3, 1], device, rank=rank)
    problem.check(problem.forward())
    problem.check(problem.gradients())


@pytest.mark.parametrize(
    ("width", "widths"), [(1, (33, 150)), (64, (48, 16, 16)), (129, (1,)), (70, (130, 7, 64))], ids=str
)
def test_odd_sizes_and_several_projections(width: int, widths: tuple[int, ...], device: torch.device) -> None:
    problem = Problem([0, None, 3, 3], device, width=width, widths=widths, rank=6)
    problem.check(problem.forward())
    problem.check(problem.gradients())


@pytest.mark.parametrize(("dtype", "adapters"), DTYPES[:3], ids=str)
def test_modules_that_scale_differently(
    dtype: torch.dtype, adapters: torch.dtype, device: torch.device
) -> None:
    slots: list[int | None] = [1, 3, None, 0, 1, 1]
    problem = Problem(slots, device, widths=(19, 6, 6), dtype=dtype, adapters=adapters, gained=True)
    problem.check(problem.forward())
    problem.check(problem.gradients())
    problem = Problem([2, None, 0, 2], device, width=1100, widths=(9, 5), dtype=dtype, gained=True)
    problem.check(problem.forward())  # in several parts


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_wide_input_is_shrunk_in_several_parts(dtype: torch.dtype, device: torch.device) -> None:
    problem = Problem([2, None, 0, 2], device, width=1100, widths=(9, 5), dtype=dtype)
    assert triton_lora._few_parts(1100, problem.segments) == 2
    problem.check(problem.forward())


@pytest.mark.parametrize(
    ("width", "tiles", "parts"), [(500, 5, 1), (3584, 19, 4), (18944, 19, 8), (4096, 523, 1)]
)
def test_parts_are_powers_of_two_and_few_where_tiles_are_many(width: int, tiles: int, parts: int) -> None:
    count = tiles - 1
    segments = sort_rows([0], [1.0] * count, torch.device("cpu"))
    assert len(segments.tiles) == tiles
    assert triton_lora._few_parts(width, segments) == parts


def test_nothing_beyond_the_operands_is_read_or_written(device: torch.device) -> None:
    """Operands lie as views amid NaN; adapters that serve no row and inputs without adapter are NaN."""
    problem = Problem([None, 1, 3, 1, None], device, widths=(19, 6))
    expected = problem.exact()
    bare = [0, 4]
    problem.x[bare] = float("nan")
    problem.a[[0, 2]] = float("nan")
    frames = []

    def framed(inner: Tensor) -> Tensor:
        frame = torch.full((len(inner) + 2, inner.shape[1] + 3), float("nan"), device=device)
        frames.append(frame)
        view = frame[1:-1, 1:-2]
        view.copy_(inner)
        return view

    outputs = [framed(each) for each in problem.outputs]
    results = grouped_lora(outputs, framed(problem.x), problem.a, problem.b, problem.segments)
    for result, output, each, frame in zip(results, outputs, expected, frames, strict=False):
        assert result.data_ptr() == output.data_ptr()
        torch.testing.assert_close(result.cpu().double(), each, rtol=1e-5, atol=1e-5)
        assert frame.isnan().sum() == frame.numel() - result.numel()

    found = problem.gradients()
    for number, (each, exact) in enumerate(zip(found, expected, strict=True)):
        served = [row for row in range(len(exact)) if number != 3 or row in (1, 3)]
        torch.testing.assert_close(each[served].cpu().double(), exact[served], rtol=1e-5, atol=1e-5)


def test_adapters_that_serve_no_row_get_a_gradient_of_zero(device: torch.device) -> None:
    found = Problem([3, None, 1], device).gradients()
    for gradient in found[2:4]:
        assert not gradient[[0, 2]].any()
        assert gradient[[1, 3]].any()


@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")
def test_rows_without_adapter_stay_exact_beside_huge_ones(device: torch.device) -> None:
    problem = Problem([None, 1, 3, None], device)
    problem.a *= 1e30
    problem.b[0] *= 1e30
    (result,) = problem.forward()
    assert torch.equal(result[[0, 3]], problem.outputs[0][[0, 3]])


def test_equal_inputs_give_equal_bits(device: torch.device) -> None:
    slots = [3, *[0] * 18, 1]  # two tiles
    wide = Problem(slots, device, width=1040)  # two parts
    for run in (wide.forward, Problem(slots, device, width=70).gradients):
        first = run()
        for _ in range(2 if device.type == "cpu" else 50):
            assert all(map(torch.equal, run(), first))


def test_a_row_does_not_depend_on_its_neighbours(device: torch.device) -> None:
    slots: list[int | None] = [1, 3, None, 1, 0, 1]
    problem = Problem(slots, device)
    (together,) = problem.forward()
    problem.segments = sort_rows(
        [slot if row in (0, 3) else 2 for row, slot in enumerate(slots)], SCALES, device
    )
    (apart,) = problem.forward()
    assert torch.equal(together[[0, 3]], apart[[0, 3]])


@pytest.mark.parametrize("wanted", ["x", "a", "b", "outputs"])
def test_one_gradient_alone(wanted: str, device: torch.device) -> None:
    problem = Problem([1, 3, 1], device, widths=(19, 6))
    x, a, *others = problem.gradients()[2:]
    leaf = {"x": problem.x, "a": problem.a, "b": problem.b[1], "outputs": problem.outputs[0]}[wanted]
    leaf.requires_grad_()
    results = grouped_lora(problem.outputs, problem.x, problem.a, problem.b, problem.segments)
    loss = sum((result * slope).sum() for result, slope in zip(results, problem.slopes, strict=True))
    (gradient,) = torch.autograd.grad(loss, leaf)
    assert torch.equal(gradient, {"x": x, "a": a, "b": others[1], "outputs": others[2]}[wanted])


def test_no_rows(device: torch.device) -> None:
    found = Problem([], device).gradients()
    assert found[0].shape == (0, 19)
    assert not found[2].any()


def test_segments_of_another_batch_are_refused(device: torch.device) -> None:
    problem = Problem([1, 3, 1], device)
    problem.segments = sort_rows([1, 3], SCALES, device)
    with pytest.raises(ValueError, match="2 rows and 4 slots for 3 rows"):
        problem.forward()
