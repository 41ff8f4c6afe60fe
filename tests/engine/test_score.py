"""One-pass verdicts and log-probabilities against PEFT, and against drawing tokens."""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from torch import Tensor

from sparta_lite.engine import score
from sparta_lite.engine.bank import Bank
from sparta_lite.engine.base import Base, load_base
from sparta_lite.engine.chat import ScoreTokens
from sparta_lite.engine.decode import Prompt, generate
from sparta_lite.engine.likelihood import Continuation, log_probabilities
from sparta_lite.engine.packing import Layout, lay_out
from sparta_lite.engine.peft_io import load_bank, read_adapter
from sparta_lite.engine.response import Response
from sparta_lite.engine.score import Score, expected_scores, sampled_scores
from sparta_lite.kernels.sampling import PLAIN, Sampling, choose, distribution

NAMES = ["ada", "ben", "cyd", None]
SPLIT = ScoreTokens(prefix=(91, 5, 32), digits=(17, 18, 19, 20, 21, 22, 23, 24, 25), ten=(17, 16))
WHOLE = replace(SPLIT, ten=(300,))


@pytest.fixture(scope="module")
def exact(peft_model: PeftModel) -> PeftModel:
    """The tribe in PEFT, in float64."""
    return copy.deepcopy(peft_model).double()


def peft_logprobs(model: PeftModel, adapter: str | None, ids: Sequence[int]) -> Tensor:
    """log p of every next token, [length, vocabulary], one sequence at a time."""
    batch = torch.tensor([ids])
    with torch.no_grad():
        if adapter is None:
            with model.disable_adapter():
                logits = model(batch).logits
        else:
            model.set_adapter(adapter)
            logits = model(batch).logits
    table: Tensor = logits[0].log_softmax(-1)
    return table


def judge_prompts(count: int, seed: int = 3) -> list[Prompt]:
    rng = random.Random(seed)
    return [
        Prompt(NAMES[index % 4], tuple(rng.randrange(256) for _ in range(rng.randrange(1, 40))), key=index)
        for index in range(count)
    ]


def continuations(count: int) -> list[Continuation]:
    rng = random.Random(4)
    return [
        Continuation(
            rng.choice(NAMES),
            tuple(rng.randrange(320) for _ in range(rng.randrange(1, 30))),
            tuple(rng.randrange(320) for _ in range(rng.randrange(1, 12))),
        )
        for _ in range(count)
    ]


def test_log_probabilities_equal_those_of_peft(base: Base, bank: Bank, exact: PeftModel) -> None:
    asked = continuations(20)
    for each, found in zip(asked, log_probabilities(base, bank, asked, 200), strict=True):
        table = peft_logprobs(exact, each.adapter, each.prompt + each.ids)[len(each.prompt) - 1 : -1]
        expected = table.gather(1, torch.tensor(each.ids)[:, None])[:, 0]
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)


def test_the_batch_size_changes_no_result(base: Base, bank: Bank) -> None:
    asked, prompts = continuations(15), judge_prompts(15)
    alone = log_probabilities(base, bank, asked, 1)
    scores = expected_scores(base, bank, prompts, SPLIT, 0, 1)
    for batch_tokens in (60, 100_000):
        for one, many in zip(alone, log_probabilities(base, bank, asked, batch_tokens), strict=True):
            torch.testing.assert_close(one, many, rtol=1e-6, atol=3e-6)
        again = expected_scores(base, bank, prompts, SPLIT, 0, batch_tokens)
        assert [each.value for each in again] == pytest.approx([each.value for each in scores], rel=1e-6)
        assert [each.mass for each in again] == pytest.approx([each.mass for each in scores], rel=1e-5)


def test_an_empty_continuation_has_no_log_probabilities(base: Base, bank: Bank) -> None:
    some = Continuation("ada", (1, 2, 3), (4, 5))
    empty = Continuation("ada", (1, 2, 3), ())
    first, nothing = log_probabilities(base, bank, [some, empty], 100)
    assert (first.shape, nothing.shape) == ((2,), (0,))
    assert log_probabilities(base, bank, [empty], 100)[0].shape == (0,)
    assert log_probabilities(base, bank, [], 100) == []


