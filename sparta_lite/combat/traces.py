"""Recorded votes, settled again under any rules.

A trace is plain JSON data:

    {"start": {adapter: {"score": reputation, "deviation": sigma}},
     "iterations": [{"duels": [{"fighters": [a, b], "scores": {judge: [score of a, score of b]}}]}]}

A score is a number from 1 to 10, or null where the judgment failed. Iterations and duels count from 0, as
they stand; other keys are ignored.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

from sparta_lite.combat.duel import Bout, Duel
from sparta_lite.combat.preference import Preference, preferences
from sparta_lite.combat.reputation import Kind, Rating, ReputationSettings
from sparta_lite.combat.standing import Settlement, Standing, settle
from sparta_lite.errors import SpartaError

ROUNDING = 1e-4
"""How far outside 1..10 a score may lie: an expected score is a mean taken in float32."""


def replay(
    trace: Mapping[str, Any], kind: str | None = None, settings: ReputationSettings | None = None
) -> list[dict[str, tuple[float, float]]]:
    """``{adapter: (reputation, deviation)}`` after every duel of every iteration, in order.

    ``settings`` default to the paper's; ``kind``, when given, replaces theirs. The ratings start where
    the trace's ``start`` says. Raises SpartaError for an unknown kind and for a trace that is not
    well formed, naming the iteration and duel (both from 0).
    """
    return [
        {name: (rating.reputation, rating.deviation) for name, rating in ratings.items()}
        for _, settlement in settle_trace(trace, _rules(kind, settings))
        for ratings in settlement.history
    ]


def replay_preferences(
    trace: Mapping[str, Any],
    kind: str | None = None,
    settings: ReputationSettings | None = None,
    minimum_margin: float = 0.0,
) -> list[tuple[Preference | None, ...]]:
    """The preference pairs that the trace's votes make, per iteration and duel; arguments as in `replay`."""
    rules = _rules(kind, settings)
    return [
        preferences(bouts, settlement, rules, minimum_margin)
        for bouts, settlement in settle_trace(trace, rules)
    ]


def settle_trace(trace: Mapping[str, Any], rules: ReputationSettings) -> list[tuple[list[Bout], Settlement]]:
    """Every iteration's bouts and what they come to; raises as `replay` does."""
    standing, iterations = _read(trace)
    settled = []
    for bouts in iterations:
        settlement = settle(standing, bouts, rules)
        settled.append((bouts, settlement))
        standing = settlement.standing
    return settled


def as_trace(start: Standing, iterations: Sequence[Sequence[Bout]]) -> dict[str, Any]:
    """The trace of a run that began with ``start`` (before its first duel) and saw these bouts."""
    return {
        "start": {
            name: {"score": rating.reputation, "deviation": rating.deviation}
            for name, rating in start.ratings.items()
        },
        "iterations": [
            {
                "iteration": number,
                "duels": [
                    {
                        "fighters": list(duel.fighters),
                        "scores": {judge: list(scores) for judge, scores in votes.items()},
                    }
                    for duel, votes in bouts
                ],
            }
            for number, bouts in enumerate(iterations)
        ],
    }


def _rules(kind: str | None, settings: ReputationSettings | None) -> ReputationSettings:
    rules = settings or ReputationSettings()
    return rules if kind is None else dataclasses.replace(rules, kind=cast(Kind, kind))


def _read(trace: Mapping[str, Any]) -> tuple[Standing, list[list[Bout]]]:
    start = _member(trace, "start", dict, "trace")
    ratings = {
        name: Rating(_positive(entry, "score", name), _positive(entry, "deviation", name))
        for name, entry in start.items()
    }
    iterations: list[list[Bout]] = []
    for number, iteration in enumerate(_member(trace, "iterations", list, "trace")):
        duels = _member(iteration, "duels", list, f"trace, iteration {number}")
        where = f"trace, iteration {number}, duel"
        iterations.append(
            [_bout(duel, index, ratings, f"{where} {index}") for index, duel in enumerate(duels)]
        )
    return Standing(0, ratings, dict.fromkeys(ratings, 1.0)), iterations


def _bout(duel: Any, index: int, tribe: Mapping[str, Rating], where: str) -> Bout:
    fighters = _member(duel, "fighters", list, where)
    scores = _member(duel, "scores", dict, where)
    if len(fighters) != 2 or fighters[0] == fighters[1]:
        raise SpartaError(f"{where}: the fighters are {fighters}; give two different adapters")
    for name in [*fighters, *scores]:
        if not isinstance(name, str) or name not in tribe:
            raise SpartaError(f"{where}: {name!r} is not in the tribe; add it to the trace's start")
    votes: dict[str, tuple[float | None, float | None]] = {}
    for judge, pair in scores.items():
        if judge in fighters:
            raise SpartaError(f"{where}: {judge!r} fights and judges; leave its own scores out")
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise SpartaError(
                f"{where}: {judge!r} cast {pair!r}; give its two scores, or null for a failed one"
            )
        votes[judge] = (_score(pair[0], judge, where), _score(pair[1], judge, where))
    return Duel(index, instruction=index, fighters=(fighters[0], fighters[1])), votes


def _score(value: Any, judge: str, where: str) -> float | None:
    if value is None:
        return None
    if not _is_number(value) or not 1.0 - ROUNDING <= value <= 10.0 + ROUNDING:
        raise SpartaError(
            f"{where}: {judge!r} scored {value!r}; a score is a number from 1 to 10, or null if it failed"
        )
    return float(value)


def _positive(entry: Any, key: str, name: str) -> float:
    value: Any = entry.get(key) if isinstance(entry, Mapping) else None
    if not _is_number(value) or not 0.0 < value < math.inf:
        raise SpartaError(f"trace, start of {name!r}: {key} is {value!r}; give a number above 0")
    return float(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _member(data: Any, key: str, form: type, where: str) -> Any:
    value = data.get(key) if isinstance(data, Mapping) else None
    accepted = (list, tuple) if form is list else Mapping
    if not isinstance(value, accepted):
        raise SpartaError(
            f"{where}: {key!r} is missing or not a {form.__name__}; see sparta_lite.combat.traces"
        )
    return value
