"""Which prompt works in which place of the batch."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from sparta_lite.engine.bank import Bank


@dataclass(eq=False)
class Row:
    """A prompt that is being continued."""

    prompt: int
    adapter: str | None
    cached: int
    """Positions that stand in the cache once the device has done all it was given: the newest token enters
    it with the next step."""
    produced: list[int] = field(default_factory=list)
    logprob: float = 0.0
    over: bool = False
    """Whether its response is complete. Until its place is given away it computes on, for nobody."""


class Places:
    """The rows of a batch and the prompts that wait for a place.

    A freed place goes to a prompt of the same adapter if there is any, else to one of the adapter with
    most of them. Where the bank's limit keeps adapters out of the batch they come in one after another.
    """

    def __init__(
        self, bank: Bank, adapters: Mapping[int, str | None], lengths: Mapping[int, int], count: int
    ) -> None:
        """
        Args:
            bank: the adapters.
            adapters: of every prompt that is to be continued.
            lengths: tokens of the same prompts.
            count: the most rows in the batch.
        """
        self.count = min(count, len(adapters))
        self.rows: list[Row] = []
        self._lengths = lengths
        self._waiting: dict[str | None, deque[int]] = {}

        def slot(prompt: int) -> int:
            adapter = adapters[prompt]
            return -1 if adapter is None else bank.slot(adapter)

        for prompt in sorted(adapters, key=slot):
            self._waiting.setdefault(adapters[prompt], deque()).append(prompt)
        self._limit = bank.limit
        self._crowded = sum(adapter is not None for adapter in self._waiting) > self._limit

    @property
    def waiting(self) -> list[str | None]:
        """The adapters of prompts that have no place yet."""
        return [adapter for adapter, queue in self._waiting.items() if queue]

    def fill(self) -> list[int]:
        """Give every place to a prompt; where the bank has no limit as evenly as the adapters allow."""
        if self._crowded:
            return self._enter([])
        shares = dict.fromkeys(self._waiting, 0)
        free = self.count
        while free:
            for adapter, queue in self._waiting.items():
                if free and shares[adapter] < len(queue):
                    shares[adapter] += 1
                    free -= 1
        return [self._append(adapter) for adapter, share in shares.items() for _ in range(share)]

    def refill(self, move: Callable[[int, int, int], None]) -> list[int]:
        """Give the place of every row that is over to a waiting prompt; close the gaps that remain.

        Args:
            move: told (source, target, positions) when the row in the last place moves into a gap, source and
                target being the same where the last place itself closes.

        Returns:
            The places that have a new row, ascending.
        """
        fresh: list[int] = []
        leaving = [place for place, row in enumerate(self.rows) if row.over]
        while leaving:
            adapter = self._successor(leaving)
            place = leaving.pop()
            if self._waiting[adapter]:
                self.rows[place] = self._row(adapter)
                fresh.append(place)
                continue
            last = self.rows.pop()
            move(len(self.rows), place, last.cached)
            if place < len(self.rows):
                self.rows[place] = last
                if len(self.rows) in fresh:
                    fresh[fresh.index(len(self.rows))] = place
        # Places that closed while no adapter with a waiting prompt could enter the batch.
        return sorted(self._enter(fresh) if self._crowded else fresh)

    def _row(self, adapter: str | None) -> Row:
        prompt = self._waiting[adapter].popleft()
        return Row(prompt, adapter, self._lengths[prompt])

    def _append(self, adapter: str | None) -> int:
        self.rows.append(self._row(adapter))
        return len(self.rows) - 1

    def _enter(self, fresh: list[int]) -> list[int]:
        while len(self.rows) < self.count and self._waiting[adapter := self._entrant([])]:
            fresh.append(self._append(adapter))
        return fresh

    def _successor(self, leaving: Sequence[int]) -> str | None:
        """The adapter that gets the last of the places ``leaving``; it may have no prompt waiting."""
        adapter = self.rows[leaving[-1]].adapter
        if self._waiting[adapter]:
            return adapter
        if self._crowded:
            return self._entrant(leaving)
        return max(self._waiting, key=lambda name: len(self._waiting[name]))

    def _entrant(self, leaving: Sequence[int]) -> str | None:
        """The same where the bank's limit keeps some adapters waiting.

        The first in the order of the bank of those in the batch, then of the others if one more is
        allowed: adapters end one after another, and the rows of one fill the places that another's
        last rows do not need.
        """
        empty = {place for place in leaving if not self._waiting[self.rows[place].adapter]}
        inside = {row.adapter for place, row in enumerate(self.rows) if place not in empty} | {None}
        full = len(inside) - 1 == self._limit  # the bare base does not count
        allowed = [name for name in self._waiting if name in inside or not full]
        return max(allowed, key=lambda name: (bool(self._waiting[name]), name in inside))
