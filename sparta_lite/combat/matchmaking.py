"""Who fights whom."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from sparta_lite.combat.duel import Duel
from sparta_lite.combat.naming import require_name
from sparta_lite.errors import SpartaError
from sparta_lite.randomness import generator

MatchKind = Literal["nearest", "annealed"]


@dataclass(frozen=True)
class MatchSettings:
    """With probability ``alpha`` an opponent is anyone else, equally likely; otherwise as ``kind`` says.

    "nearest": one of the ``k`` nearest in reputation, equally likely. The defaults are the published
    program's (its launch script has 0.6 and 5); ``alpha=1`` is random matching. ``k`` above the tribe's
    size means everyone else.

    "annealed": j with p(j) ~ exp(-(gap_ij - g)^2 / (2 gap_deviation^2)), where gap_ij is the distance of the
    two reputations in units of the tribe's largest and g falls from 1 to 0 over the run (Stackelberg
    Alignment, arXiv 2609.39076, its constants): first the most unequal meet, at last the equals.
    """

    alpha: float = 0.2
    k: int = 3
    kind: MatchKind = "nearest"
    gap_deviation: float = 0.15

    def __post_init__(self) -> None:
        require_name("match-making kind", self.kind, get_args(MatchKind))
        if not 0.0 < self.gap_deviation < math.inf:
            raise SpartaError(
                f"match-making gap_deviation is {self.gap_deviation}: give a number above 0, such as 0.15"
            )
        if not 0.0 <= self.alpha <= 1.0:
            raise SpartaError(f"match-making alpha is {self.alpha}: give a probability from 0 to 1")
        if self.k < 1:
            raise SpartaError(f"match-making k is {self.k}: give the number of nearest opponents, 1 or more")


def schedule(
    instructions: int,
    tribe: Sequence[str],
    reputations: Mapping[str, float],
    settings: MatchSettings,
    seed: int,
    iteration: int,
    progress: float = 0.0,
) -> tuple[Duel, ...]:
    """One duel per instruction, in blocks in which every adapter opens once (algorithm step "match-making").

    Block b is shuffled by (seed, iteration, b) and duel d draws its opponent by (seed, iteration, d)
    alone, so a longer schedule begins with every shorter one. ``progress`` says how far the run has
    come, from 0 to 1; only "annealed" opponents depend on it.

    Raises SpartaError when the tribe has fewer than three members or a name twice.
    """
    if len(set(tribe)) != len(tribe):
        raise SpartaError(
            f"the tribe names an adapter twice: {', '.join(sorted(tribe))}; give every one its own name"
        )
    if len(tribe) < 3:
        raise SpartaError(
            f"a tribe of {len(tribe)} cannot duel: two fight and at least one judges, so give three"
        )
    duels: list[Duel] = []
    openers: list[str] = []
    for index in range(instructions):
        block, place = divmod(index, len(tribe))
        if place == 0:
            openers = list(tribe)
            generator("openers", seed, iteration, block).shuffle(openers)
        opponent = _opponent(openers[place], tribe, reputations, settings, (seed, iteration, index), progress)
        duels.append(Duel(index, instruction=index, fighters=(openers[place], opponent)))
    return tuple(duels)


def _opponent(
    opener: str,
    tribe: Sequence[str],
    reputations: Mapping[str, float],
    settings: MatchSettings,
    draw: tuple[int, int, int],
    progress: float,
) -> str:
    random = generator("opponent", *draw)
    others = [name for name in tribe if name != opener]
    if random.random() < settings.alpha:
        return random.choice(others)
    if settings.kind == "annealed":
        chances = _annealed(opener, others, reputations, settings.gap_deviation, 1.0 - progress)
        return random.choices(others, chances)[0]
    # All start at the same reputation: the shuffle under the stable sort keeps the tribe's order from
    # deciding who counts as near.
    random.shuffle(others)
    others.sort(key=lambda name: abs(reputations[name] - reputations[opener]))
    return random.choice(others[: settings.k])


def _annealed(
    opener: str, others: Sequence[str], reputations: Mapping[str, float], deviation: float, target: float
) -> list[float]:
    """How likely each of ``others`` is, up to one factor."""
    largest = max(reputations.values()) - min(reputations.values())
    if largest == 0.0:
        return [1.0] * len(others)
    gaps = [abs(reputations[name] - reputations[opener]) / largest for name in others]
    exponents = [-((gap - target) ** 2) / (2 * deviation**2) for gap in gaps]
    return [math.exp(exponent - max(exponents)) for exponent in exponents]  # the likeliest never underflows
