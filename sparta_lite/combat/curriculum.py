"""Which instructions are fought over: a bandit that prefers those from which the tribe learns most.

EXP3 (Auer, Cesa-Bianchi, Freund and Schapire 2002) as Stackelberg Alignment (arXiv 2609.39076) uses it:

    p_k = (1 - gamma) w_k / |w|_1 + gamma / K
    log w_k <- log w_k + r_k / (K p_k), when arm k was drawn

An arm is an instruction, or a group of them. All of an iteration's duels are drawn before the first is
fought, so p holds for the whole iteration, and an arm that was drawn several times learns the mean of its
rewards, once: summed, the rewards of a few large groups would leave all but one without a chance at once.
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from sparta_lite.combat.naming import require_name
from sparta_lite.errors import SpartaError
from sparta_lite.randomness import generator

Choice = Literal["uniform", "exp3"]


@dataclass(frozen=True)
class CurriculumSettings:
    """How instructions are chosen; the defaults of "exp3" are the published ones.

    ``kind`` "uniform" walks through all of them, "exp3" draws by what earlier duels came to. ``group_words``:
    instructions that begin with the same so many words are one arm; 0 makes every instruction an arm.
    ``gamma`` is the share of chance. A duel's reward is ``difficulty_weight`` times how far its scores are
    from the ends of the scale, plus ``gap_weight`` times how near their gap is to a target, which moves from
    ``gap_start`` to ``gap_end`` over the run, in units of ``gap_deviation`` (scores scaled to 0..1).

    Raises SpartaError for a value that cannot be meant.
    """

    kind: Choice = "uniform"
    group_words: int = 0
    gamma: float = 0.2
    difficulty_weight: float = 0.3
    gap_weight: float = 0.7
    gap_start: float = 0.6
    gap_end: float = 0.15
    gap_deviation: float = 0.15

    def __post_init__(self) -> None:
        require_name("instructions.kind", self.kind, get_args(Choice))
        if self.group_words < 0:
            raise SpartaError(f"instructions.group_words is {self.group_words}: give 0 or more words")
        if not 0.0 < self.gamma <= 1.0:
            raise SpartaError(f"instructions.gamma is {self.gamma}: give a share above 0, at most 1")
        for name in ("difficulty_weight", "gap_weight", "gap_start", "gap_end"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise SpartaError(f"instructions.{name} is {getattr(self, name)}: give a number from 0 to 1")
        if not 0.0 < self.gap_deviation < math.inf:
            raise SpartaError(f"instructions.gap_deviation is {self.gap_deviation}: give a number above 0")


def progress(iteration: int, iterations: int) -> float:
    """How far the run has come: 0 in its first iteration, 1 in its last."""
    return iteration / (iterations - 1) if iterations > 1 else 0.0


def arms(instructions: Sequence[str], group_words: int) -> tuple[tuple[int, ...], ...]:
    """The indices of every arm's instructions; the arms stand in the order of their first ones."""
    if group_words == 0:
        return tuple((index,) for index in range(len(instructions)))
    found: dict[tuple[str, ...], list[int]] = {}
    for index, text in enumerate(instructions):
        found.setdefault(tuple(text.split()[:group_words]), []).append(index)
    return tuple(map(tuple, found.values()))


def probabilities(log_weights: Sequence[float], gamma: float) -> list[float]:
    """p_k of every arm."""
    highest = max(log_weights)
    weights = [math.exp(weight - highest) for weight in log_weights]
    total = math.fsum(weights)
    return [(1 - gamma) * weight / total + gamma / len(weights) for weight in weights]


def draw_arms(
    groups: Sequence[Sequence[int]], chances: Sequence[float], count: int, seed: int, iteration: int
) -> list[tuple[int, int]]:
    """(arm, instruction) of every duel: an arm by its chance, one of its instructions evenly.

    Duel d is drawn by (seed, iteration, d) alone, with replacement.
    """
    bounds = list(itertools.accumulate(chances))
    drawn = []
    for duel in range(count):
        random = generator("arm", seed, iteration, duel)
        arm = min(bisect.bisect_right(bounds, random.random() * bounds[-1]), len(groups) - 1)
        drawn.append((arm, random.choice(groups[arm])))
    return drawn


def reward(scores: tuple[float, float], passed: float, settings: CurriculumSettings) -> float:
    """What a duel with these aggregated scores (1..10) was worth when ``passed`` (0..1) of the run was over.

    The mean over both scores s, scaled to 0..1, of difficulty_weight * 4 s (1 - s), which is 0 where all fail
    and where all succeed, plus gap_weight * exp(-(gap - target)^2 / (2 gap_deviation^2)). The source
    names a difficulty that falls off to both ends; this parabola is our reading of it.
    """
    first, second = ((score - 1) / 9 for score in scores)
    difficulty = 2 * first * (1 - first) + 2 * second * (1 - second)
    target = settings.gap_start + (settings.gap_end - settings.gap_start) * passed
    distance = (abs(first - second) - target) / settings.gap_deviation
    return settings.difficulty_weight * difficulty + settings.gap_weight * math.exp(-(distance**2) / 2)


def learned(
    log_weights: Sequence[float], chances: Sequence[float], rewards: Iterable[tuple[int, float]]
) -> tuple[float, ...]:
    """The log weights after an iteration's ``rewards``, as (arm, reward); the highest is set to 0."""
    earned: dict[int, list[float]] = {}
    for arm, value in rewards:
        earned.setdefault(arm, []).append(value)
    moved = list(log_weights)
    for arm, values in earned.items():
        moved[arm] += math.fsum(values) / len(values) / (len(chances) * chances[arm])
    highest = max(moved)
    return tuple(weight - highest for weight in moved)
