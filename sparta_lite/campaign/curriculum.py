"""The instructions of an iteration, and what its duels teach about them.

What the bandit has learned stands beside the reputations in the iteration's ``reputation.json``. Draws follow
from that, the seed and the iteration alone, so a resumed run draws the same.
"""

from __future__ import annotations

from collections.abc import Sequence

from sparta_lite.campaign.arena import Arena
from sparta_lite.campaign.reading import read_reputation
from sparta_lite.combat import Settlement
from sparta_lite.combat.curriculum import arms, draw_arms, learned, probabilities, progress, reward
from sparta_lite.data.instructions import draw
from sparta_lite.errors import SpartaError
from sparta_lite.typed import RESTORE


def choose_instructions(arena: Arena, iteration: int) -> list[int]:
    """One instruction per duel, as indices into the run's instructions."""
    config = arena.config
    if config.instructions.kind == "uniform":
        return draw(len(arena.instructions), config.duels, config.seed, iteration)
    groups = _arms(arena)
    before = _log_weights(arena, iteration, len(groups))
    return [instruction for _, instruction in _drawn(arena, iteration, groups, before)]


def learn_instructions(arena: Arena, iteration: int, settlement: Settlement) -> tuple[float, ...] | None:
    """The log weights of all arms as the iteration's verdicts made them; None without a bandit."""
    settings = arena.config.instructions.settings()
    if settings.kind == "uniform":
        return None
    groups = _arms(arena)
    before = _log_weights(arena, iteration, len(groups))
    drawn = _drawn(arena, iteration, groups, before)
    passed = progress(iteration, arena.config.iterations)
    rewards = [
        (arm, reward(verdict.scores, passed, settings))
        for (arm, _), verdict in zip(drawn, settlement.verdicts, strict=True)
        if verdict is not None
    ]
    return learned(before, probabilities(before, settings.gamma), rewards)


def _arms(arena: Arena) -> Sequence[Sequence[int]]:
    return arms(arena.instructions, arena.config.instructions.group_words)


def _drawn(
    arena: Arena, iteration: int, groups: Sequence[Sequence[int]], log_weights: Sequence[float]
) -> list[tuple[int, int]]:
    """(arm, instruction) of the iteration's duels."""
    config = arena.config
    chances = probabilities(log_weights, config.instructions.gamma)
    return draw_arms(groups, chances, config.duels, config.seed, iteration)


def _log_weights(arena: Arena, iteration: int, size: int) -> list[float]:
    """What the bandit knew when the iteration began; it starts with all arms alike."""
    if iteration == 0:
        return [0.0] * size
    weights = read_reputation(arena.store, iteration - 1).instruction_log_weights or ()
    if len(weights) != size:
        raise SpartaError(
            f"{arena.store.reputation(iteration - 1)}: instruction_log_weights holds {len(weights)} numbers "
            f"for {size} arms; {RESTORE}"
        )
    return list(weights)