def brute_force(model: PeftModel, prompt: Prompt, tokens: ScoreTokens) -> tuple[float, float]:
    """(expected score, mass), each of the ten scores followed token by token."""
    head = [*prompt.ids, *tokens.prefix]
    chances = []
    for number in range(1, 11):
        written = list(tokens.ten) if number == 10 else [tokens.digits[number - 1]]
        table = peft_logprobs(model, prompt.adapter, head + written)
        total = sum(float(table[len(head) - 1 + step, token]) for step, token in enumerate(written))
        chance = torch.tensor(total, dtype=torch.float64).exp().item()
        if number == 1 and len(tokens.ten) == 2:
            chance *= 1 - float(table[-1, tokens.ten[1]].exp())  # a 1 that does not go on to be 10
        chances.append(chance)
    mass = sum(chances)
    return sum(number * chance for number, chance in enumerate(chances, start=1)) / mass, mass


@pytest.mark.parametrize("tokens", [SPLIT, WHOLE], ids=["10 is two tokens", "10 is one token"])
def test_expected_scores_equal_ten_followed_continuations(
    base: Base, bank: Bank, exact: PeftModel, tokens: ScoreTokens
) -> None:
    prompts = judge_prompts(8)
    found = expected_scores(base, bank, prompts, tokens, 0, 300)
    for prompt, each in zip(prompts, found, strict=True):
        value, mass = brute_force(exact, prompt, tokens)
        assert each.failure is None
        assert each.value == pytest.approx(value, abs=1e-5)
        assert each.mass == pytest.approx(mass, rel=1e-4)


@pytest.mark.parametrize("sampling", [PLAIN, Sampling(0.7, 50, 0.95), Sampling(1.3, 6, 1.0)], ids=str)
@pytest.mark.parametrize("adapter", ["ada", None])
def test_an_expected_score_is_the_limit_of_many_sampled_rounds(
    base: Base, bank: Bank, exact: PeftModel, adapter: str | None, sampling: Sampling
) -> None:
    head = judge_prompts(1)[0].ids + SPLIT.prefix
    first = peft_logprobs(exact, adapter, head)[-1].topk(9).indices.tolist()
    after = peft_logprobs(exact, adapter, [*head, first[0]])[-1].argmax().item()
    tokens = ScoreTokens(SPLIT.prefix, tuple(first), (first[0], int(after)))  # scores that are likely
    (found,) = expected_scores(base, bank, [Prompt(adapter, head[:-3])], tokens, 0, 100, sampling=sampling)

    rows = 2000
    prompts = [Prompt(adapter, head, key) for key in range(rows)]
    draws = generate(base, bank, prompts, sampling, max_new_tokens=2, places=2000)
    written = [draw.ids for draw in draws if draw.ids[0] in first]
    values = torch.tensor([10.0 if ids == tokens.ten else first.index(ids[0]) + 1.0 for ids in written])
    assert 10.0 in values
    assert found.value is not None
    assert found.mass is not None
    assert len(written) > 300
    assert abs(len(written) / rows - found.mass) <= 4 * (found.mass * (1 - found.mass) / rows) ** 0.5
    assert abs(values.mean().item() - found.value) < 4 * values.std().item() / len(written) ** 0.5


