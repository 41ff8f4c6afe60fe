"""Verdicts: the expected score from one forward pass, or scores from sampled rounds."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from sparta_lite.engine.bank import Bank
from sparta_lite.engine.base import Base
from sparta_lite.engine.chat import SCORES, ScoreTokens
from sparta_lite.engine.decode import Progress, Prompt, generate
from sparta_lite.engine.memory import OnShrink
from sparta_lite.engine.packing import share
from sparta_lite.engine.passes import hidden_states, in_batches
from sparta_lite.engine.response import Failure, Response
from sparta_lite.engine.verdict_text import parse_score
from sparta_lite.kernels.sampling import Sampling

Span = tuple[int, int]
"""The first token, and the one behind the last."""


@dataclass(frozen=True)
class Score:
    """One judge's score of one response."""

    value: float | None
    """1 to 10; None when the judgment failed."""
    failure: Failure | None = None
    mass: float | None = None
    """Probability that the judge gives any score at all; in sampled rounds the share that parsed."""
    logprob: float | None = None
    """log p(response | what stands before it) under the judge, over all its tokens; None: not taken."""


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
    responses: Sequence[Span | None] | None = None,
) -> list[Score]:
    """The expected score over 1..10 of every judge prompt, from one forward pass each.

    The forced prefix is followed by the token of 1; the last position but one holds the
    distribution over the first digit, the last one tells 10 from 1. It is the limit of the
    paper's mean over many sampled rounds. What two prompts of one judge have in common at their
    beginning, those of the two responses of a duel above all, is computed once.

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
        responses: where in each prompt, behind its first token, a response stands whose log-probability
            under the judge is wanted as well; None: nowhere.
    """
    papers = [
        _Paper(prompt.adapter, (*prompt.ids, *tokens.prefix, tokens.digits[0]), response)
        for prompt, response in zip(prompts, responses or [None] * len(prompts), strict=True)
    ]
    # One judge reading one text twice cannot differ, whatever is wanted of it beside the score.
    read = list(dict.fromkeys(sorted(papers, key=lambda paper: paper.response is None)))
    packed = share(base.decoder, [(paper.adapter, paper.ids) for paper in read], batch_tokens)
    rows = [(read[members[0]].adapter, row) for members, row in packed]
    scores: dict[_Paper, Score] = {}

    def score(batch: list[int], following: str | None) -> None:
        kept: list[list[int]] = [[] for _ in batch]  # which of every row's states are wanted
        found: list[tuple[_Paper, int, int]] = []  # paper, row, and where its states begin in ``kept``
        for place, (members, row) in enumerate(packed[index] for index in batch):
            for tail, paper in enumerate(read[member] for member in members):
                found.append((paper, place, len(kept[place])))
                kept[place] += [row.place(tail, state) for state in paper.states]
        most = max(map(len, kept))
        keep = torch.tensor([[*states, *[0] * (most - len(states))] for states in kept])
        keep = keep.to(base.decoder.device)  # [rows, most]
        hidden = hidden_states(base, bank, [rows[index] for index in batch], following, keep)
        hidden = hidden.flatten(0, 1)  # [rows * most, hidden]
        starts = [place * most + start for _, place, start in found]
        chances = _chances(base, hidden, starts, tokens)
        mass = chances.sum(1)
        means = (chances * torch.tensor(SCORES, dtype=torch.float64)).sum(1) / mass
        logprobs = _response_logprobs(
            base, hidden, [(start + 2, paper) for (paper, *_), start in zip(found, starts, strict=True)]
        )
        for (paper, *_), mean, total, logprob in zip(
            found, means.tolist(), mass.tolist(), logprobs, strict=True
        ):
            scores[paper] = replace(_verdict(mean, total, minimum_mass), logprob=logprob)
        if progress:
            progress(len(found), sum(rows[index][1].length for index in batch))

    in_batches(rows, batch_tokens, score, on_shrink)
    if progress:
        progress(len(papers) - len(read), 0)
    taken = {paper: paper.response for paper in read}
    return [
        scores[paper] if paper.response == taken[paper] else replace(scores[paper], logprob=None)
        for paper in papers
    ]


