"""Who computes, and what happens when Triton cannot: torch computes, one warning, memory errors untouched."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

triton = pytest.importorskip("triton")

from sparta_lite.kernels import (  # noqa: E402
    choice,
    elementwise,
    logprob,
    lora,
    probe,
    triton_elementwise,
    triton_logprob,
    triton_lora,
    triton_rotary,
)

interpreted = pytest.mark.skipif(
    not triton.knobs.runtime.interpret, reason="kernels on a CPU need TRITON_INTERPRET=1"
)

CPU, CARD = torch.device("cpu"), torch.device("cuda")
WIDTHS = (9, 6)


@pytest.fixture(autouse=True)
def _a_fresh_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "_chosen", {})
    monkeypatch.setattr(choice, "_failed", None)
    monkeypatch.setattr(choice, "_told", False)


@pytest.fixture
def triton_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton wherever it has not failed, as on a card."""
    monkeypatch.setattr(choice, "use_triton", lambda x: choice._failed is None)


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> None:
    """What torch and Triton would say of a card; no kernel runs."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    monkeypatch.setattr(probe, "require_sound", lambda device, dtype: None)


def problem() -> tuple[list[Tensor], Tensor, Tensor, list[Tensor], lora.Routing]:
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    routing = lora.route([1, None, 0, 1], [0.5, 2.0], CPU)
    assert routing is not None
    outputs = [normal(4, 3, width) for width in WIDTHS]
    return outputs, normal(4, 3, 10), normal(2, 2 * 4, 10), [normal(2, width, 4) for width in WIDTHS], routing


def fail(error: Exception) -> Callable[..., Any]:
    def launch(*_: Any, **__: Any) -> None:
        raise error

    return launch


class Broken:
    """A kernel whose launch raises."""

    def __init__(self, error: Exception) -> None:
        self.error, self.launches = error, 0

    def __getitem__(self, grid: object) -> Callable[..., None]:
        self.launches += 1
        return fail(self.error)


def test_a_cpu_computes_in_torch_and_says_why() -> None:
    assert choice.choose_kernels(CPU, torch.float32) == (
        "torch",
        "Triton's kernels need a CUDA device, this is cpu",
    )
    assert not choice.use_triton(torch.zeros(1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_card_computes_in_triton(card: None, dtype: torch.dtype) -> None:
    assert choice.choose_kernels(CARD, dtype)[0] == "triton"


def test_what_keeps_a_card_from_triton_is_said(card: None, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "do not compute in float64" in choice.choose_kernels(CARD, torch.float64)[1]
    monkeypatch.setattr(choice, "_chosen", {})
    monkeypatch.setattr(choice, "find_spec", lambda name: None)
    assert choice.choose_kernels(CARD, torch.bfloat16) == ("torch", "Triton is not installed")
    monkeypatch.setattr(choice, "_chosen", {})
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    assert "compute capability 8.0" in choice.choose_kernels(CARD, torch.bfloat16)[1]
    assert choice.failure() is None  # nothing failed


def test_interpreted_kernels_do_not_serve_a_card(card: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert choice.choose_kernels(CARD, torch.bfloat16)[0] == "torch"


def test_the_kernels_are_tried_once_and_a_failure_is_told_once(
    card: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = []

    def refuse(device: torch.device, dtype: torch.dtype) -> None:
        tries.append(dtype)
        raise RuntimeError("line one\nout of resource: shared memory")

    monkeypatch.setattr(probe, "require_sound", refuse)
    expected = "a Triton kernel failed, RuntimeError: out of resource: shared memory"
    for _ in range(2):
        assert choice.choose_kernels(CARD, torch.bfloat16) == ("torch", expected)
    assert tries == [torch.bfloat16]
    assert [choice.failure(), choice.failure()] == [expected, None]


@interpreted
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_trial_passes_where_kernels_are_right(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, size in {"_ROWS": 20, "_RANK": 8, "_WIDTH": 40, "_VOCABULARY": 70}.items():
        monkeypatch.setattr(probe, name, size)
    probe.require_sound(CPU, dtype)


@interpreted
def test_the_trial_compares_in_full_precision_wherever_it_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Torch's products would be in bf16 otherwise, Triton's would not."""
    for name, size in {"_ROWS": 20, "_RANK": 8, "_WIDTH": 40, "_VOCABULARY": 70}.items():
        monkeypatch.setattr(probe, name, size)
    with torch.autocast("cpu", torch.bfloat16):
        probe.require_sound(CPU, torch.float32)


