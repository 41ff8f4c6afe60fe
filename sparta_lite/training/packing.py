"""Preference pairs as tokens, and as rows that compute each prompt once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from sparta_lite.engine.packing import Layout, Row, Tokens, lay_out
from sparta_lite.errors import SpartaError


@dataclass(frozen=True)
class TokenizedPair:
    """A preference as token ids; completions end with the token that ended the response."""

    prompt: Tokens
    chosen: Tokens
    rejected: Tokens
    win_rate: float = field(default=1.0, kw_only=True)
    """Of chosen against rejected, 0 to 1; the loss ``sppo`` alone asks for it."""

    @property
    def tokens(self) -> int:
        """How many, all three together."""
        return len(self.prompt) + len(self.chosen) + len(self.rejected)

    @property
    def completions(self) -> tuple[Tokens, Tokens]:
        return self.chosen, self.rejected


@dataclass(frozen=True)
class Truncation:
    """How many pairs lost tokens."""

    prompts: int
    completions: int


def truncate(
    pairs: Sequence[TokenizedPair], max_length: int, max_prompt: int
) -> tuple[list[TokenizedPair], Truncation]:
    """Cut prompts from the left to ``max_prompt``, completions from the right to what then remains.

    Raises:
        SpartaError: the lengths leave no room for a prompt or for a completion.
    """
    if not 0 < max_prompt < max_length:
        raise SpartaError(
            f"training: max_prompt = {max_prompt} must be positive and below max_length = {max_length}"
        )
    cut = []
    for pair in pairs:
        prompt = pair.prompt[-max_prompt:]
        room = max_length - len(prompt)
        cut.append(replace(pair, prompt=prompt, chosen=pair.chosen[:room], rejected=pair.rejected[:room]))
    both = list(zip(pairs, cut, strict=True))
    return cut, Truncation(
        prompts=sum(old.prompt != new.prompt for old, new in both),
        completions=sum(old.chosen != new.chosen or old.rejected != new.rejected for old, new in both),
    )


@dataclass(frozen=True)
class Packed:
    """Rows of one prompt and several completions each, and where the completions' tokens are predicted.

    The last token of a completion predicts nothing and stands in no row.
    """

    layout: Layout
    sources: Tensor
    """int64 [tokens]: which of the rows * length hidden states predicts each completion token."""
    targets: Tensor
    """int64 [tokens]: those tokens, completion after completion."""
    cells: Tensor
    """int64 [rows, completions, longest]: where each completion's tokens stand in ``targets``;
    beyond its end, the number of tokens."""

    @property
    def lengths(self) -> Tensor:
        """int64 [rows, completions], tokens of each completion."""
        return (self.cells < len(self.targets)).sum(-1)

    def to(self, device: torch.device) -> Packed:
        return Packed(
            self.layout.to(device), self.sources.to(device), self.targets.to(device), self.cells.to(device)
        )


def pack(rows: Sequence[tuple[Tokens, Sequence[Tokens]]], pad: int) -> Packed:
    """Pack rows of (prompt, completions), equally many completions in each row.

    Raises:
        SpartaError: a prompt or a completion is empty.
    """
    if not all(prompt and all(completions) for prompt, completions in rows):
        raise SpartaError("training: a prompt or a completion has no tokens; leave such pairs out")
    read = [Row(prompt, tuple(each[:-1] for each in completions)) for prompt, completions in rows]
    layout = lay_out(read, pad)
    length = layout.ids.shape[1]
    targets = [token for _, completions in rows for each in completions for token in each]
    sources: list[int] = []
    cells: list[list[int]] = []
    longest = max(len(each) for _, completions in rows for each in completions)
    for number, (prompt, completions) in enumerate(rows):
        for tail, completion in enumerate(completions):
            first, tokens = len(sources), len(completion)
            states = range(len(prompt) - 1, len(prompt) - 1 + tokens)
            sources += [number * length + read[number].place(tail, state) for state in states]
            cells.append([*range(first, first + tokens), *[len(targets)] * (longest - tokens)])
    return Packed(
        layout,
        torch.tensor(sources),
        torch.tensor(targets),
        torch.tensor(cells).view(len(rows), -1, longest),
    )
