"""The definitions themselves, against the numerical derivative and a second way to write each."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sparta_lite.kernels import logprob, lora, reference

SCALES = [0.5, 2.0, 0.25]
BOUNDS = [0, 3, 3, 5]  # the middle slot serves no row, the last two rows have no adapter
SLOTS = [0, 0, 0, 2, 2, None, None]
WIDTHS = (3, 2)


def problem() -> tuple[list[Tensor], Tensor, Tensor, list[Tensor]]:
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    outputs = [normal(len(SLOTS), width) for width in WIDTHS]
    return outputs, normal(len(SLOTS), 5), normal(3, 2 * 2, 5), [normal(3, width, 2) for width in WIDTHS]


def test_grouped_lora_is_written_out_row_by_row() -> None:
    outputs, x, a, b = problem()
    results = reference.grouped_lora(outputs, x, a, b, SCALES, BOUNDS)
    for part, (output, result) in enumerate(zip(outputs, results, strict=True)):
        for row, slot in enumerate(SLOTS):
            expected = output[row].clone()
            if slot is not None:
                low = a[slot, 2 * part : 2 * part + 2] @ x[row]
                expected += SCALES[slot] * (b[part][slot] @ low)
            torch.testing.assert_close(result[row], expected, rtol=1e-13, atol=1e-13)


def test_grouped_lora_is_what_the_engine_computes() -> None:
    outputs, x, a, b = problem()
    expected = reference.grouped_lora(outputs, x, a, b, SCALES, BOUNDS)
    routing = lora.route(SLOTS, SCALES, torch.device("cpu"))
    assert routing is not None
    results = lora.add_lora([each[:, None] for each in outputs], x[:, None], a, b, routing)
    for result, each in zip(results, expected, strict=True):
        torch.testing.assert_close(result[:, 0], each, rtol=1e-12, atol=1e-12)


def test_gradients_of_grouped_lora_are_the_numerical_ones() -> None:
    outputs, x, a, b = problem()

    def run(x: Tensor, a: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
        return tuple(reference.grouped_lora(others[:2], x, a, others[2:], SCALES, BOUNDS))

    assert torch.autograd.gradcheck(run, [each.requires_grad_() for each in (x, a, *outputs, *b)])


@pytest.mark.parametrize("biased", [False, True])
def test_token_logprobs_and_their_gradient(biased: bool) -> None:
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(6, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    head = torch.randn(9, 4, generator=generator, dtype=torch.float64)
    bias = torch.randn(9, generator=generator, dtype=torch.float64) if biased else None
    targets = torch.randint(9, (6,), generator=generator)
    result = reference.token_logprobs(hidden, head, targets, bias)
    logits = hidden.detach() @ head.T + (0 if bias is None else bias)
    expected = logits.gather(1, targets[:, None])[:, 0] - logits.exp().sum(dim=1).log()
    torch.testing.assert_close(result.detach(), expected, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(result, logprob.token_logprobs(hidden, head, targets, bias=bias))
    assert torch.autograd.gradcheck(lambda each: reference.token_logprobs(each, head, targets, bias), hidden)
