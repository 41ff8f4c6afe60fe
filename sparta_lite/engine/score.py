"""One forward pass over whole sequences: log-probabilities of given continuations, and verdicts."""

from __future__ import annotations

import math
import re
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from sparta_lite.engine.attention import causal
from sparta_lite.engine.bank import Bank
from sparta_lite.engine.base import Base
from sparta_lite.engine.chat import SCORES, ScoreTokens
from sparta_lite.engine.decode import Progress, Prompt, generate
from sparta_lite.engine.memory import OnShrink, shrink_to_fit
from sparta_lite.errors import SpartaError
from sparta_lite.kernels.sampling import Sampling

Failure = Literal["too long", "no score", "not finite"]

_LOGIT_ROWS = 256  # rows of logits that exist at once, each as wide as the vocabulary
_Row = tuple[str | None, tuple[int, ...]]  # adapter and tokens
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


@dataclass(frozen=True)
class Likelihood:
    """How probable a continuation is as a whole."""

    total: float
    """Sum over its tokens of log p(token | everything before it)."""
    greedy: bool
    """Whether each of its tokens is the most probable one where it stands."""


@torch.no_grad()
def log_probabilities(
    base: Base,
    bank: Bank,
    continuations: Sequence[Continuation],
    batch_tokens: int,
    progress: Progress | None = None,
    on_shrink: OnShrink | None = None,
) -> list[Tensor]:
    """log p(token | everything before it) for every token of every continuation.

    Args:
        base: the resident base.
        bank: the adapters.
        continuations: prompts of at least one token.
        batch_tokens: tokens in one forward pass, padding included.
        progress: told after every pass.
        on_shrink: told when memory ran out and passes are smaller from now on.

    Returns:
        Per continuation float32 [tokens], on the CPU.
    """
    results: list[Tensor] = [torch.empty(0)] * len(continuations)
    rows = [(each.adapter, each.prompt + each.ids) for each in continuations]

    def score(batch: list[int], following: str | None) -> None:
        hidden = _hidden(base, bank, [rows[index] for index in batch], following)
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
            found = base.decoder.logprobs(hidden[at[:, 0], at[:, 1]], targets).cpu()
            parts = found.split([len(continuations[index].ids) for index in batch])
            for index, part in zip(batch, parts, strict=True):
                results[index] = part
        if progress:
            progress(len(batch), sum(len(rows[index][1]) for index in batch))

    _in_batches(rows, batch_tokens, score, on_shrink)
    return results


@torch.no_grad()
def likelihoods(
    base: Base,
    bank: Bank,
    continuations: Sequence[Continuation],
    batch_tokens: int,
    progress: Progress | None = None,
    on_shrink: OnShrink | None = None,
) -> list[Likelihood]:
    """The likelihood of every continuation as a whole.

    Continuations that agree in all but their last token, such as the letters of a multiple choice,
    go through the model once.

    Args:
        base: the resident base.
        bank: the adapters.
        continuations: prompts and continuations of at least one token.
        batch_tokens: tokens in one forward pass, padding included.
        progress: told after every pass.
        on_shrink: told when memory ran out and passes are smaller from now on.

    Raises:
        SpartaError: an adapter gives NaN.
    """
    results: list[Likelihood | None] = [None] * len(continuations)
    asked: dict[tuple[str | None, tuple[int, ...]], list[int]] = {}
    for index, each in enumerate(continuations):
        asked.setdefault((each.adapter, (each.prompt + each.ids)[:-1]), []).append(index)
    rows = list(asked)

    def score(batch: list[int], following: str | None) -> None:
        hidden = _hidden(base, bank, [rows[index] for index in batch], following)
        indices = [(row, index) for row, place in enumerate(batch) for index in asked[rows[place]]]
        pairs = [
            (row, len(continuations[index].prompt) - 1 + step, token)
            for row, index in indices
            for step, token in enumerate(continuations[index].ids)
        ]
        found, first = [], []
        for part in torch.tensor(pairs, device=hidden.device).split(_LOGIT_ROWS):
            targets = part[:, 2, None]
            logits = base.decoder.logits(hidden[part[:, 0], part[:, 1]]).float()  # [part, vocabulary]
            found.append((logits.gather(1, targets) - logits.logsumexp(1, keepdim=True))[:, 0].double())
            first.append(logits.argmax(1) == targets[:, 0])
        lengths = [len(continuations[index].ids) for _, index in indices]
        totals = torch.cat(found).cpu().split(lengths)
        greedy = torch.cat(first).cpu().split(lengths)
        for (_, index), total, best in zip(indices, totals, greedy, strict=True):
            if not total.isfinite().all():
                name = continuations[index].adapter
                who = "the bare base" if name is None else f"adapter {name!r}"
                raise SpartaError(f"{who} gives NaN or infinite log-probabilities; get a sound copy")
            results[index] = Likelihood(total.sum().item(), bool(best.all()))
        if progress:
            progress(
                sum(map(len, (asked[rows[place]] for place in batch))), hidden.shape[0] * hidden.shape[1]
            )

    _in_batches(rows, batch_tokens, score, on_shrink)
    return [result for result in results if result is not None]


