from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sparta_lite.kernels import logprob
from sparta_lite.kernels.logprob import token_logprobs
from sparta_lite.kernels.product import linear


def problem(tokens: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    hidden = torch.randn(tokens, 6, generator=generator, dtype=dtype, requires_grad=True)
    head = torch.randn(11, 6, generator=generator, dtype=dtype)
    targets = torch.randint(11, (tokens,), generator=generator)
    return hidden, head, targets


@pytest.mark.parametrize("chunk", [1, 3, 7, 100])
def test_the_gradient_is_the_numerical_one(chunk: int) -> None:
    hidden, head, targets = problem(7, torch.float64)
    assert torch.autograd.gradcheck(lambda each: token_logprobs(each, head, targets, chunk), hidden)


@pytest.mark.parametrize("chunk", [1, 4, 100])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_equals_a_plain_log_softmax(dtype: torch.dtype, chunk: int) -> None:
    hidden, head, targets = problem(9, dtype)
    weights = torch.linspace(-1, 2, 9)
    result = token_logprobs(hidden, head, targets, chunk)
    (gradient,) = torch.autograd.grad((result * weights).sum(), hidden)

    exact = hidden.detach().double().requires_grad_()
    plain = (exact @ head.double().T).log_softmax(-1).gather(1, targets[:, None])[:, 0]
    (expected,) = torch.autograd.grad((plain * weights).sum(), exact)

    assert result.dtype == torch.float32
    assert gradient.dtype == dtype
    tolerance = 2e-6 if dtype == torch.float32 else 4e-2
    torch.testing.assert_close(result.double(), plain, atol=tolerance, rtol=tolerance)
    torch.testing.assert_close(gradient.double(), expected, atol=tolerance, rtol=tolerance)


def test_logits_never_exist_for_more_than_a_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    hidden, head, targets = problem(10, torch.float32)
    seen = []

    def watched(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        seen.append(len(x))
        return linear(x, weight, bias)

    monkeypatch.setattr(logprob, "linear", watched)
    token_logprobs(hidden, head, targets, 4).sum().backward()
    assert seen == [4, 4, 4, 4, 2, 2]  # of every chunk the logits, then their slope


def test_a_bias_of_the_head_counts_in_value_and_gradient() -> None:
    hidden, head, targets = problem(7, torch.float64)
    bias = torch.linspace(-2, 2, len(head), dtype=torch.float64)
    result = token_logprobs(hidden, head, targets, 3, bias)
    expected = torch.nn.functional.linear(hidden, head, bias).log_softmax(-1)[range(7), targets]
    torch.testing.assert_close(result, expected)
    assert torch.autograd.gradcheck(lambda each: token_logprobs(each, head, targets, 3, bias), hidden)


@pytest.mark.parametrize("chunk", [1, 3, 100])
def test_a_cap_on_the_logits_counts_in_value_and_gradient(chunk: int) -> None:
    hidden, head, targets = problem(7, torch.float64)
    bias = torch.linspace(-2, 2, len(head), dtype=torch.float64)
    result = token_logprobs(hidden, head, targets, chunk, bias, 1.5)
    capped = 1.5 * (torch.nn.functional.linear(hidden, head, bias) / 1.5).tanh()
    torch.testing.assert_close(result, capped.log_softmax(-1)[range(7), targets])
    assert torch.autograd.gradcheck(
        lambda each: token_logprobs(each, head, targets, chunk, bias, 1.5), hidden
    )


def test_large_logits_stay_finite() -> None:
    hidden, head, targets = problem(5, torch.float32)
    result = token_logprobs(hidden * 1e4, head, targets)
    assert result.isfinite().all()


def test_no_tokens_give_no_log_probabilities() -> None:
    hidden, head, targets = problem(0, torch.float32)
    assert token_logprobs(hidden, head, targets).shape == (0,)
