"""Generation against PEFT's own, adapter by adapter."""

from __future__ import annotations

import random
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import Tensor

from sparta_lite.engine.bank import Bank
from sparta_lite.engine.base import Base
from sparta_lite.engine.decode import Prompt, generate
from sparta_lite.engine.likelihood import Continuation, log_probabilities
from sparta_lite.errors import SpartaError
from sparta_lite.kernels.sampling import Sampling, choose

GREEDY = Sampling(temperature=0)


def mixed_prompts(count: int) -> list[Prompt]:
    rng = random.Random(7)
    names = ["ada", "ben", "cyd", None]
    return [
        Prompt(rng.choice(names), tuple(rng.randrange(256) for _ in range(rng.randrange(1, 40))), key=index)
        for index in range(count)
    ]


def peft_greedy(model: PeftModel, prompt: Prompt, max_new_tokens: int) -> list[int]:
    ids = torch.tensor([prompt.ids])
    options = {
        "attention_mask": torch.ones_like(ids),
        "max_new_tokens": max_new_tokens,
        "do_sample": False,
    }
    if prompt.adapter is None:
        with model.disable_adapter():
            out = model.generate(input_ids=ids, **options)
    else:
        model.set_adapter(prompt.adapter)
        out = model.generate(input_ids=ids, **options)
    ids_after: list[int] = out[0, len(prompt.ids) :].tolist()
    return ids_after


@pytest.mark.parametrize("places", [1, 5, 64])
def test_greedy_equals_peft_token_by_token_whatever_shares_the_batch(
    base: Base, bank: Bank, peft_model: PeftModel, places: int
) -> None:
    prompts = mixed_prompts(17)
    responses = generate(base, bank, prompts, GREEDY, 12, places)
    for prompt, response in zip(prompts, responses, strict=True):
        assert list(response.ids) == peft_greedy(peft_model, prompt, 12)