@torch.no_grad()
def expected_scores(
    base: Base,
    bank: Bank,
    prompts: Sequence[Prompt],
    tokens: ScoreTokens,
    minimum_mass: float,
    batch_tokens: int,
    progress: Progress | None = None,
    on_shrink: OnShrink | None = None,
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
        on_shrink: told when memory ran out and passes are smaller from now on.
    """
    asked = [(prompt.adapter, (*prompt.ids, *tokens.prefix, tokens.digits[0])) for prompt in prompts]
    rows = list(dict.fromkeys(asked))  # one judge reading one text twice cannot differ
    scores: dict[tuple[str | None, tuple[int, ...]], Score] = {}
    values = torch.tensor(SCORES, dtype=torch.float64)

    def score(batch: list[int], following: str | None) -> None:
        ends = [len(rows[index][1]) for index in batch]
        keep = torch.tensor([[end - 2, end - 1] for end in ends], device=base.decoder.device)
        hidden = _hidden(base, bank, [rows[index] for index in batch], following, keep)  # [rows, 2, hidden]
        first = base.decoder.logits(hidden[:, 0]).float().softmax(-1)
        chances = first[:, list(tokens.digits)].double().cpu()  # [rows, 9]
        if len(tokens.ten) == 1:
            ten = first[:, tokens.ten[0]].double().cpu()
        else:
            second = base.decoder.logits(hidden[:, 1]).float().softmax(-1)
            ten = chances[:, 0] * second[:, tokens.ten[1]].double().cpu()
            chances[:, 0] -= ten
        chances = torch.cat([chances, ten[:, None]], dim=1)  # [rows, 10]
        mass = chances.sum(1)
        means = ((chances * values).sum(1) / mass).tolist()
        for index, mean, total in zip(batch, means, mass.tolist(), strict=True):
            scores[rows[index]] = _verdict(mean, total, minimum_mass)
        if progress:
            progress(len(batch), sum(len(rows[index][1]) for index in batch))

    _in_batches(rows, batch_tokens, score, on_shrink)
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
    on_shrink: OnShrink | None = None,
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
        on_shrink: told when memory ran out and there are fewer places from now on.
    """
    asked = [
        replace(prompt, key=round_key(prompt.key, number)) for prompt in prompts for number in range(rounds)
    ]
    replies = generate(base, bank, asked, sampling, max_new_tokens, places, progress, on_shrink=on_shrink)
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


def _in_batches(
    rows: Sequence[_Row],
    batch_tokens: int,
    score: Callable[[list[int], str | None], None],
    on_shrink: OnShrink | None,
) -> None:
    """Give every row to ``score``, as indices, in smaller batches from the first on that did not fit.

    ``score`` also learns whose batch comes next.
    """
    waiting = deque(
        sorted(range(len(rows)), key=lambda index: (rows[index][0] or "", len(rows[index][1]), index))
    )

    def attempt(size: int) -> int:
        batch = _batch(rows, waiting, size)
        following = rows[waiting[len(batch)]][0] if len(batch) < len(waiting) else None
        score(batch, following)
        return len(batch)

    while waiting:
        batch = _batch(rows, waiting, batch_tokens)
        least, longest = len(rows[batch[0]][1]), len(rows[batch[-1]][1])
        tokens = len(batch) * longest
        done, size = shrink_to_fit(
            attempt,
            tokens,
            least=least,
            phase="scoring",
            advice=f"one row of {least} tokens does not fit; lower its length, or tribe.resident",
            on_shrink=on_shrink,
        )
        batch_tokens = size if size < tokens else batch_tokens
        for _ in range(done):
            waiting.popleft()


def _batch(rows: Sequence[_Row], order: Iterable[int], batch_tokens: int) -> list[int]:
    """The first rows of ``order`` that can go through together: of one adapter, at least one."""
    batch: list[int] = []
    for index in order:
        adapter, ids = rows[index]
        if batch and (adapter != rows[batch[0]][0] or (len(batch) + 1) * len(ids) > batch_tokens):
            break
        batch.append(index)
    return batch


def _hidden(
    base: Base, bank: Bank, rows: Sequence[_Row], following: str | None, keep: Tensor | None = None
) -> Tensor:
    """Hidden states of a batch padded on the right, [rows, longest, hidden], or those at ``keep`` alone.

    The adapter of the ``following`` batch comes in meanwhile.
    """
    longest = max(len(ids) for _, ids in rows)
    padded = [[*ids, *[0] * (longest - len(ids))] for _, ids in rows]
    ids = torch.tensor(padded, dtype=torch.int64, device=base.decoder.device)
    positions = torch.arange(longest, device=ids.device).expand_as(ids)
    lora = bank.lora([adapter for adapter, _ in rows])
    hidden = base.decoder.hidden(ids, positions, causal, lora, keep)
    bank.prefetch([following])
    return hidden
