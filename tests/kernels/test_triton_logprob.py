"""Log-probabilities in Triton against their definition in float64.

Tolerances are bounds, as in test_triton_lora.py. A value is a difference of logits that were summed in fp32
from unrounded factors, whatever the dtype. Of the gradient two numbers are rounded: the derivative in the
logits and the result, and once more where it is multiplied by the gradient from above.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

triton = pytest.importorskip("triton")

from sparta_lite.kernels import reference  # noqa: E402
from sparta_lite.kernels.triton_logprob import token_logprobs  # noqa: E402

from .rounding import ROUNDING  # noqa: E402

pytestmark = pytest.mark.usefixtures("poisoned_memory")


def problem(
    tokens: int, width: int, vocabulary: int, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(tokens)
    hidden = torch.randn(tokens, width, generator=generator)
    head = torch.randn(vocabulary, width, generator=generator) * 3 / width**0.5
    bias = torch.randn(vocabulary, generator=generator)
    targets = torch.randint(vocabulary, (tokens,), generator=generator)
    return hidden.to(device, dtype), head.to(device, dtype), bias.to(device, dtype), targets.to(device)


@pytest.mark.parametrize(("biased", "softcap"), [(False, None), (True, None), (True, 4.0)])
@pytest.mark.parametrize("dtype", ROUNDING, ids=str)
@pytest.mark.parametrize(
    ("tokens", "width", "vocabulary", "chunk"), [(1, 5, 7, 1), (35, 70, 300, 16), (5, 33, 129, 100)]
)
def test_values_and_gradient(
    tokens: int,
    width: int,
    vocabulary: int,
    chunk: int,
    dtype: torch.dtype,
    biased: bool,
    softcap: float | None,
    device: torch.device,
) -> None:
    hidden, head, bias, targets = problem(tokens, width, vocabulary, dtype, device)
    weights = torch.linspace(-1, 2, tokens, device=device)
    found = token_logprobs(hidden.requires_grad_(), head, targets, chunk, bias if biased else None, softcap)
    (gradient,) = torch.autograd.grad((found * weights).sum(), hidden)

    exact = hidden.detach().double().requires_grad_()
    shift = bias.double() if biased else None
    values = reference.token_logprobs(exact, head.double(), targets, shift, softcap)
    (slope,) = torch.autograd.grad((values * weights.double()).sum(), exact)

    assert found.dtype == torch.float32
    assert gradient.dtype == dtype
    sizes = (hidden.detach().double().abs() @ head.double().abs().T + bias.double().abs()).amax(dim=1)
    # Of a logit, an exponential's sum, a logarithm; a tanh of which the derivative is taken as well.
    single = (width + 40 + 8 * (softcap or 0)) * 2.0**-24 * (1 + sizes)
    assert ((found.detach().double() - values.detach()).abs() <= 2 * single).all()
    logits = exact.detach() @ head.double().T + biased * bias.double()
    softmax = (softcap * (logits / softcap).tanh() if softcap else logits).softmax(dim=1)
    softmax.scatter_add_(1, targets[:, None], torch.ones_like(softmax[:, :1]))
    size = weights.double().abs()[:, None] * (softmax @ head.double().abs())
    bound = (3 * ROUNDING[dtype] + vocabulary * 2.0**-24 + 4 * single[:, None]) * size
    assert ((gradient.double() - slope).abs() <= bound).all()


def test_large_logits_stay_finite(device: torch.device) -> None:
    hidden, head, _, targets = problem(5, 20, 150, torch.float32, device)
    assert token_logprobs(hidden * 1e4, head, targets).isfinite().all()


def test_no_tokens_give_no_log_probabilities(device: torch.device) -> None:
    hidden, head, _, targets = problem(0, 4, 9, torch.float32, device)
    result = token_logprobs(hidden.requires_grad_(), head, targets)
    assert result.shape == (0,)
    result.sum().backward()


def test_equal_inputs_give_equal_bits(device: torch.device) -> None:
    hidden, head, bias, targets = problem(35, 70, 300, torch.bfloat16, device)
    first = token_logprobs(hidden, head, targets, bias=bias)
    for _ in range(2):
        assert torch.equal(token_logprobs(hidden, head, targets, bias=bias), first)


def test_rows_of_a_wider_tensor_are_read_where_they_lie(device: torch.device) -> None:
    hidden, head, _, targets = problem(5, 20, 150, torch.float32, device)
    frame = torch.full((5, 27), float("nan"), device=device)
    frame[:, 3:23] = hidden
    assert torch.equal(token_logprobs(frame[:, 3:23], head, targets), token_logprobs(hidden, head, targets))
