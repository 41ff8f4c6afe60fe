"""Prompts and the completions that continue them, packed into rows that compute each prompt once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sparta_lite.errors import SpartaError

Tokens = tuple[int, ...]


@dataclass(frozen=True)
class TokenizedPair:
    """A preference as token ids; completions end with the token that ended the response."""

    prompt: Tokens
    chosen: Tokens
    rejected: Tokens


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
        cut.append(TokenizedPair(prompt, pair.chosen[:room], pair.rejected[:room]))
    both = list(zip(pairs, cut, strict=True))
    return cut, Truncation(
        prompts=sum(old.prompt != new.prompt for old, new in both),
        completions=sum(old.chosen != new.chosen or old.rejected != new.rejected for old, new in both),
    )


@dataclass(frozen=True)
class Packed:
    """Rows of one prompt and several completions each, padded to the longest row.

    A completion sees the prompt and itself, not its neighbours, and its rotary positions continue
    from the prompt: every hidden state is the one of prompt + completion alone. The last token of
    a completion predicts nothing and is left out.
    """

    ids: Tensor
    """int64 [rows, length]"""
    positions: Tensor
    """int64 [rows, length]"""
    mask: Tensor
    """bool [rows, 1, length, length], True where the query (third) may see the key (fourth).
    Padding sees itself, so that no softmax is empty."""
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
        return replace(self, **{name: tensor.to(device) for name, tensor in vars(self).items()})


def pack(rows: Sequence[tuple[Tokens, Sequence[Tokens]]], pad: int) -> Packed:
    """Pack rows of (prompt, completions), equally many completions in each row.

    Raises:
        SpartaError: a prompt or a completion is empty.
    """
    if not all(prompt and all(completions) for prompt, completions in rows):
        raise SpartaError("training: a prompt or a completion has no tokens; leave such pairs out")
    lengths = [len(prompt) + sum(len(each) - 1 for each in completions) for prompt, completions in rows]
    length = max(lengths)
    longest = max(len(each) for _, completions in rows for each in completions)
    tokens = sum(len(each) for _, completions in rows for each in completions)

    ids = torch.full((len(rows), length), pad)
    positions = torch.zeros(len(rows), length, dtype=torch.int64)
    mask = torch.eye(length, dtype=torch.bool).repeat(len(rows), 1, 1)
    cells = torch.full((len(rows), len(rows[0][1]), longest), tokens)
    sources: list[int] = []
    targets: list[int] = []
    for row, (prompt, completions) in enumerate(rows):
        start = len(prompt)
        ids[row, :start] = torch.tensor(prompt)
        positions[row, :start] = torch.arange(start)
        mask[row, : lengths[row], :start] = True
        mask[row, :start, :start].tril_()
        for number, completion in enumerate(completions):
            end = start + len(completion) - 1
            ids[row, start:end] = torch.tensor(completion[:-1], dtype=torch.int64)
            positions[row, start:end] = torch.arange(len(prompt), len(prompt) + end - start)
            mask[row, start:end, start:end] = True
            mask[row, start:end, start:end].tril_()
            cells[row, number, : len(completion)] = torch.arange(len(targets), len(targets) + len(completion))
            sources += [row * length + state for state in (len(prompt) - 1, *range(start, end))]
            targets += completion
            start = end
    return Packed(ids, positions, mask[:, None], torch.tensor(sources), torch.tensor(targets), cells)