def test_attention_may_lie_in_memory_as_on_a_gpu(
    base: Base, bank: Bank, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There torch gives [rows, heads, length, head_dim] over memory of [rows, length, heads, head_dim]."""
    prompts = mixed_prompts(9)
    expected = generate(base, bank, prompts, GREEDY, 6, 5)
    attention = torch.nn.functional.scaled_dot_product_attention

    def on_a_gpu(*given: Tensor, **more: Any) -> Tensor:
        return attention(*given, **more).transpose(1, 2).contiguous().transpose(1, 2)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", on_a_gpu)
    assert generate(base, bank, prompts, GREEDY, 6, 5) == expected


def test_rows_stop_at_the_end_of_turn_and_say_so(base: Base, bank: Bank) -> None:
    prompts = mixed_prompts(8)
    free = generate(base, bank, prompts, GREEDY, 12, 8)
    target = free[0].ids[3]
    stopping = Base(base.name, base.model, base.tokenizer, base.decoder, frozenset({target}), base.context)
    for before, after in zip(free, generate(stopping, bank, prompts, GREEDY, 12, 3), strict=True):
        if target in before.ids:
            assert after.ids == before.ids[: before.ids.index(target) + 1]
            assert after.stop == "end-of-turn"
        else:
            assert (after.ids, after.stop) == (before.ids, "length")


def test_sampled_tokens_do_not_depend_on_batch_neighbours(base: Base, bank: Bank) -> None:
    prompts = mixed_prompts(12)
    sampling = Sampling(temperature=1.0, top_k=0, top_p=1.0)
    together = generate(base, bank, prompts, sampling, 10, 64)
    assert together == generate(base, bank, prompts, sampling, 10, 5)
    assert together[3] == generate(base, bank, [prompts[3]], sampling, 10, 1)[0]
    assert len({response.ids for response in together}) == len(prompts)


@pytest.mark.parametrize("places", [2, 3, 7, 30])
def test_rows_that_end_at_every_moment_disturb_no_other(base: Base, bank: Bank, places: int) -> None:
    prompts = mixed_prompts(30)
    sampling = Sampling(temperature=1.5, top_k=0, top_p=1.0)
    stops = frozenset(range(0, 320, 7))
    stopping = Base(base.name, base.model, base.tokenizer, base.decoder, stops, base.context)
    told: list[tuple[int, int]] = []
    together = generate(stopping, bank, prompts, sampling, 15, places, lambda *step: told.append(step))
    assert together == [generate(stopping, bank, [prompt], sampling, 15, 1)[0] for prompt in prompts]
    assert len({len(response.ids) for response in together}) > 5
    assert sum(items for items, _ in told) == 30
    assert sum(tokens for _, tokens in told) == sum(
        len(prompt.ids) + len(response.ids) - 1 for prompt, response in zip(prompts, together, strict=True)
    )


def test_every_position_is_drawn_with_its_own_number(base: Base, bank: Bank, peft_model: PeftModel) -> None:
    """From PEFT's logits, the row's key and the position in the response as its counter."""
    prompts = [prompt for prompt in mixed_prompts(12) if prompt.adapter is not None]
    sampling = Sampling(temperature=1.0, top_k=0, top_p=1.0)
    for prompt, response in zip(prompts, generate(base, bank, prompts, sampling, 12, 4), strict=True):
        peft_model.set_adapter(prompt.adapter)
        with torch.no_grad():
            logits = peft_model(input_ids=torch.tensor([prompt.ids + response.ids])).logits[0]
        keys, counters = torch.full((len(response.ids),), prompt.key), torch.arange(len(response.ids))
        drawn = choose(logits[len(prompt.ids) - 1 : -1], sampling, keys, counters)
        assert response.ids == tuple(drawn.tolist())


@pytest.mark.parametrize("sampling", [GREEDY, Sampling(0.7, 5, 0.9), Sampling(2.0, 0, 1.0)], ids=str)
def test_log_probabilities_are_those_of_transformers_in_float64(
    base: Base, bank: Bank, peft_model: PeftModel, sampling: Sampling
) -> None:
    """At temperature 1 with nothing cut off, however the tokens were drawn, the end of turn included."""
    prompts = mixed_prompts(12)
    stopping = replace(base, stops=frozenset(range(0, 320, 9)))
    responses = generate(stopping, bank, prompts, sampling, 12, 5)
    assert {response.stop for response in responses} == {"end-of-turn", "length"}
    exact = deepcopy(peft_model).double()
    for prompt, response in zip(prompts, responses, strict=True):
        ids = torch.tensor([prompt.ids + response.ids])
        exact.set_adapter(prompt.adapter or "ada")
        with torch.no_grad(), exact.disable_adapter() if prompt.adapter is None else nullcontext():
            chances = exact(input_ids=ids).logits[0, len(prompt.ids) - 1 : -1].log_softmax(-1)
        expected = chances.gather(1, torch.tensor(response.ids)[:, None]).sum().item()
        assert response.logprob == pytest.approx(expected, abs=1e-5, rel=1e-6)


def test_log_probabilities_are_those_of_a_pass_over_the_whole_sequence(base: Base, bank: Bank) -> None:
    prompts = mixed_prompts(20)
    responses = generate(base, bank, prompts, Sampling(0.7, 20, 0.9), 12, 6)
    asked = [
        Continuation(prompt.adapter, prompt.ids, response.ids)
        for prompt, response in zip(prompts, responses, strict=True)
    ]
    for response, passed in zip(responses, log_probabilities(base, bank, asked, 300), strict=True):
        assert response.logprob == pytest.approx(passed.double().sum().item(), abs=1e-5, rel=1e-6)


def test_a_full_context_ends_a_row(base: Base, bank: Bank) -> None:
    long = Prompt("ada", tuple(range(200)) + tuple(range(200)) + tuple(range(100)))
    (response,) = generate(base, bank, [long], GREEDY, 100, 4)
    assert (len(response.ids), response.stop) == (base.context - 500, "context")


def test_a_prompt_without_room_is_refused(base: Base, bank: Bank) -> None:
    with pytest.raises(SpartaError, match="prompt 0 has 512 tokens"):
        generate(base, bank, [Prompt("ada", (1,) * 512)], GREEDY, 4, 4)


def test_an_unknown_adapter_is_named(base: Base, bank: Bank) -> None:
    with pytest.raises(SpartaError, match="'eve' is not in the bank; it holds ada, ben, cyd"):
        generate(base, bank, [Prompt("eve", (1, 2))], GREEDY, 4, 4)


def test_logits_that_are_nan_stop_the_generation(base: Base, bank: Bank) -> None:
    state = bank.snapshot()
    slot = bank.slot("ben")
    try:
        next(bank.modules(slot))[2].fill_(float("nan"))
        with pytest.raises(SpartaError, match="adapter 'ben' gives NaN"):
            generate(base, bank, [Prompt("ada", (1, 2)), Prompt("ben", (1, 2))], GREEDY, 4, 4)
    finally:
        bank.restore(state)
