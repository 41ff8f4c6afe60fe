"""Log-probabilities of given continuations, from one forward pass over whole sequences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sparta_lite.engine.bank import Bank
from sparta_lite.engine.base import Base
from sparta_lite.engine.decode import Progress
from sparta_lite.engine.memory import OnShrink
from sparta_lite.engine.packing import Row
from sparta_lite.engine.passes import AdapterRow, Read, hidden_states, in_batches
from sparta_lite.engine.transfer import read_later, send
from sparta_lite.errors import SpartaError

_LOGIT_ROWS = 256  # rows of logits that exist at once, each as wide as the vocabulary


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
    rows = [(each.adapter, Row((), (each.prompt + each.ids,))) for each in continuations]

    def score(batch: list[int], following: str | None) -> Read:
        hidden = hidden_states(base, bank, [rows[index] for index in batch], following)
        wanted = [
            (row, len(continuations[index].prompt) - 1 + step, token)
            for row, index in enumerate(batch)
            for step, token in enumerate(continuations[index].ids)
        ]
        row, at, targets = send(wanted, hidden.device).view(-1, 3).T
        found = read_later(
            base.decoder.logprobs(hidden[row, at], targets) if wanted else hidden.new_empty(0).float()
        )

        def read() -> None:
            parts = found().split([len(continuations[index].ids) for index in batch])
            for index, part in zip(batch, parts, strict=True):
                results[index] = part
            if progress:
                progress(len(batch), sum(rows[index][1].length for index in batch))

        return read

    in_batches(rows, batch_tokens, score, on_shrink)
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
    asked: dict[AdapterRow, list[int]] = {}
    for index, each in enumerate(continuations):
        row = Row((), ((each.prompt + each.ids)[:-1],))
        asked.setdefault((each.adapter, row), []).append(index)
    rows = list(asked)

    def score(batch: list[int], following: str | None) -> Read:
        hidden = hidden_states(base, bank, [rows[index] for index in batch], following)
        indices = [(row, index) for row, place in enumerate(batch) for index in asked[rows[place]]]
        pairs = [
            (row, len(continuations[index].prompt) - 1 + step, token)
            for row, index in indices
            for step, token in enumerate(continuations[index].ids)
        ]
        found, first = [], []
        for part in send(pairs, hidden.device).split(_LOGIT_ROWS):
            targets = part[:, 2, None]
            logits = base.decoder.logits(hidden[part[:, 0], part[:, 1]]).float()  # [part, vocabulary]
            found.append((logits.gather(1, targets) - logits.logsumexp(1, keepdim=True))[:, 0].double())
            first.append(logits.argmax(1) == targets[:, 0])
        both = read_later(torch.stack([torch.cat(found), torch.cat(first).double()]))  # [2, tokens]
        computed = hidden.shape[0] * hidden.shape[1]

        def read() -> None:
            lengths = [len(continuations[index].ids) for _, index in indices]
            totals, greedy = (each.split(lengths) for each in both())
            for (_, index), total, best in zip(indices, totals, greedy, strict=True):
                if not total.isfinite().all():
                    name = continuations[index].adapter
                    who = "the bare base" if name is None else f"adapter {name!r}"
                    raise SpartaError(f"{who} gives NaN or infinite log-probabilities; get a sound copy")
                results[index] = Likelihood(total.sum().item(), bool(best.all()))
            if progress:
                progress(sum(map(len, (asked[rows[place]] for place in batch))), computed)

        return read

    in_batches(rows, batch_tokens, score, on_shrink)
    return [result for result in results if result is not None]