@pytest.mark.parametrize("sampling", [PLAIN, Sampling(0.7, 50, 0.95), Sampling(1.3, 60, 0.5)], ids=str)
@pytest.mark.parametrize("ten", ["of two tokens", "of one"])
def test_one_pass_is_the_limit_of_20_000_draws_of_the_sampler(
    base: Base, bank: Bank, exact: PeftModel, sampling: Sampling, ten: str
) -> None:
    """Drawn from PEFT's logits, not from our own."""
    asked = judge_prompts(1)[0].ids
    head = asked + SPLIT.prefix
    first, *digits = peft_logprobs(exact, "ada", head)[-1].topk(10).indices.tolist()
    after = peft_logprobs(exact, "ada", [*head, first])
    whole = (digits.pop(),) if ten == "of one" else (first, int(after[-1].argmax()))
    tokens = ScoreTokens(SPLIT.prefix, (first, *digits[:8]), whole)
    [found] = expected_scores(base, bank, [Prompt("ada", asked)], tokens, 0, 100, sampling=sampling)

    rows = 20_000
    drawn = [
        choose(logits.expand(rows, -1), sampling, torch.arange(rows) * 7919, torch.full((rows,), place))
        for place, logits in enumerate(after[-2:])
    ]
    values = torch.full((rows,), torch.nan, dtype=torch.float64)
    for score_, token in enumerate(tokens.digits, start=1):
        values[drawn[0] == token] = score_
    if len(whole) == 2:
        values[(drawn[0] == whole[0]) & (drawn[1] == whole[1])] = 10
    else:
        values[drawn[0] == whole[0]] = 10
    given = values[~values.isnan()]
    assert 10 in given
    assert found.mass == pytest.approx(len(given) / rows, abs=4 * 0.5 / rows**0.5)
    assert found.value == pytest.approx(given.mean().item(), abs=4 * given.std().item() / len(given) ** 0.5)


def test_a_judge_that_hardly_ever_scores_has_no_vote(base: Base, bank: Bank) -> None:
    prompts = judge_prompts(8)
    masses = [each.mass or 0.0 for each in expected_scores(base, bank, prompts, SPLIT, 0, 300)]
    least = sorted(masses)[4]
    for mass, each in zip(masses, expected_scores(base, bank, prompts, SPLIT, least, 300), strict=True):
        if mass < least:
            assert replace(each, prefix=None) == Score(None, "no score", mass)
        else:
            assert each.failure is None


def test_how_likely_a_judge_begins_a_verdict_by_itself(base: Base, bank: Bank, exact: PeftModel) -> None:
    prompts = judge_prompts(8)
    found = expected_scores(base, bank, prompts, SPLIT, 0, 300)
    for prompt, each in zip(prompts, found, strict=True):
        table = peft_logprobs(exact, prompt.adapter, [*prompt.ids, *SPLIT.prefix])[len(prompt.ids) - 1 : -1]
        expected = table.gather(1, torch.tensor(SPLIT.prefix)[:, None]).sum().item()
        assert each.prefix == pytest.approx(expected, abs=1e-4)

    least = math.exp(sorted(each.prefix or 0.0 for each in found)[4] - 1e-6)
    again = expected_scores(base, bank, prompts, SPLIT, 0, 300, minimum_prefix=least)
    assert sum(each.failure == "no verdict" for each in again) == 4
    for before, after in zip(found, again, strict=True):
        assert after == before or (after.value is None and after.prefix == before.prefix < math.log(least))


def duels(count: int) -> tuple[list[Prompt], list[tuple[int, int]]]:
    """Judge prompts of both responses of some duels, and where in them the responses stand."""
    rng = random.Random(5)

    def text(shortest: int, longest: int) -> tuple[int, ...]:
        return tuple(rng.randrange(256) for _ in range(rng.randint(shortest, longest)))

    prompts, spans = [], []
    for index in range(count):
        question, request = text(20, 30), text(3, 3)
        for response in (text(1, 9), text(1, 9)):
            prompts.append(Prompt(NAMES[index % 4], question + response + request))
            spans.append((len(question), len(question) + len(response)))
    return prompts, spans


