"""One instruction, two fighters, and the rest of the tribe as judges."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Votes = Mapping[str, tuple[float | None, float | None]]
"""Judge -> its scores (1..10) of both fighters' responses, in their order; None = that judgment failed."""


@dataclass(frozen=True)
class Duel:
    """Two different adapters answer the same instruction; where one learns alone, it answers twice.

    ``index`` is the duel's place in its iteration, from 0; ``instruction`` is the index into the
    iteration's list of instructions; ``fighters[0]`` opened the duel.
    """

    index: int
    instruction: int
    fighters: tuple[str, str]


Bout = tuple[Duel, Votes]
"""A duel with the votes that were cast in it."""


def judges(duel: Duel, tribe: Sequence[str]) -> tuple[str, ...]:
    """Everyone in ``tribe`` who does not fight in ``duel``, in the tribe's order."""
    return tuple(name for name in tribe if name not in duel.fighters)
