"""Who serves a layer in 4 bits: the choice with times made up, and the engine with our product forced."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from bitsandbytes.nn import Linear4bit
from torch import Tensor

triton = pytest.importorskip("triton")

from sparta_lite.engine import nf4  # noqa: E402
from sparta_lite.engine.base import Base, load_base  # noqa: E402
from sparta_lite.engine.nf4 import COUNTS, FourBit, Range, crossover  # noqa: E402
from sparta_lite.engine.sequences import WholeSequences  # noqa: E402
from sparta_lite.kernels import triton_nf4  # noqa: E402

SLOWER, FASTER, EVEN = (20.0, 10.0), (10.0, 20.0), (10.0, 10.2)
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _a_new_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nf4, "_ranges", {})
    monkeypatch.setattr(nf4, "_recalled", {})
    monkeypatch.setattr(nf4, "_failure", None)


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[int]]:
    """Says that our kernel can run here, interpreted, and which numbers of tokens it wins.

    Gives the list of the numbers that were timed.
    """
    if not triton.knobs.runtime.interpret:
        pytest.skip("needs TRITON_INTERPRET=1")

    def win(*wins: int, counts: tuple[int, ...] = (8, 16, 32)) -> list[int]:
        timed: list[int] = []

        def time_on_card(runs: list[Callable[[], Any]]) -> list[float]:
            ours, theirs = runs
            assert ours().shape == torch.cat(theirs(), -1).shape
            timed.append(len(theirs()[0]))
            return list(FASTER if timed[-1] in wins else SLOWER)

        monkeypatch.setattr(nf4, "COUNTS", counts)
        monkeypatch.setattr(nf4, "serves", lambda device, dtype: True)
        monkeypatch.setattr(nf4, "time_on_card", time_on_card)
        return timed

    return win


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of tokens that our product was asked for."""
    tokens: list[int] = []
    plain = triton_nf4.nf4_linear

    def noted(x: Tensor, *others: Any) -> Tensor:
        tokens.append(len(x))
        return plain(x, *others)

    monkeypatch.setattr(triton_nf4, "nf4_linear", noted)
    return tokens


def layer(width: int = 64, kind: str = "nf4", dtype: torch.dtype | None = torch.float32) -> Linear4bit:
    module = Linear4bit(width, 40, compute_dtype=dtype, quant_type=kind)
    module.support_avx512bf16_for_cpu = False
    with torch.random.fork_rng():
        torch.manual_seed(0)
        torch.nn.init.normal_(module.weight)
        torch.nn.init.normal_(module.bias)
    return module.to(CPU).eval().requires_grad_(False)


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        ([SLOWER] * 10, None),
        ([EVEN] * 10, None),  # two percent are noise
        ([FASTER] * 10, Range(8, 256, 8, *FASTER)),
        ([SLOWER, *[FASTER] * 3, *[SLOWER] * 6], Range(9, 32, 16, *FASTER)),
        ([FASTER, SLOWER, *[FASTER] * 2, (5.0, 30.0), *[SLOWER] * 5], Range(17, 48, 48, 5.0, 30.0)),
        ([*[SLOWER] * 9, FASTER], Range(193, 256, 256, *FASTER)),
        (
            [*[FASTER] * 2, EVEN, *[FASTER] * 2, *[SLOWER] * 5],
            Range(8, 16, 8, *FASTER),
        ),  # the first of equals
    ],
)
def test_the_range_is_the_longest_run_that_is_clearly_won(
    times: list[tuple[float, float]], expected: Range | None
) -> None:
    assert len(times) == len(COUNTS)
    assert crossover(times) == expected


def test_a_kind_of_layer_is_timed_once(card: Callable[..., list[int]]) -> None:
    timed = card(16)
    first, second = nf4.linear([layer()]), nf4.linear([layer()])
    assert isinstance(first, FourBit)
    assert isinstance(second, FourBit)
    assert first.range == second.range == Range(9, 16, 16, *FASTER)
    assert timed == [8, 16, 32]
    assert first.weights[0].packed.data_ptr() == first.modules[0].weight.data_ptr()  # nothing was copied
    nf4.linear([layer(width=128)])
    assert timed == [8, 16, 32] * 2


def test_modules_of_one_input_are_one_kind_and_one_launch(
    card: Callable[..., list[int]], served: list[int]
) -> None:
    timed = card(8, 16)
    modules = [layer(), layer()]
    with torch.no_grad():
        modules[1].bias.neg_()
        ours = nf4.linear(modules)
        assert ours is not None
        assert timed == [8, 16, 32]
        assert list(nf4._ranges) == ["40 + 40 x 64 float32 with bias"]
        served.clear()
        x = torch.randn(3, 5, 64, generator=torch.Generator().manual_seed(0))
        for found, module in zip(ours(x), modules, strict=True):
            torch.testing.assert_close(found, module(x), rtol=1e-5, atol=1e-4)
    assert served == [15]
    text = nf4.choices()
    nf4.recall(text["nf4"])
    nf4.linear([layer(), layer()])
    assert timed == [8, 16, 32]
    assert nf4.choices() == text
    assert nf4.linear([layer(), torch.nn.Linear(64, 40)]) is None  # one of them is not in 4 bits


