"""One forward pass over whole sequences: log-probabilities of given continuations, and verdicts."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from sparta_lite.engine.bank import Bank
from sparta_lite.engine.base import Base
from sparta_lite.engine.chat import SCORES, ScoreTokens
from sparta_lite.engine.decode import Progress, Prompt, generate
from sparta_lite.kernels.logprob import token_logprobs
from sparta_lite.kernels.sampling import Sampling

Failure = Literal["too long", "no score", "not finite"]

_PARSED = re.compile(r'\{\s*"score"\s*:\s*(10|[1-9])\s*\}')


@dataclass(frozen=True)
class Score:
    """One judge's score of one response."""

    value: float | None
    """1 to 10; None when the judgment failed."""
    failure: Failure | None = None
    mass: float | None = None
    """Probability that the judge gives any score at all; in sampled rounds the share that parsed."""


@dataclass(frozen=True)
class Continuation:
    """Tokens whose probability is asked for."""

    adapter: str | None
    prompt: tuple[int, ...]
    ids: tuple[int, ...]


@torch.no_grad()
def log_probabilities(
    base: Base,
    bank: Bank,
    continuations: Sequence[Continuation],
    batch_tokens: int,
    progress: Progress | None = None,
) -> list[Tensor]:
    """log p(token | everything before it) for every token of every continuation.

    Args:
        base: the resident base.
        bank: the adapters.
        continuations: prompts of at least one token.
        batch_tokens: tokens in one forward pass, padding included.
        progress: told after every pass.

    Returns:
        Per continuation float32 [tokens], on the CPU.
    """
    results: list[Tensor] = [torch.empty(0)] * len(continuations)
    rows = [(each.adapter, each.prompt + each.ids) for each in continuations]
    for batch in _batches(rows, batch_tokens):
        hidden = _hidden(base, bank, [rows[index] for index in batch])
        pairs = [
            (row, len(continuations[index].prompt) - 1 + step)
            for row, index in enumerate(batch)
            for step in range(len(continuations[index].ids))
        ]
        if pairs:
            at = torch.tensor(pairs, device=hidden.device)
            targets = torch.tensor(
                [token for index in batch for token in continuations[index].ids], device=hidden.device
            )
            found = token_logprobs(hidden[at[:, 0], at[:, 1]], base.decoder.head, targets).cpu()
            parts = found.split([len(continuations[index].ids) for index in batch])
            for index, part in zip(batch, parts, strict=True):
                results[index] = part
        if progress:
            progress(len(batch), sum(len(rows[index][1]) for index in batch))
    return results


@torch.no_grad()
def expected_scores(
    base: Base,
    bank: Bank,
    prompts: Sequence[Prompt],
    tokens: ScoreTokens,
    minimum_mass: float,
    batch_tokens: int,
    progress: Progress | None = None,
) -> list[Score]:
    """The expected score over 1..10 of every judge prompt, from one forward pass each.

    The forced prefix is followed by the token of 1; the last position but one holds the
    distribution over the first digit, the last one tells 10 from 1. It is the limit of the
    paper's mean over many sampled rounds.

    Args:
        base: the resident base.
        bank: the adapters.
        prompts: what the judges read, without the forced prefix.
        tokens: how the tokenizer writes scores.
        minimum_mass: a judge that gives less than this probability to all scores together has
            failed, which is no vote.
        batch_tokens: tokens in one forward pass, padding included.
        progress: told after every pass.
    """
    asked = [(prompt.adapter, (*prompt.ids, *tokens.prefix, tokens.digits[0])) for prompt in prompts]
    rows = list(dict.fromkeys(asked))  # one judge reading one text twice cannot differ
    scores: dict[tuple[str | None, tuple[int, ...]], Score] = {}
    values = torch.tensor(SCORES, dtype=torch.float64)
    for batch in _batches(rows, batch_tokens):
        ends = [len(rows[index][1]) for index in batch]
        keep = torch.tensor([[end - 2, end - 1] for end in ends], device=base.decoder.device)
        hidden = _hidden(base, bank, [rows[index] for index in batch], keep)  # [rows, 2, hidden]
        first = base.decoder.logits(hidden[:, 0]).float().softmax(-1).double().cpu()
        chances = first[:, list(tokens.digits)]  # [rows, 9]
        if len(tokens.ten) == 1:
            ten = first[:, tokens.ten[0]]
        else:
            second = base.decoder.logits(hidden[:, 1]).float().softmax(-1).double().cpu()
            ten = chances[:, 0] * second[:, tokens.ten[1]]
            chances[:, 0] -= ten
        chances = torch.cat([chances, ten[:, None]], dim=1)  # [rows, 10]
        mass = chances.sum(1)
        means = ((chances * values).sum(1) / mass).tolist()
        for index, mean, total in zip(batch, means, mass.tolist(), strict=True):
            scores[rows[index]] = _verdict(mean, total, minimum_mass)
        if progress:
            progress(len(batch), sum(len(rows[index][1]) for index in batch))
    if progress:
        progress(len(prompts) - len(rows), 0)
    return [scores[row] for row in asked]


