"""Held-out accuracy of the tribe and the bare base: measured, never learned from."""

from __future__ import annotations

from collections.abc import Sequence

from sparta_lite.campaign.arena import Arena, Meter
from sparta_lite.campaign.events import Evaluated
from sparta_lite.engine.decode import Prompt, generate
from sparta_lite.kernels.sampling import Sampling
from sparta_lite.pocket import is_right

GREEDY = Sampling(temperature=0)


def evaluate(arena: Arena, iteration: int) -> None:
    """Greedy answers of every adapter and of the bare base to the held-out questions."""
    if not arena.items:
        return
    known = {row["iteration"]: row for row in arena.metrics.rows if row["kind"] == "evaluation"}
    row = known.get(iteration)
    if row is None:
        names: list[str | None] = [*arena.tribe] if known else [*arena.tribe, None]
        with arena.phase(iteration, "evaluate", len(names) * len(arena.items)) as meter:
            rights = _rights(arena, names, meter)
        row = {
            "kind": "evaluation",
            "iteration": iteration,
            "items": len(arena.items),
            "accuracy": {name: _share(rights[name]) for name in arena.tribe},
            # The bare base never changes: it is asked once.
            "base": next(iter(known.values()))["base"] if known else _share(rights[None]),
            "by_skill": {name: _by_skill(arena, rights[name]) for name in arena.tribe},
        }
        arena.metrics.append([row])
    arena.listener(Evaluated(iteration, row["accuracy"], row["base"]))


def _rights(arena: Arena, names: Sequence[str | None], meter: Meter) -> dict[str | None, list[bool]]:
    prompts = [Prompt(name, arena.question(item.question)) for name in names for item in arena.items]
    responses = generate(
        arena.base,
        arena.bank,
        prompts,
        GREEDY,
        arena.config.evaluation.max_new_tokens,
        arena.config.generation.places,
        meter.add,
    )
    answers = iter(responses)
    return {name: [is_right(item, next(answers).text) for item in arena.items] for name in names}


def _by_skill(arena: Arena, rights: Sequence[bool]) -> dict[str, float]:
    marks: dict[str, list[bool]] = {}
    for item, right in zip(arena.items, rights, strict=True):
        marks.setdefault(item.skill, []).append(right)
    return {skill: _share(of_skill) for skill, of_skill in marks.items()}


def _share(marks: Sequence[bool]) -> float:
    return sum(marks) / len(marks)
