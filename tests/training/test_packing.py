from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import PeftModel
from torch import Tensor

from sparta_lite.engine.bank import Bank
from sparta_lite.engine.base import Base
from sparta_lite.errors import SpartaError
from sparta_lite.training.likelihood import completion_logprobs
from sparta_lite.training.packing import TokenizedPair, Truncation, pack, truncate

ids = st.lists(st.integers(1, 50), min_size=1, max_size=6).map(tuple)
rows = st.lists(st.tuples(ids, st.tuples(ids, ids)), min_size=1, max_size=4)


def peft_logprobs(model: PeftModel, adapter: str, prompt: tuple[int, ...], answer: tuple[int, ...]) -> Tensor:
    """Of each answer token, from prompt + answer alone, without padding."""
    model.set_adapter(adapter)
    with torch.no_grad():
        logits = model(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
    result: Tensor = logits.log_softmax(-1).gather(1, torch.tensor(answer)[:, None])[:, 0]
    return result


def test_packed_log_probabilities_equal_peft_on_each_sequence_alone(
    base: Base, bank: Bank, peft_model: PeftModel, pairs: list[TokenizedPair]
) -> None:
    names = ["ada", "ben", "cyd"]
    packed = pack([(pair.prompt, (pair.chosen, pair.rejected)) for pair in pairs[:5]], pad=9)
    lora = bank.lora([name for name in names for _ in range(5)])
    with torch.no_grad():
        result = completion_logprobs(base.decoder, lora, packed, 3, "fp32")
    for adapter, rows in zip(names, result, strict=True):
        for pair, row in zip(pairs, rows, strict=False):
            for answer, found in zip((pair.chosen, pair.rejected), row, strict=True):
                expected = peft_logprobs(peft_model, adapter, pair.prompt, answer)
                torch.testing.assert_close(found[: len(answer)], expected, atol=1e-5, rtol=1e-5)
                assert not found[len(answer) :].any()


def test_the_padding_token_changes_nothing(base: Base, bank: Bank, pairs: list[TokenizedPair]) -> None:
    lora = bank.lora(["ada"] * 5)
    one, other = (
        completion_logprobs(
            base.decoder,
            lora,
            pack([(pair.prompt, (pair.chosen, pair.rejected)) for pair in pairs[:5]], pad),
            1,
            "fp32",
        )
        for pad in (0, 77)
    )
    assert torch.equal(one, other)


@given(rows)
def test_every_completion_token_is_predicted_once_by_the_state_before_it(
    rows: list[tuple[tuple[int, ...], tuple[tuple[int, ...], ...]]],
) -> None:
    packed = pack(rows, pad=0)
    length = packed.layout.ids.shape[1]
    assert packed.layout.mask is not None
    targets = [*packed.targets.tolist(), 0]
    states = packed.sources.tolist()
    for row, (prompt, completions) in enumerate(rows):
        for number, completion in enumerate(completions):
            cells = packed.cells[row, number].tolist()
            assert tuple(targets[cell] for cell in cells[: len(completion)]) == completion
            assert set(cells[len(completion) :]) <= {len(packed.targets)}
            for index in range(len(completion)):
                state = states[cells[index]] - row * length
                visible = packed.layout.mask[row, 0, state].nonzero()[:, 0].tolist()
                context = prompt + completion[:index]
                assert tuple(packed.layout.ids[row, visible].tolist()) == context
                assert packed.layout.positions[row, visible].tolist() == list(range(len(context)))


@given(rows)
def test_every_query_sees_something_and_nothing_later(
    rows: list[tuple[tuple[int, ...], tuple[tuple[int, ...], ...]]],
) -> None:
    mask = pack(rows, pad=0).layout.mask
    assert mask is not None
    assert mask.any(-1).all()
    assert not mask.triu(1).any()


def test_an_empty_completion_is_refused() -> None:
    with pytest.raises(SpartaError, match="no tokens"):
        pack([((1, 2), ((3,), ()))], pad=0)


def test_prompts_lose_their_beginning_and_completions_their_end() -> None:
    pairs = [
        TokenizedPair((1, 2, 3, 4), (5, 6, 7), (8,)),
        TokenizedPair((1, 2), (5, 6, 7), (8, 9, 10)),
        TokenizedPair((1,), (5,), (8, 9, 10, 11)),
    ]
    cut, truncation = truncate(pairs, max_length=5, max_prompt=3)
    assert cut == [
        TokenizedPair((2, 3, 4), (5, 6), (8,)),
        TokenizedPair((1, 2), (5, 6, 7), (8, 9, 10)),
        TokenizedPair((1,), (5,), (8, 9, 10, 11)),
    ]
    assert truncation == Truncation(prompts=1, completions=1)