def sampled_scores(
    base: Base,
    bank: Bank,
    prompts: Sequence[Prompt],
    rounds: int,
    sampling: Sampling,
    max_new_tokens: int,
    places: int,
    round_key: Callable[[int, int], int],
    progress: Progress | None = None,
) -> list[Score]:
    """Scores by sampled rounds, as published: the mean over the rounds that parsed.

    Args:
        base: the resident base.
        bank: the adapters.
        prompts: what the judges read.
        rounds: how often each judge is asked.
        sampling: how a round is drawn.
        max_new_tokens: where a round is cut off.
        places: rows in one batch.
        round_key: random key of (prompt's key, round).
        progress: told after every step.
    """
    asked = [
        replace(prompt, key=round_key(prompt.key, number)) for prompt in prompts for number in range(rounds)
    ]
    replies = generate(base, bank, asked, sampling, max_new_tokens, places, progress)
    scores = []
    for start in range(0, len(replies), rounds):
        found = [parse_score(reply.text) for reply in replies[start : start + rounds]]
        valid = [score for score in found if score is not None]
        if valid:
            scores.append(Score(sum(valid) / len(valid), mass=len(valid) / rounds))
        else:
            scores.append(Score(None, "no score", 0.0))
    return scores


def parse_score(text: str) -> int | None:
    """The first ``{"score": n}`` of a reply with n in 1..10, else None."""
    match = _PARSED.search(text)
    return int(match[1]) if match else None


def _verdict(mean: float, mass: float, minimum_mass: float) -> Score:
    if not math.isfinite(mass):
        return Score(None, "not finite")
    if mass == 0 or mass < minimum_mass:
        return Score(None, "no score", mass)
    return Score(mean, mass=mass)


def _batches(rows: Sequence[tuple[str | None, tuple[int, ...]]], batch_tokens: int) -> Iterator[list[int]]:
    """Indices of rows that go through together: of one adapter, of similar length."""
    order = sorted(range(len(rows)), key=lambda index: (rows[index][0] or "", len(rows[index][1]), index))
    batch: list[int] = []
    for index in order:
        adapter, ids = rows[index]
        if batch and (adapter != rows[batch[0]][0] or (len(batch) + 1) * len(ids) > batch_tokens):
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def _hidden(
    base: Base, bank: Bank, rows: Sequence[tuple[str | None, tuple[int, ...]]], keep: Tensor | None = None
) -> Tensor:
    """Hidden states of a batch padded on the right, [rows, longest, hidden], or those at ``keep`` alone."""
    longest = max(len(ids) for _, ids in rows)
    padded = [[*ids, *[0] * (longest - len(ids))] for _, ids in rows]
    ids = torch.tensor(padded, dtype=torch.int64, device=base.decoder.device)
    positions = torch.arange(longest, device=ids.device).expand_as(ids)
    lora = bank.lora([adapter for adapter, _ in rows])
    return base.decoder.hidden(ids, positions, _causal, lora, keep)


def _causal(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=q.shape[1] != k.shape[1])
