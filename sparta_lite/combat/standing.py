"""Where the tribe stands between iterations, and how one iteration's votes move it."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sparta_lite.combat.bradley_terry import Results, fit, results
from sparta_lite.combat.duel import Bout
from sparta_lite.combat.reliability import accuracies, ballots, toned, trust
from sparta_lite.combat.reputation import Rating, Reading, ReputationSettings, update
from sparta_lite.combat.verdict import Verdict, aggregate
from sparta_lite.errors import SpartaError

LAST_NEW_HANDICAP = 7
"""The iteration whose handicaps hold for the rest of a run (published code)."""

_LARGEST = 1e30
"""Of a recorded number: whatever is computed from such ones is finite."""


@dataclass(frozen=True)
class Standing:
    """The state with which ``iteration`` (from 0) begins: everything that the rules remember.

    ``factors`` multiply an adapter's aggregated score inside the reputation update; they are all 1
    unless the kind has a handicap. The others stay empty under rules that look at no earlier iteration:
    ``results`` and ``ballots`` of the iterations that are remembered, oldest first, and ``reliability``, the
    probability of every judge to put the better answer first (`accuracies`), as it was last estimated.
    """

    iteration: int
    ratings: dict[str, Rating]
    factors: dict[str, float]
    results: tuple[Results, ...] = ()
    ballots: tuple[tuple[str, ...], ...] = ()
    reliability: dict[str, float] = field(default_factory=dict)

    @property
    def reputations(self) -> dict[str, float]:
        return {name: rating.reputation for name, rating in self.ratings.items()}

    def to_json(self) -> dict[str, Any]:
        """Plain numbers, lists and dicts; `from_json` gives back an equal object, bit for bit."""
        data: dict[str, Any] = {
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
        if self.results:
            data["results"] = [[[*pair, won] for pair, won in each.items()] for each in self.results]
        if self.ballots:
            data["ballots"] = [list(each) for each in self.ballots]
        if self.reliability:
            data["reliability"] = dict(self.reliability)
        return data

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Standing:
        """Raises SpartaError when ``data`` is not what `to_json` writes."""
        try:
            return _read(data)
        except KeyError as error:
            why = f"they lack {reprlib.repr(error.args[0])}"
        except (AttributeError, TypeError, ValueError) as error:
            why = str(error)
        raise SpartaError(f"the recorded reputations are damaged ({why}): restore the file from a copy")


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
    """Apply one iteration's duels to ``standing``: in their order, or all at once where the kind fits them.

    Judges weigh by their reputation at that duel, or as the rules say otherwise. Where they weigh by
    reliability, that is estimated first, from all votes of this iteration and those remembered, and then
    holds for all of the iteration's duels. Fitted reputations weigh as the iteration found them, and
    ``history`` has the new ones after every duel. A duel without a valid vote changes nothing, and leaves
    every other duel's kappa as it is.
    """
    reading = settings.reading
    ratings = dict(standing.ratings)
    heard, remembered, reliability = bouts, standing.ballots, standing.reliability
    if reading.judge_weights == "reliability":
        remembered = (*standing.ballots, ballots(bouts, tuple(ratings)))[-settings.memory :]
        reliability = accuracies([each for iteration in remembered for each in iteration], tuple(ratings))
        heard = toned(bouts)
    verdicts: list[Verdict | None] = []
    history: list[dict[str, Rating]] = []
    for duel, votes in heard:
        verdict = aggregate(votes, judge_weights(ratings, reading, reliability))
        if verdict is not None and reading.rating == "update":
            first, second = duel.fighters
            scores = (
                verdict.scores[0] * standing.factors[first],
                verdict.scores[1] * standing.factors[second],
            )
            moved = update(ratings[first], ratings[second], scores, duel.index + 1, settings)
            ratings = {**ratings, first: moved[0], second: moved[1]}
        verdicts.append(verdict)
        history.append(ratings)
    fought = standing.results
    if reading.rating == "bradley-terry":
        fought = (*standing.results, results(bouts, verdicts))[-settings.memory :]
        ratings = fit(fought, ratings, settings.start_reputation, settings.virtual_duels)
        history = [ratings] * len(bouts)
    following = standing.iteration + 1
    factors = handicaps(reading, following, ratings, standing.factors)
    return Settlement(
        tuple(verdicts),
        tuple(history),
        Standing(following, ratings, factors, fought, remembered, reliability),
    )


def judge_weights(
    ratings: Mapping[str, Rating], reading: Reading, reliability: Mapping[str, float]
) -> dict[str, float] | None:
    """What `aggregate` weighs the judges by; None for all alike, as before anyone's reliability is known."""
    if reading.judge_weights == "reliability" and reliability:
        return {name: trust(value) for name, value in reliability.items()}
    if reading.judge_weights == "reputation":
        return {name: rating.reputation for name, rating in ratings.items()}
    return None


def judge_shares(standing: Standing, reading: Reading) -> dict[str, float]:
    """Every adapter's share of the judges' weight as ``standing`` has it; all 0 where none is trusted."""
    weights = judge_weights(standing.ratings, reading, standing.reliability)
    weights = weights or dict.fromkeys(standing.ratings, 1.0)
    total = sum(weights.values())
    return {name: weight / total if total else 0.0 for name, weight in weights.items()}


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


def _read(data: Mapping[str, Any]) -> Standing:
    """Raises one of Python's own errors, in words, where ``data`` is not what `Standing.to_json` writes."""
    ratings = {
        name: Rating(
            _number(entry["reputation"]),
            _number(entry["deviation"], above=0.0),
            tuple(map(_number, _listed(entry["changes"]))),
        )
        for name, entry in data["ratings"].items()
    }
    factors = {name: _number(data["factors"][name]) for name in ratings}
    results = tuple(dict(_result(each, ratings) for each in _listed(part)) for part in _part(data, "results"))
    remembered = tuple(
        tuple(_ballot(each, len(ratings)) for each in _listed(part)) for part in _part(data, "ballots")
    )
    known = data.get("reliability", {})
    reliability = {name: _number(known[name], above=0.0, below=1.0) for name in ratings} if known else {}
    iteration = data["iteration"]
    if not isinstance(iteration, int) or isinstance(iteration, bool) or not 0 <= iteration <= _LARGEST:
        raise ValueError(f"iteration is {reprlib.repr(iteration)}")
    return Standing(iteration, ratings, factors, results, remembered, reliability)


def _part(data: Mapping[str, Any], key: str) -> list[Any]:
    return _listed(data.get(key, []))


def _listed(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError(f"{reprlib.repr(value)} is no list")
    return value


def _number(value: Any, above: float = -_LARGEST, below: float = _LARGEST) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not above < value < below:
        raise ValueError(f"{reprlib.repr(value)} is no number between {above:g} and {below:g}")
    return float(value)


def _result(value: Any, tribe: Mapping[str, Rating]) -> tuple[tuple[str, str], float]:
    winner, loser, won = _listed(value)
    if winner not in tribe or loser not in tribe or winner == loser:
        raise ValueError(f"{reprlib.repr(value)} is no result of two adapters")
    return (winner, loser), _number(won, above=0.0)


def _ballot(value: Any, judges: int) -> str:
    if not isinstance(value, str) or len(value) != judges or set(value) - set("+-."):
        raise ValueError(f"{reprlib.repr(value)} is no ballot of {judges} judges")
    return value


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