def test_only_its_range_without_gradients_and_in_its_dtype_is_our_products(
    card: Callable[..., list[int]], served: list[int]
) -> None:
    card(16)
    ours = nf4.linear([layer()])
    assert ours is not None
    served.clear()

    def run(*shape: int, dtype: torch.dtype = torch.float32) -> None:
        x = torch.ones(*shape, 64, dtype=dtype)
        (found,), expected = ours(x), ours.modules[0](x)
        assert found.dtype == dtype
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-4)

    with torch.no_grad():
        for tokens in (8, 9, 16, 17):
            run(tokens)
        run(2, 6)
        run(16, dtype=torch.bfloat16)
        assert served == [9, 16, 12]
    run(16)
    assert ours(torch.ones(16, 64, requires_grad=True))[0].requires_grad
    assert served == [9, 16, 12]


@pytest.mark.parametrize(
    "make",
    [
        lambda: layer(kind="fp4"),
        lambda: layer(width=96),
        lambda: layer(dtype=None),
        lambda: torch.nn.Linear(64, 40),
    ],
    ids=["another code", "blocks across rows", "no dtype", "not in 4 bits"],
)
def test_what_our_kernel_cannot_read_stays_as_it_is(
    card: Callable[..., list[int]], make: Callable[[], Any]
) -> None:
    timed, module = card(16), make()
    assert nf4.linear([module]) is None
    assert timed == []
    assert nf4.choices() == {}


def test_a_cpu_is_bitsandbytes_alone() -> None:
    module = layer()
    assert nf4.linear([module]) is None
    assert nf4.choices() == {}


@pytest.mark.parametrize(
    ("broken", "why"),
    [
        (True, "ValueError: no such instruction"),
        (False, "RuntimeError: results differ from bitsandbytes' by nan"),
    ],
    ids=["does not compile", "is wrong"],
)
def test_a_kernel_that_fails_is_told_of_once_and_not_tried_again(
    card: Callable[..., list[int]], monkeypatch: pytest.MonkeyPatch, broken: bool, why: str
) -> None:
    timed, tried = card(16), []

    def fail(x: Tensor, weights: Any, bias: Any) -> Tensor:
        tried.append(len(x))
        if broken:
            raise ValueError("at line 3:\nno such instruction")
        return torch.full((len(x), weights[0].outputs), torch.nan)

    monkeypatch.setattr(triton_nf4, "nf4_linear", fail)
    first, second = layer(), layer(width=128)
    with pytest.warns(UserWarning, match="bitsandbytes' modules serve all of them"):
        assert nf4.linear([first]) is None
    assert nf4.linear([second]) is None
    assert tried == [8]
    assert timed == []
    assert nf4.choices() == {"nf4": f"bitsandbytes alone (our product failed, {why})"}


def test_memory_that_runs_out_is_no_failure_of_the_kernel(
    card: Callable[..., list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    card(16)

    def fail(*_: Any) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(triton_nf4, "nf4_linear", fail)
    with pytest.raises(torch.OutOfMemoryError):
        nf4.linear([layer()])
    assert nf4._failure is None


def test_a_resumed_run_takes_the_ranges_of_its_beginning(
    card: Callable[..., list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    timed = card(16, 32)
    ours = nf4.linear([layer()])
    card()
    nf4.linear([layer(width=128)])
    text = nf4.choices()
    assert text == {
        "nf4": "our product for 9 to 32 tokens of 40 x 64 float32 with bias "
        "(at 16: 10.0 us, bitsandbytes 20.0 us); none of 40 x 128 float32 with bias"
    }

    timed = card(8)  # by now it would look different
    nf4.recall(text["nf4"])
    again = nf4.linear([layer()])
    assert ours is not None
    assert again is not None
    assert again.range == ours.range
    assert nf4.linear([layer(width=128)]) is None
    assert timed == []
    assert nf4.choices() == text
    nf4.linear([layer(width=192)])
    assert timed == [8, 16, 32]  # of which nothing was recorded


@pytest.fixture(scope="module")
def modules_alone(base_path: Path) -> Base:
    return load_base(base_path, CPU, quantization="nf4")


@pytest.fixture
def hidden() -> Callable[[Base], Tensor]:
    ids = torch.randint(320, (2, 15), generator=torch.Generator().manual_seed(1))
    positions = torch.arange(15).expand_as(ids)
    return lambda base: base.decoder.hidden(ids, positions, WholeSequences(base.decoder.mixers), None)


def test_the_engine_over_our_product_gives_the_same_states(
    card: Callable[..., list[int]],
    served: list[int],
    base_path: Path,
    modules_alone: Base,
    hidden: Callable[[Base], Tensor],
) -> None:
    card(32)
    base = load_base(base_path, CPU, quantization="nf4")
    served.clear()
    with torch.no_grad():
        expected, found = hidden(modules_alone), hidden(base)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
        assert served == [30] * 8  # two layers of four sites
    assert torch.equal(hidden(base), hidden(modules_alone))  # gradients are wanted: the modules
    assert len(served) == 8


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device; torch sees none")
def test_on_a_card_it_is_timed_and_a_graph_can_hold_it() -> None:
    module = layer(width=1024, dtype=torch.bfloat16).to("cuda", torch.bfloat16)
    nf4.linear([module])
    assert list(nf4._ranges) == ["40 x 1024 bfloat16 with bias"]
    weight = nf4.read(module)
    assert weight is not None
    ours = FourBit((module,), (weight,), module.bias, torch.bfloat16, Range(8, 256, 8, *FASTER))
    x = torch.randn(20, 1024, device="cuda", dtype=torch.bfloat16)
    with torch.no_grad():
        ours(x)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            (found,) = ours(x)
        x.normal_()
        graph.replay()
        assert torch.equal(found, ours(x)[0])
        torch.testing.assert_close(found, module(x), rtol=2e-2, atol=0.5)