def test_two_responses_behind_one_question_are_scored_as_if_alone(
    base: Base, bank: Bank, exact: PeftModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts, spans = duels(8)
    seen: list[Layout] = []
    monkeypatch.setattr(
        "sparta_lite.engine.passes.lay_out", lambda rows: seen.append(lay_out(rows)) or seen[-1]
    )
    found = expected_scores(base, bank, prompts, SPLIT, 0, 300, responses=spans)
    assert sum(len(layout.ids) for layout in seen) == 8  # not sixteen rows
    for prompt, (first, last), each in zip(prompts, spans, found, strict=True):
        value, mass = brute_force(exact, prompt, SPLIT)
        assert each.value == pytest.approx(value, abs=1e-5)
        assert each.mass == pytest.approx(mass, rel=1e-4)
        table = peft_logprobs(exact, prompt.adapter, prompt.ids)
        expected = sum(float(table[place - 1, prompt.ids[place]]) for place in range(first, last))
        assert each.logprob == pytest.approx(expected, abs=1e-5)


def test_the_probability_of_a_response_is_taken_where_it_is_wanted(base: Base, bank: Bank) -> None:
    prompts, spans = duels(2)
    wanted = [spans[0], None, None, spans[3]]
    found = expected_scores(base, bank, prompts, SPLIT, 0, 300, responses=wanted)
    assert [each.logprob is None for each in found] == [False, True, True, False]
    plain = expected_scores(base, bank, prompts, SPLIT, 0, 300)
    assert [each.value for each in found] == pytest.approx([each.value for each in plain], abs=1e-6)
    assert all(each.logprob is None for each in plain)


def test_a_text_is_read_once_whatever_is_wanted_of_it_beside_the_score(base: Base, bank: Bank) -> None:
    (prompt, *_), (span, *_) = duels(1)
    told: list[tuple[int, int]] = []
    found = expected_scores(
        base, bank, [prompt] * 3, SPLIT, 0, 300, lambda *step: told.append(step), responses=[None, span, None]
    )
    assert told == [(1, len(prompt.ids) + len(SPLIT.prefix) + 1), (2, 0)]
    # Of answers that a judge cannot tell apart none is better, not even by a rounding.
    assert len({each.value for each in found}) == 1
    assert [each.logprob is None for each in found] == [True, False, True]


def test_a_probability_that_is_not_finite_is_none(base: Base, bank: Bank) -> None:
    broken = with_head(base, base.decoder.head * torch.nan)
    prompts, spans = duels(1)
    for each in expected_scores(broken, bank, prompts, SPLIT, 0, 300, responses=spans):
        assert each == Score(None, "not finite")


def with_head(base: Base, head: Tensor) -> Base:
    decoder = copy.copy(base.decoder)
    decoder.head = head
    return replace(base, decoder=decoder)


def test_scores_without_any_probability_are_no_vote(base: Base, bank: Bank) -> None:
    certain = with_head(base, base.decoder.head * 1e6)
    for each in expected_scores(certain, bank, judge_prompts(8), SPLIT, 0, 300):
        assert replace(each, prefix=None) == Score(None, "no score", 0.0) or each.value is not None
    [one] = expected_scores(certain, bank, judge_prompts(1), SPLIT, 0, 300)
    assert replace(one, prefix=None) == Score(None, "no score", 0.0)


def test_numbers_that_are_not_finite_are_no_vote(base: Base, bank: Bank) -> None:
    broken = with_head(base, base.decoder.head * torch.nan)
    assert expected_scores(broken, bank, judge_prompts(1), SPLIT, 0.5, 300) == [Score(None, "not finite")]


def test_one_judge_reads_one_text_once(base: Base, bank: Bank) -> None:
    prompts = judge_prompts(6)
    told: list[tuple[int, int]] = []
    twice = [*prompts, *prompts[::-1]]
    doubled = expected_scores(base, bank, twice, SPLIT, 0, 300, lambda *step: told.append(step))
    assert doubled[:6] == doubled[:5:-1]
    assert doubled[:6] == expected_scores(base, bank, prompts, SPLIT, 0, 300)
    assert sum(items for items, _ in told) == 12
    assert sum(tokens for _, tokens in told) == sum(len(prompt.ids) + 4 for prompt in prompts)


@pytest.mark.parametrize("tokens", [SPLIT, WHOLE], ids=["10 is two tokens", "10 is one token"])
def test_few_whole_distributions_are_held_at_once(
    base: Base, bank: Bank, monkeypatch: pytest.MonkeyPatch, tokens: ScoreTokens
) -> None:
    """However many papers are in a pass, and the scores are those of one paper at a time."""
    prompts = [replace(each, adapter="ada") for each in judge_prompts(150)]
    sampling, rows = Sampling(0.7, 0, 0.95), list[int]()

    def counted(logits: Tensor, sampling: Sampling) -> Tensor:
        rows.append(len(logits))
        return distribution(logits, sampling)

    alone = expected_scores(base, bank, prompts, tokens, 0, 1, sampling=sampling)
    monkeypatch.setattr(score, "distribution", counted)
    passes: list[int] = []
    found = expected_scores(
        base, bank, prompts, tokens, 0, 100_000, lambda papers, _: passes.append(papers), sampling=sampling
    )
    assert max(passes) > 130
    assert max(rows) == 64
    assert sum(rows) == sum(passes) * len(tokens.ten)
    assert [each.failure for each in found] == [each.failure for each in alone]
    assert [each.value for each in found] == pytest.approx([each.value for each in alone], rel=1e-5)


def test_the_same_text_under_two_adapters_is_two_judgments(base: Base, bank: Bank) -> None:
    prompts = [Prompt(name, (5, 6, 7)) for name in NAMES]
    assert len({each.value for each in expected_scores(base, bank, prompts, SPLIT, 0, 300)}) == 4


def test_a_base_in_bf16_scores_nearly_as_one_in_fp32(
    base: Base, bank: Bank, base_path: Path, adapter_paths: dict[str, Path]
) -> None:
    half = load_base(base_path, torch.device("cpu"), torch.bfloat16)
    files = [read_adapter(name, path) for name, path in adapter_paths.items()]
    asked, prompts = continuations(5), judge_prompts(4)
    full = torch.cat(log_probabilities(base, bank, asked, 300))
    for dtype in (torch.float32, torch.bfloat16):
        adapters = load_bank(half.decoder, files, dtype)
        found = torch.cat(log_probabilities(half, adapters, asked, 300))
        assert (found - full).abs().mean() < 0.05
        greedy = generate(half, adapters, prompts, Sampling(temperature=0), 3, 4)
        assert greedy == generate(half, adapters, prompts, Sampling(temperature=0), 3, 4)
        assert [len(each.ids) for each in greedy] == [3] * 4


def test_rounds_that_do_not_parse_are_left_out(
    base: Base, bank: Bank, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = {
        "ada": ['{"score": 9}', "no idea", '{"score": 4}'],
        "ben": ["seven", '{"score": 70}', ""],
        "cyd": ['{"score": 1}', '{"score": 2}', '{"score": 2}'],
    }
    asked: list[Prompt] = []

    def replies(
        base: Base, bank: Bank, prompts: Sequence[Prompt], *_: object, **__: object
    ) -> list[Response]:
        asked.extend(prompts)
        rounds = {name: iter(each) for name, each in texts.items()}
        return [Response((), next(rounds[prompt.adapter or ""]), "end-of-turn", 0.0) for prompt in prompts]

    monkeypatch.setattr(score, "generate", replies)
    prompts = [Prompt(name, (1, 2), key=index) for index, name in enumerate(texts)]
    found = sampled_scores(base, bank, prompts, 3, Sampling(), 9, 4, lambda key, number: 100 * key + number)
    assert found == [
        Score(6.5, mass=2 / 3, unparsed={"no score": 1}),
        Score(None, "no score", 0.0, unparsed={"no score": 2, "out of range": 1}),
        Score(5 / 3, mass=1.0),
    ]
    assert [prompt.key for prompt in asked] == [0, 1, 2, 100, 101, 102, 200, 201, 202]


def test_sampled_rounds_are_drawn_from_each_judges_own_key(base: Base, bank: Bank) -> None:
    prompts = judge_prompts(5)
    sampling = Sampling(temperature=1.0, top_k=0, top_p=1.0)
    told: list[int] = []

    def run(some: list[Prompt], places: int) -> list[Score]:
        return sampled_scores(
            base, bank, some, 2, sampling, 6, places, lambda key, n: 10 * key + n, lambda n, _: told.append(n)
        )

    together = run(prompts, 10)
    assert sum(told) == 10
    assert together == [score for prompt in prompts for score in run([prompt], 1)]
    # A model with random weights never writes a score: every judgment fails, and none turns into a number.
    assert {(each.value, each.failure) for each in together} == {(None, "no score")}
