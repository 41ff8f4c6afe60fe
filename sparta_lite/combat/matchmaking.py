"""Who fights whom."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sparta_lite.combat.duel import Duel
from sparta_lite.errors import SpartaError
from sparta_lite.randomness import generator


@dataclass(frozen=True)
class MatchSettings:
    """With probability ``alpha`` an opponent is anyone else, otherwise one of the ``k`` nearest.

    Near means near in reputation; within either group every opponent is equally likely.
    The defaults are the published program's (its launch script has 0.6 and 5); ``alpha=1`` is
    random matching. ``k`` above the tribe's size means everyone else.
    """

    alpha: float = 0.2
    k: int = 3

    def __post_init__(self) -> None:
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
) -> tuple[Duel, ...]:
    """One duel per instruction, in blocks in which every adapter opens once (algorithm step "match-making").

    Block b is shuffled by (seed, iteration, b) and duel d draws its opponent by (seed, iteration, d)
    alone, so a longer schedule begins with every shorter one.

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
        opponent = _opponent(openers[place], tribe, reputations, settings, (seed, iteration, index))
        duels.append(Duel(index, instruction=index, fighters=(openers[place], opponent)))
    return tuple(duels)


def _opponent(
    opener: str,
    tribe: Sequence[str],
    reputations: Mapping[str, float],
    settings: MatchSettings,
    draw: tuple[int, int, int],
) -> str:
    random = generator("opponent", *draw)
    others = [name for name in tribe if name != opener]
    if random.random() < settings.alpha:
        return random.choice(others)
    # All start at the same reputation: the shuffle under the stable sort keeps the tribe's order from
    # deciding who counts as near.
    random.shuffle(others)
    others.sort(key=lambda name: abs(reputations[name] - reputations[opener]))
    return random.choice(others[: settings.k])
