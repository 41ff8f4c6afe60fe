"""Verdicts: the expected score from one forward pass, or scores from sampled rounds."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from sparta_lite.engine.bank import Bank
from sparta_lite.engine.base import Base
from sparta_lite.engine.chat import SCORES, ScoreTokens
from sparta_lite.engine.decode import Progress, Prompt, generate
from sparta_lite.engine.memory import OnShrink
from sparta_lite.engine.packing import share
from sparta_lite.engine.passes import Read, hidden_states, in_batches
from sparta_lite.engine.response import Failure, Response
from sparta_lite.engine.transfer import read_later, send
from sparta_lite.engine.verdict_text import Unparsed, read_verdict
from sparta_lite.kernels.sampling import PLAIN, Sampling, distribution

_SORTED_AT_ONCE = 64
"""States whose whole distributions are held: sorted, in float64, they take as much as the memory plan has."""

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
    prefix: float | None = None
    """log p(forced prefix) under the judge, at temperature 1 with nothing cut off: whether it would have
    begun a verdict by itself. None where the prefix is not forced."""
    unparsed: Mapping[Unparsed, int] = field(default_factory=dict)
    """Why sampled rounds gave no score -> how many of them."""


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
    sampling: Sampling = PLAIN,
    minimum_prefix: float = 0.0,
) -> list[Score]:
    """The expected score over 1..10 of every judge prompt, from one forward pass each.

    The forced prefix is followed by the token of 1; the last position but one holds the
    distribution over the first digit, the last one tells 10 from 1. It is the limit of the mean over
    many rounds that begin with the prefix and are sampled with ``sampling``. What two prompts of one
    judge have in common at their beginning, those of the two responses of a duel above all, is
    computed once.

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
        sampling: with which the rounds would be drawn, whose limit is taken.
        minimum_prefix: a judge that would begin with the forced prefix with less than this probability
            has failed, which is no vote.
    """
    papers = [
        _Paper(prompt.adapter, (*prompt.ids, *tokens.prefix, tokens.digits[0]), len(tokens.prefix), response)
        for prompt, response in zip(prompts, responses or [None] * len(prompts), strict=True)
    ]
    # One judge reading one text twice cannot differ, whatever is wanted of it beside the score.
    read = list(dict.fromkeys(sorted(papers, key=lambda paper: paper.response is None)))
    packed = share(base.decoder, [(paper.adapter, paper.ids) for paper in read], batch_tokens)
    rows = [(read[members[0]].adapter, row) for members, row in packed]
    scores: dict[_Paper, Score] = {}
    device = base.decoder.device

    def score(batch: list[int], following: str | None) -> Read:
        kept: list[list[int]] = [[] for _ in batch]  # which of every row's states are wanted
        found: list[tuple[_Paper, int, int]] = []  # paper, row, and where its states begin in ``kept``
        for place, (members, row) in enumerate(packed[index] for index in batch):
            for tail, paper in enumerate(read[member] for member in members):
                found.append((paper, place, len(kept[place])))
                kept[place] += [row.place(tail, state) for state in paper.states]
        most = max(map(len, kept))
        keep = send([[*states, *[0] * (most - len(states))] for states in kept], device)  # [rows, most]
        starts = [place * most + start for _, place, start in found]
        behind = [start + 2 + len(tokens.prefix) for start in starts]
        papers = [paper for paper, *_ in found]
        hidden = hidden_states(base, bank, [rows[index] for index in batch], following, keep)
        hidden = hidden.flatten(0, 1)  # [rows * most, hidden]
        given = [
            _chances(base, hidden, send(starts, device), tokens, sampling),
            _logprobs(base, hidden, [(start + 2, tokens.prefix) for start in starts]),
            _logprobs(base, hidden, [(at, paper.answer) for paper, at in zip(papers, behind, strict=True)]),
        ]
        arriving = read_later(torch.cat([each.flatten() for each in given]))

        def take_in() -> None:
            chances, prefixes, answers = arriving().split([each.numel() for each in given])
            chances = chances.view(-1, len(SCORES))
            mass = chances.sum(1).clamp(max=1.0)  # rounding may have added to it
            means = (chances * torch.tensor(SCORES, dtype=torch.float64)).sum(1) / chances.sum(1)
            for paper, mean, total, prefix, logprob in zip(
                papers,
                means.tolist(),
                mass.tolist(),
                _totals(prefixes, [paper.forced for paper in papers]),
                _totals(answers, [len(paper.answer) for paper in papers]),
                strict=True,
            ):
                verdict = _verdict(mean, total, minimum_mass, prefix, minimum_prefix)
                scores[paper] = replace(verdict, logprob=logprob)
            if progress:
                progress(len(papers), sum(rows[index][1].length for index in batch))

        return take_in

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
    forced: int
    """Tokens of the forced prefix."""
    response: Span | None = field(compare=False)

    @property
    def states(self) -> list[int]:
        """Positions of the wanted states: before and at the token of 1, before each token of the prefix, and
        before each of the response."""
        one = len(self.ids) - 1
        first, last = self.response or (0, 0)
        return [one - 1, one, *range(one - self.forced - 1, one - 1), *range(first - 1, last - 1)]

    @property
    def answer(self) -> tuple[int, ...]:
        """Tokens of the response whose log-probability is wanted."""
        return () if self.response is None else self.ids[slice(*self.response)]


def _chances(base: Base, hidden: Tensor, before: Tensor, tokens: ScoreTokens, sampling: Sampling) -> Tensor:
    """Probabilities of the scores 1 to 10, float64 [papers, 10].

    Args:
        base: the resident base.
        hidden: [states, hidden].
        before: int64 [papers], which state stands before each token of 1; the next one stands at it.
        tokens: how the tokenizer writes scores.
        sampling: of the rounds.
    """
    first = _probabilities(base, hidden[before], (*tokens.digits, tokens.ten[0]), sampling)  # [papers, 10]
    if len(tokens.ten) == 2:
        second = _probabilities(base, hidden[before + 1], tokens.ten[1:], sampling)[:, 0]
        first[:, 9] = first[:, 0] * second
        first[:, 0] -= first[:, 9]
    return first


def _probabilities(base: Base, hidden: Tensor, tokens: Sequence[int], sampling: Sampling) -> Tensor:
    """How likely each of ``tokens`` is drawn next, float64 [states, tokens].

    Args:
        base: the resident base.
        hidden: [states, hidden].
        tokens: what may be drawn.
        sampling: how.
    """
    asked = send(tokens, hidden.device)
    found = [
        distribution(base.decoder.logits(part), sampling)[:, asked] for part in hidden.split(_SORTED_AT_ONCE)
    ]
    return torch.cat(found)


def _logprobs(base: Base, hidden: Tensor, wanted: Sequence[tuple[int, Sequence[int]]]) -> Tensor:
    """log p of every token of some sequences, one sequence behind the other, float64 [tokens].

    Args:
        base: the resident base.
        hidden: [states, hidden].
        wanted: tokens, with the state that predicts the first of them; the next states predict the others.
    """
    states = [start + step for start, tokens in wanted for step in range(len(tokens))]
    targets = [token for _, tokens in wanted for token in tokens]
    if not targets:
        return hidden.new_empty(0, dtype=torch.float64)
    at, asked = send([states, targets], hidden.device)
    return base.decoder.logprobs(hidden[at], asked).double()


def _totals(logprobs: Tensor, lengths: Sequence[int]) -> list[float | None]:
    """log p of each sequence of so many tokens, None where it is empty or its log p is not finite."""
    totals = [float(part.sum()) for part in logprobs.split(list(lengths))]
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
        found = [read_verdict(_whole_text(base, forced, reply)) for reply in replies[start : start + rounds]]
        valid = [each.score for each in found if each.score is not None]
        lost = dict(Counter(each.unparsed for each in found if each.unparsed is not None))
        if valid:
            scores.append(Score(sum(valid) / len(valid), mass=len(valid) / rounds, unparsed=lost))
        else:
            scores.append(Score(None, "no score", 0.0, unparsed=lost))
    return scores


def _whole_text(base: Base, forced: tuple[int, ...], reply: Response) -> str:
    if not forced:
        return reply.text
    text: str = base.tokenizer.decode([*forced, *reply.ids], skip_special_tokens=True)
    return text


def _verdict(
    mean: float, mass: float, minimum_mass: float, prefix: float | None, minimum_prefix: float
) -> Score:
    if not math.isfinite(mass):
        return Score(None, "not finite")
    if mass == 0 or mass < minimum_mass:
        return Score(None, "no score", mass, prefix=prefix)
    if minimum_prefix and (prefix is None or prefix < math.log(minimum_prefix)):
        return Score(None, "no verdict", mass, prefix=prefix)
    return Score(mean, mass=mass, prefix=prefix)
