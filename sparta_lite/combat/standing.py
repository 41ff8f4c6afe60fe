"""Where the tribe stands between iterations, and how one iteration's votes move it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sparta_lite.combat.duel import Bout
from sparta_lite.combat.reputation import Rating, Reading, ReputationSettings, update
from sparta_lite.combat.verdict import Verdict, aggregate
from sparta_lite.errors import SpartaError

LAST_NEW_HANDICAP = 7
"""The iteration whose handicaps hold for the rest of a run (published code)."""


@dataclass(frozen=True)
class Standing:
    """The state with which ``iteration`` (from 0) begins: everything that the rules remember.

    ``factors`` multiply an adapter's aggregated score inside the reputation update; they are all 1
    unless the kind has a handicap.
    """

    iteration: int
    ratings: dict[str, Rating]
    factors: dict[str, float]

    @property
    def reputations(self) -> dict[str, float]:
        return {name: rating.reputation for name, rating in self.ratings.items()}

    def to_json(self) -> dict[str, Any]:
        """Plain numbers, lists and dicts; `from_json` gives back an equal object, bit for bit."""
        return {
            "iteration": self.iteration,
            "ratings": {
                name: {
                    "reputation": rating.reputation,
                    "deviation": rating.deviation,
                    "changes": list(rating.changes),
                }
                for name, rating in self.ratings.items()
            },
            "factors": dict(self.factors),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Standing:
        """Raises SpartaError when ``data`` is not what `to_json` writes."""
        try:
            ratings = {
                name: Rating(
                    float(entry["reputation"]),
                    float(entry["deviation"]),
                    tuple(float(change) for change in entry["changes"]),
                )
                for name, entry in data["ratings"].items()
            }
            factors = {name: float(data["factors"][name]) for name in ratings}
            return cls(int(data["iteration"]), ratings, factors)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise SpartaError(
                f"the recorded reputations are damaged ({error!r}): restore the file"
            ) from error


@dataclass(frozen=True)
class Settlement:
    """What an iteration's votes came to.

    ``verdicts`` and ``history`` have one entry per duel: the verdict that moved the reputations
    (None without a valid vote) and everyone's rating after the duel. ``standing`` begins the next
    iteration.
    """

    verdicts: tuple[Verdict | None, ...]
    history: tuple[dict[str, Rating], ...]
    standing: Standing


def begin(tribe: Sequence[str], settings: ReputationSettings) -> Standing:
    """The standing before the first duel.

    Raises SpartaError when an uneven start lacks a finite prior score for an adapter.
    """
    ratings = {
        name: Rating(start, settings.start_deviation) for name, start in _start(tribe, settings).items()
    }
    return Standing(0, ratings, dict.fromkeys(tribe, 1.0))


def settle(standing: Standing, bouts: Sequence[Bout], settings: ReputationSettings) -> Settlement:
    """Apply one iteration's duels, in their order, to ``standing``.

    Judges weigh by their reputation at that duel (or alike, where the kind says so). A duel without a
    valid vote changes nothing, and leaves every other duel's kappa as it is.
    """
    reading = settings.reading
    ratings = dict(standing.ratings)
    verdicts: list[Verdict | None] = []
    history: list[dict[str, Rating]] = []
    for duel, votes in bouts:
        verdict = aggregate(votes, judge_weights(ratings, reading))
        if verdict is not None:
            first, second = duel.fighters
            scores = (
                verdict.scores[0] * standing.factors[first],
                verdict.scores[1] * standing.factors[second],
            )
            moved = update(ratings[first], ratings[second], scores, duel.index + 1, settings)
            ratings = {**ratings, first: moved[0], second: moved[1]}
        verdicts.append(verdict)
        history.append(ratings)
    following = standing.iteration + 1
    factors = handicaps(reading, following, ratings, standing.factors)
    return Settlement(tuple(verdicts), tuple(history), Standing(following, ratings, factors))


def judge_weights(ratings: Mapping[str, Rating], reading: Reading) -> dict[str, float] | None:
    """What `aggregate` weighs the judges by; None for all alike."""
    if reading.judge_weights == "uniform":
        return None
    return {name: rating.reputation for name, rating in ratings.items()}


def handicaps(
    reading: Reading, iteration: int, ratings: Mapping[str, Rating], previous: Mapping[str, float]
) -> dict[str, float]:
    """The score factors of ``iteration`` from the ratings after the one before it (published code).

    "dynamic", from iteration 2 on: the ``iteration - 1`` lowest get 0.0, 0.1, 0.2, ... from the lowest
    up. "static": one more adapter each iteration, the lowest that has none, gets the next factor and
    keeps it. After iteration 7 both stay as they are. Equal reputations rank in the tribe's order.
    """
    if reading.handicap == "none" or not 2 <= iteration <= LAST_NEW_HANDICAP:
        return dict(previous)
    lowest_first = sorted(ratings, key=lambda name: ratings[name].reputation)
    if reading.handicap == "dynamic":
        lowered = lowest_first[: iteration - 1]
    else:
        kept = sorted((name for name in previous if previous[name] < 1.0), key=lambda name: previous[name])
        lowered = kept + [name for name in lowest_first if name not in kept][:1]
    return dict.fromkeys(ratings, 1.0) | {name: 0.1 * place for place, name in enumerate(lowered)}


def _start(tribe: Sequence[str], settings: ReputationSettings) -> dict[str, float]:
    if settings.start == "fair":
        return dict.fromkeys(tribe, float(settings.start_reputation))
    prior = settings.prior or {}
    missing = [name for name in tribe if not math.isfinite(prior.get(name, math.nan))]
    if missing:
        raise SpartaError(
            f"reputation.start is 'uneven', but reputation.prior has no score for {', '.join(missing)}"
        )
    scores = [prior[name] for name in tribe]
    if min(scores) == max(scores):  # equal priors say nothing
        return dict.fromkeys(tribe, float(settings.start_reputation))
    mean = math.fsum(scores) / len(scores)
    deviation = math.sqrt(math.fsum((score - mean) ** 2 for score in scores) / len(scores))
    return {
        name: max(
            settings.start_reputation + settings.start_spread * (prior[name] - mean) / deviation,
            settings.floor,
        )
        for name in tribe
    }