@dataclass(frozen=True)
class _Paper:
    """What one judge reads."""

    adapter: str | None
    ids: tuple[int, ...]
    """The judge's prompt, the forced prefix and the token of 1."""
    response: Span | None = field(compare=False)

    @property
    def states(self) -> list[int]:
        """Positions of the wanted states: before and at the token of 1, and before each of the response."""
        ends = [len(self.ids) - 2, len(self.ids) - 1]
        return ends if self.response is None else [*ends, *range(self.response[0] - 1, self.response[1] - 1)]


def _chances(base: Base, hidden: Tensor, starts: Sequence[int], tokens: ScoreTokens) -> Tensor:
    """Probabilities of the scores 1 to 10, float64 [papers, 10] on the CPU.

    Args:
        base: the resident base.
        hidden: [states, hidden].
        starts: per paper, which state stands before its token of 1; the next one stands at it.
        tokens: how the tokenizer writes scores.
    """
    before = torch.tensor(starts, device=hidden.device)
    first = base.decoder.logits(hidden[before]).float().softmax(-1)  # [papers, vocabulary]
    digits = first[:, list(tokens.digits)].double().cpu()
    if len(tokens.ten) == 1:
        ten = first[:, tokens.ten[0]].double().cpu()
    else:
        second = base.decoder.logits(hidden[before + 1]).float().softmax(-1)
        ten = digits[:, 0] * second[:, tokens.ten[1]].double().cpu()
        digits[:, 0] -= ten
    return torch.cat([digits, ten[:, None]], dim=1)


def _response_logprobs(
    base: Base, hidden: Tensor, papers: Sequence[tuple[int, _Paper]]
) -> list[float | None]:
    """Each paper's log p(response), None where none is wanted or it is not finite.

    Args:
        base: the resident base.
        hidden: [states, hidden].
        papers: with the state that predicts the first token of each one's response.
    """
    spans = [paper.response or (0, 0) for _, paper in papers]
    lengths = [last - first for first, last in spans]
    if not any(lengths):
        return [None] * len(papers)
    states = [
        start + step for (start, _), length in zip(papers, lengths, strict=True) for step in range(length)
    ]
    targets = [
        token
        for (_, paper), (first, last) in zip(papers, spans, strict=True)
        for token in paper.ids[first:last]
    ]
    at, wanted = torch.tensor([states, targets], device=hidden.device)
    found = base.decoder.logprobs(hidden[at], wanted).double().cpu()
    totals = [float(part.sum()) for part in found.split(lengths)]
    return [
        total if length and math.isfinite(total) else None
        for total, length in zip(totals, lengths, strict=True)
    ]


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
    forced: tuple[int, ...] = (),
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
        forced: tokens that every reply begins with, such as ``ScoreTokens.prefix``.
    """
    asked = [
        Prompt(prompt.adapter, prompt.ids + forced, round_key(prompt.key, number))
        for prompt in prompts
        for number in range(rounds)
    ]
    replies = generate(base, bank, asked, sampling, max_new_tokens, places, progress, on_shrink=on_shrink)
    scores = []
    for start in range(0, len(replies), rounds):
        texts = [_whole_text(base, forced, reply) for reply in replies[start : start + rounds]]
        found = [parse_score(text) for text in texts]
        valid = [score for score in found if score is not None]
        if valid:
            scores.append(Score(sum(valid) / len(valid), mass=len(valid) / rounds))
        else:
            scores.append(Score(None, "no score", 0.0))
    return scores


def _whole_text(base: Base, forced: tuple[int, ...], reply: Response) -> str:
    if not forced:
        return reply.text
    text: str = base.tokenizer.decode([*forced, *reply.ids], skip_special_tokens=True)
    return text


def _verdict(mean: float, mass: float, minimum_mass: float) -> Score:
    if not math.isfinite(mass):
        return Score(None, "not finite")
    if mass == 0 or mass < minimum_mass:
        return Score(None, "no score", mass)
    return Score(mean, mass=mass)