@interpreted
@pytest.mark.parametrize("wrong", ["_shrink", "_expand", "_gradient"])
def test_the_trial_finds_a_kernel_that_computes_something_else(
    wrong: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, size in {"_ROWS": 20, "_RANK": 8, "_WIDTH": 40, "_VOCABULARY": 70}.items():
        monkeypatch.setattr(probe, name, size)
    right = getattr(triton_lora, wrong)

    def slightly_off(*args: Any, **named: Any) -> Any:
        result = right(*args, **named)
        for each in (result,) if isinstance(result, Tensor) else args[0]:
            each.mul_(1.01)
        return result

    monkeypatch.setattr(triton_lora, wrong, slightly_off)
    with pytest.raises(RuntimeError, match=r"grouped LoRA.* differs from torch's"):
        probe.require_sound(CPU, torch.float32)


@interpreted
@pytest.mark.parametrize("kernel", ["_shrink_kernel", "_expand_kernel"])
def test_grouped_lora_falls_back_with_its_outputs_whole(
    triton_here: None, kernel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    outputs, x, a, b, routing = problem()
    expected = lora.by_torch([each.clone() for each in outputs], x, a, b, routing)
    broken = Broken(RuntimeError("PTXAS error: no such target"))
    monkeypatch.setattr(triton_lora, kernel, broken)
    for _ in range(2):
        found = lora.add_lora([each.clone() for each in outputs], x, a, b, routing)
        assert all(map(torch.equal, found, expected))
    assert broken.launches == 1
    assert choice.failure() == "a Triton kernel failed, RuntimeError: PTXAS error: no such target"


@interpreted
@pytest.mark.parametrize("kernel", ["_shrink_kernel", "_expand_kernel", "_gradient_kernel"])
def test_a_backward_pass_falls_back_on_its_own(
    triton_here: None, kernel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    outputs, x, a, b, routing = problem()
    slopes = [torch.randn_like(each) for each in outputs]
    gain = torch.rand(a.shape[:2])

    def gradients(add: Callable[..., list[Tensor]], broken: Broken | None = None) -> tuple[Tensor, ...]:
        leaves = [each.clone().requires_grad_() for each in (x, a, *b)]
        results = add(outputs, leaves[0], leaves[1], leaves[2:], routing, gain)
        if broken is not None:
            monkeypatch.setattr(triton_lora, kernel, broken)
        return torch.autograd.grad(results, leaves, slopes)

    broken = Broken(RuntimeError("no"))
    for each, expected in zip(gradients(lora.add_lora, broken), gradients(lora.by_torch), strict=True):
        torch.testing.assert_close(each, expected, rtol=1e-5, atol=1e-5)
    assert broken.launches == 1
    assert choice.failure() is not None


@interpreted
@pytest.mark.parametrize("kernel", ["_total_kernel", "_slope_kernel"])
def test_log_probabilities_fall_back_in_both_passes(
    triton_here: None, kernel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = torch.Generator().manual_seed(0)
    hidden, head = (torch.randn(*shape, generator=generator) for shape in ((5, 8), (11, 8)))
    targets = torch.arange(5)
    monkeypatch.setattr(triton_logprob, kernel, Broken(RuntimeError("no")))
    found, expected = [], []
    for results, logprobs in ((found, logprob.token_logprobs), (expected, logprob.by_torch)):
        leaf = hidden.clone().requires_grad_()
        values = logprobs(leaf, head, targets, 256, None)
        results += [values, *torch.autograd.grad(values.sum(), leaf)]
    for each, other in zip(found, expected, strict=True):
        torch.testing.assert_close(each, other, rtol=1e-5, atol=1e-5)
    assert choice.failure() is not None


class Layer:
    """What stands between the products of a layer, and its gradients, by whichever kernels serve."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator)

        self.inputs = [normal(2, 3, 8), normal(2, 3, 8), normal(2, 4, 3, 8), normal(2, 2, 3, 8)]
        self.rotary = normal(2, 1, 3, 8), normal(2, 1, 3, 8)
        self.slopes = [normal(*each.shape) for each in self.inputs]

    def run(self, middle: Callable[[], None] = lambda: None) -> list[Tensor]:
        x, added, q, k = leaves = [each.clone().requires_grad_() for each in self.inputs]
        total, normed = add_norm(x, added)
        results = [total, elementwise.swiglu(normed, added), *elementwise.rotate_both(q, k, self.rotary)]
        middle()
        return [*results, *torch.autograd.grad(results, leaves, self.slopes)]


def add_norm(x: Tensor, added: Tensor) -> tuple[Tensor, Tensor]:
    """As a decoder calls it."""

    def plain() -> tuple[Tensor, Tensor]:
        return x + added, torch.nn.functional.rms_norm(x + added, (8,), None, 1e-6)

    if not choice.use_triton(x):
        return plain()
    return choice.attempt(lambda: elementwise.add_norm_by_triton(x, added, torch.ones(8), 1e-6), plain)


@interpreted
@pytest.mark.parametrize(
    ("module", "kernel", "backward"),
    [
        (triton_elementwise, "_norm_kernel", False),
        (triton_elementwise, "_norm_slope_kernel", True),
        (triton_elementwise, "_swiglu_kernel", False),
        (triton_elementwise, "_swiglu_slope_kernel", True),
        (triton_rotary, "_turn_kernel", False),
        (triton_rotary, "_turn_kernel", True),
    ],
)
def test_what_stands_between_products_falls_back_in_both_passes(
    triton_here: None, module: Any, kernel: str, backward: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer, broken = Layer(), Broken(RuntimeError("no"))
    with monkeypatch.context() as torch_alone:
        torch_alone.setattr(choice, "use_triton", lambda x: False)
        expected = layer.run()

    def breaks() -> None:
        monkeypatch.setattr(module, kernel, broken)

    if not backward:
        breaks()
    found = layer.run(breaks if backward else lambda: None)
    for each, other in zip(found, expected, strict=True):
        torch.testing.assert_close(each, other, rtol=1e-5, atol=1e-5)
    assert broken.launches == 1
    assert choice.failure() == "a Triton kernel failed, RuntimeError: no"


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        MemoryError(),
        RuntimeError("Triton Error [CUDA]: out of memory"),
    ],
    ids=["torch", "host", "triton"],
)
def test_out_of_memory_passes_through(
    triton_here: None, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    outputs, x, a, b, routing = problem()
    broken = Broken(error)
    monkeypatch.setattr(triton_lora, "_shrink_kernel", broken)
    for _ in range(2):
        with pytest.raises(type(error)):
            lora.add_lora(outputs, x, a, b, routing)
    assert broken.launches == 2  # Triton is not given up
    assert choice.failure() is None


def test_a_recording_that_fails_does_not_give_triton_up(
    triton_here: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    outputs, x, a, b, routing = problem()
    monkeypatch.setattr(triton_lora, "_shrink_kernel", Broken(RuntimeError("not permitted")))
    monkeypatch.setattr(choice, "_recording", lambda: True)
    with pytest.raises(RuntimeError, match="not permitted"):
        lora.add_lora(outputs, x, a, b, routing)
    assert choice.failure() is None


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device; torch sees none")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_this_card_computes_in_triton(dtype: torch.dtype) -> None:
    assert choice.choose_kernels(CARD, dtype) == ("triton", "its kernels compile here and agree with torch")
