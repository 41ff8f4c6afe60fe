"""The next token of every row: what the model needs for it stays on the device."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from sparta_lite.engine.bank import Bank
from sparta_lite.engine.cache import Cache, Prefill, Step
from sparta_lite.engine.graphs import Graphs
from sparta_lite.engine.model import Decoder, FusedDecoder
from sparta_lite.engine.sites import Lora
from sparta_lite.engine.transfer import send
from sparta_lite.kernels import choice
from sparta_lite.kernels.sampling import Sampling, choose
from sparta_lite.kernels.segments import Segments


class Steps:
    """Draws tokens for the rows in the first places of a cache.

    Every call gives what it drew, float64 [2, rows]: the token, and its log-probability at temperature 1
    with nothing cut off, which is not finite where the logits are not. No call waits for the device, nor
    does a step need anything that its last one drew: that is in ``_table``.

    A row that nobody reads any more may go on: it writes to its own place alone, never behind its end.
    """

    def __init__(self, decoder: Decoder, bank: Bank, cache: Cache, sampling: Sampling) -> None:
        self._decoder, self.bank, self._cache, self._sampling = decoder, bank, cache, sampling
        self._places = cache.places
        # Of every place: the newest token, where it will stand, the key of its random numbers, their counter.
        self._table = torch.zeros(4, cache.places, dtype=torch.int64, device=decoder.device)
        self._routed: tuple[list[str | None], Lora | None] = ([], None)
        self._graphs = Graphs() if recordable(decoder, bank) else None
        self._tables: dict[int, Segments] = {}

    @property
    def recordable(self) -> bool:
        """Whether steps are recorded, which makes them worth keeping."""
        return self._graphs is not None

    @property
    def capacity(self) -> int:
        """Positions that a row may have."""
        return self._cache.capacity

    def serve(self, decoder: Decoder, bank: Bank, places: int, capacity: int) -> bool:
        """Whether these steps do for other rows: on the same weights in the same memory, and with no more
        places and positions than there are."""
        same = self._decoder is decoder and self.bank.layers is bank.layers
        return same and places <= self._cache.places and capacity <= self._cache.capacity

    def begin_anew(self, sampling: Sampling, places: int) -> None:
        """Forget all rows; the next ones are drawn with ``sampling``, in so many of the places."""
        self._sampling, self._places = sampling, places
        self._table.zero_()

    def begin(
        self,
        places: Sequence[int],
        prompts: Sequence[Sequence[int]],
        keys: Sequence[int],
        lora: Lora | None,
    ) -> Tensor:
        """Read prompts into their places and draw the first token of each.

        Args:
            places: one per prompt.
            prompts: at least one token each.
            keys: of the rows' random numbers.
            lora: the prompts' adapters, in the order of ``prompts``.
        """
        longest = max(map(len, prompts))
        ids = send([[*prompt, *[0] * (longest - len(prompt))] for prompt in prompts], self._decoder.device)
        at, lengths, draws = send([places, [len(prompt) for prompt in prompts], keys], ids.device)
        positions = torch.arange(longest, device=ids.device).expand_as(ids)
        mixing = Prefill(self._cache, at, lengths)
        hidden = self._decoder.hidden(ids, positions, mixing, lora, lengths[:, None] - 1)
        counters = torch.zeros_like(draws)
        tokens, drawn = self._draw(hidden, draws, counters)
        self._table[:, at] = torch.stack([tokens, lengths, draws, counters + 1])
        return drawn

    def advance(self, names: Sequence[str | None], longest: int) -> Tensor:
        """Draw one more token for every row.

        Args:
            names: the rows' adapters.
            longest: positions of the longest row, the newest token included.
        """
        rows = len(names)
        if self._graphs is None or not self._graphs.usable or not _by_triton(self._decoder):
            if list(names) != self._routed[0]:
                self._routed = list(names), self.bank.lora(names)
            return self._step(rows, self._routed[1], longest)
        # A few sizes serve all: rows are added that compute for nobody. How many must not depend on what an
        # earlier call has left: a killed run finds nothing, and kernels may round by the size.
        size = min(smallest(rows), self._places)
        lora = self._in_place([*names, *[None] * (size - rows)])
        name = (size, lora is None, self._sampling)
        drawn = self._graphs.run(name, lambda: self._step(size, lora, self._cache.capacity))
        return drawn[:, :rows]

    def move(self, source: int, target: int, positions: int) -> None:
        """Let the row in ``source``, of so many cached positions, go on in ``target``; empty ``source``."""
        if source != target:
            self._cache.move(source, target, positions)
            self._table[:, target] = self._table[:, source]
        self._table[:, source] = 0

    def close(self) -> None:
        """Give the memory of recorded steps back."""
        if self._graphs is not None:
            self._graphs.close()

    def _step(self, rows: int, lora: Lora | None, longest: int) -> Tensor:
        newest, lengths, keys, counters = self._table[:, :rows]
        mixing = Step(self._cache, lengths, longest)
        hidden = self._decoder.hidden(newest[:, None], lengths[:, None], mixing, lora)
        tokens, drawn = self._draw(hidden, keys, counters)
        newest.copy_(tokens)
        counters.add_(1)
        lengths.add_(1).clamp_(max=self._cache.capacity - 1)  # a row that is over goes on where it ended
        return drawn

    def _draw(self, hidden: Tensor, keys: Tensor, counters: Tensor) -> tuple[Tensor, Tensor]:
        logits = self._decoder.logits(hidden[:, 0]).float()  # [rows, vocabulary]
        tokens = choose(logits, self._sampling, keys, counters)
        logprobs = -F.cross_entropy(logits, tokens, reduction="none")
        return tokens, torch.stack([tokens.double(), logprobs.double()])

    def _in_place(self, names: list[str | None]) -> Lora | None:
        """The adapters of a recorded step: each size has its tables, which serve ``names`` from now on."""
        if names != self._routed[0]:
            lora = self.bank.lora(names)
            if lora is not None:
                lora[1].adopt(1, self._tables.setdefault(len(names), lora[1].segments(1)))
            self._routed = names, lora
        return self._routed[1]


def smallest(rows: int) -> int:
    """The rows of the smallest recorded step that has room for so many."""
    return 1 << (rows - 1).bit_length()


def recordable(decoder: Decoder, bank: Bank) -> bool:
    """Whether a step reads nothing but tensors that stay where they are: no window, no grid of plain torch,
    no module of transformers."""
    return (
        decoder.device.type == "cuda"
        and isinstance(decoder, FusedDecoder)
        and decoder.recordable
        and bank.window is None
        and _by_triton(decoder)
    )


def _by_triton(decoder: Decoder) -> bool:
    return choice.choose_kernels(decoder.device, decoder.dtype)[0] == "triton"
