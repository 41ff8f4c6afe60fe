"""How many slots of a decoding batch stand idle in a run, and how often steps are recorded: counted, untimed.

    python benchmarks/idle.py [--iterations 8] [--duels 1000] [--places 128] [--mean 200] [--limit 512]

The scheduler, the recordings' book-keeping and what is kept from call to call are the real ones; a stand-in
draws tokens, so that the lengths of answers are geometric. Each iteration generates the answers of its duels
and measures ten adapters on 200 questions, greedily, on the schedule of a card.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from side_by_side import command_line
from torch import Tensor

from sparta_lite.engine import graphs, warm
from sparta_lite.engine.decode import Prompt, generate
from sparta_lite.engine.graphs import Graphs
from sparta_lite.engine.step import smallest
from sparta_lite.files import write_json
from sparta_lite.kernels.sampling import Sampling
from sparta_lite.randomness import key

NAMES = tuple(f"a{number}" for number in range(10))
DRAWN, GREEDY = Sampling(), Sampling(temperature=0)
QUESTIONS = 200
_END = 0


@dataclass
class Counts:
    captures: int = 0
    calls: int = 0
    refills: int = 0
    """Passes over fresh prompts while others are being continued."""
    steps: int = 0
    slots: int = 0
    """Slot-steps of all places."""
    computed: int = 0
    """Slot-steps of the rows in steps."""
    useful: int = 0
    """Of these, those that drew a token of an answer."""

    @property
    def idle(self) -> float:
        return 1 - self.useful / self.slots

    @property
    def wasted(self) -> float:
        return 1 - self.useful / self.computed


class StandIn:
    """For ``Steps``: a row draws ``_END`` once it has as many tokens as its key says, or as may be."""

    recordable = True

    def __init__(self, decoder: Any, bank: Any, cache: Any, sampling: Sampling) -> None:
        self.counts: Counts = decoder.counts
        self.bank, self.places, self.capacity, self.sampling = bank, cache.places, cache.capacity, sampling
        self.asked = cache.places  # by the call at hand
        self.mean, self.limit = decoder.mean, decoder.limit
        self.graphs = Graphs()
        self.stepped = False
        self.rows: dict[int, list[int]] = {}  # place -> tokens drawn, tokens of the answer

    def serve(self, decoder: Any, bank: Any, places: int, capacity: int) -> bool:
        return bank is self.bank and places <= self.places and capacity <= self.capacity

    def begin_anew(self, sampling: Sampling, places: int) -> None:
        self.sampling, self.asked, self.rows, self.stepped = sampling, places, {}, False

    def begin(
        self, places: Sequence[int], prompts: Sequence[Sequence[int]], keys: Sequence[int], lora: object
    ) -> Tensor:
        self.counts.refills += self.stepped
        for place, each in zip(places, keys, strict=True):
            self.rows[place] = [0, min(_length(each, self.mean), self.limit)]
        return self._drawn(places)

    def advance(self, names: Sequence[str | None], longest: int) -> Tensor:
        counts, rows = self.counts, len(names)
        size = min(smallest(rows), self.asked)
        self.stepped = True
        counts.steps += 1
        counts.slots += self.places
        counts.computed += size
        counts.useful += sum(drawn < length for drawn, length in (self.rows[place] for place in range(rows)))
        self.graphs.run((size, self.sampling), lambda: torch.empty(0))
        return self._drawn(range(rows))

    def move(self, source: int, target: int, positions: int) -> None:
        self.rows[target] = self.rows[source]

    def close(self) -> None:
        self.graphs.close()

    def _drawn(self, places: Sequence[int]) -> Tensor:
        tokens = []
        for place in places:
            row = self.rows[place]
            row[0] += 1
            tokens.append(float(_END if row[0] == row[1] else 1))
        return torch.tensor([tokens, [0.0] * len(tokens)], dtype=torch.float64)


def _length(number: int, mean: float) -> int:
    """Geometric with this mean, from a key's own number."""
    share = (number % 2**52 + 0.5) / 2**52
    return 1 + int(math.log(share) / math.log1p(-1 / mean))


def _cache(decoder: object, places: int, capacity: int) -> SimpleNamespace:
    return SimpleNamespace(places=places, capacity=capacity)


@contextmanager
def stood_in(counts: Counts) -> Iterator[None]:
    def record(work: graphs.Work, pool: object) -> Any:
        counts.captures += 1
        return (lambda: None), torch.empty(0)

    with (
        mock.patch.object(warm, "Steps", StandIn),
        mock.patch.object(warm, "Cache", _cache),
        mock.patch.object(warm, "recordable", return_value=True),
        mock.patch.object(graphs, "_record", record),
    ):
        yield


def count(iterations: int, duels: int, places: int, mean: float, limit: int, part: int, keep: bool) -> Counts:
    """A run that saves after every ``part`` duels; ``keep``: what a call leaves is there for the next."""
    counts = Counts()
    decoder = SimpleNamespace(device=torch.device("cuda"), counts=counts, mean=mean, limit=limit)
    base: Any = SimpleNamespace(
        decoder=decoder,
        context=1 << 20,
        stops={_END},
        ending=SimpleNamespace(reached=lambda *_: False, cut=lambda text: text),
        tokenizer=SimpleNamespace(decode=lambda *_, **__: ""),
        warm=warm.Warm(),
    )
    bank: Any = SimpleNamespace(
        limit=len(NAMES), slot=NAMES.index, lora=lambda *_: None, prefetch=lambda *_: None
    )

    def answered(prompts: list[Prompt], sampling: Sampling) -> None:
        counts.calls += 1
        generate(base, bank, prompts, sampling, limit, places)
        if not keep:
            base.warm.release()

    with stood_in(counts):
        for iteration in range(iterations):
            for first in range(0, duels, part):
                asked = range(2 * first, 2 * min(first + part, duels))
                answered([_prompt("generate", iteration, number) for number in asked], DRAWN)
            asked = range(len(NAMES) * QUESTIONS)
            answered([_prompt("evaluate", iteration, number) for number in asked], GREEDY)
    return counts


def _prompt(purpose: str, iteration: int, number: int) -> Prompt:
    length = 40 + key(1, purpose, iteration, number) % 160
    return Prompt(NAMES[number % len(NAMES)], (1,) * length, key(0, purpose, iteration, number))


def main() -> None:
    parser = command_line(__doc__)
    for name, value in {"iterations": 8, "duels": 1000, "places": 128, "mean": 200, "limit": 512}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    asked = vars(parser.parse_args())
    json = asked.pop("json")
    results = []
    print("| part | kept | calls | captures | refills | steps | idle of all places | idle of computed rows |")
    print("| ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for part, keep in ((100, False), (100, True), (asked["duels"], True)):
        found = count(**asked, part=part, keep=keep)
        results.append({"part": part, "kept": keep, **vars(found)})
        print(
            f"| {part} | {'yes' if keep else 'no'} | {found.calls} | {found.captures} | {found.refills} | "
            f"{found.steps} | {found.idle:.1%} | {found.wasted:.1%} |"
        )
    if json:
        write_json(json, results)


if __name__ == "__main__":
    main()
