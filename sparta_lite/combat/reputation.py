"""How one duel moves two reputations.

For the fighters i, j of a duel with the aggregated scores s_i, s_j (SPARTA, arXiv 2506.04721):

    R_i <- R_i + kappa * (s_i - s_j) * tanh(sigma_i) * max(|Phi(z_i) - Phi(z_j)|, eps)
    z_i = (R_i - R_j) / sqrt(sigma_i^2 + sigma_j^2),  z_j = -z_i

The published code reads some points differently from the paper; `KINDS` names the readings. Beside them stand
kinds of another make: reputations that never move, that are fitted to all duels at once
(`sparta_lite.combat.bradley_terry`), and judges that weigh by how they judge, not by how they fight
(`sparta_lite.combat.reliability`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from sparta_lite.combat.naming import require_name
from sparta_lite.errors import SpartaError

Kind = Literal[
    "paper",
    "published-normal",
    "published-dynamic",
    "published-static",
    "uniform",
    "frozen",
    "bradley-terry",
    "reliability",
]
Order = Literal["simultaneous", "sequential"]
PairWeights = Literal["at-duel", "after-iteration"]
JudgeWeights = Literal["reputation", "uniform", "reliability"]


@dataclass(frozen=True)
class Reading:
    """One way to read the rules.

    ``rating``: how reputations come about, by "update" from duel to duel, "frozen" at their start, or fitted
    by "bradley-terry" after an iteration. ``judge_weights``: what weighs the judges.

    For the kinds that update, ``order``: whether the second fighter's change already sees the first one's
    new reputation. ``scale`` divides kappa. ``handicap``: how fighters of low reputation have their scores
    lowered inside the update (`handicaps`). Where reputation weighs the judges, ``pair_weights``: which
    one does when the preference pairs are made.
    """

    order: Order
    scale: float
    pair_weights: PairWeights
    judge_weights: JudgeWeights = "reputation"
    handicap: Literal["none", "dynamic", "static"] = "none"
    rating: Literal["update", "frozen", "bradley-terry"] = "update"


KINDS: dict[Kind, Reading] = {
    "paper": Reading("simultaneous", 1.0, "at-duel"),
    "published-normal": Reading("sequential", 20.0, "after-iteration"),
    "published-dynamic": Reading("sequential", 10.0, "after-iteration", handicap="dynamic"),
    "published-static": Reading("sequential", 20.0, "after-iteration", handicap="static"),
    "uniform": Reading("simultaneous", 1.0, "at-duel", judge_weights="uniform"),
    "frozen": Reading("simultaneous", 1.0, "at-duel", rating="frozen"),
    "bradley-terry": Reading("simultaneous", 1.0, "at-duel", rating="bradley-terry"),
    "reliability": Reading(
        "simultaneous", 1.0, "at-duel", judge_weights="reliability", rating="bradley-terry"
    ),
}


@dataclass(frozen=True)
class ReputationSettings:
    """The rules of reputation; the defaults are the paper's.

    ``kind`` picks a row of `KINDS`; ``order``, ``scale``, ``pair_weights`` and ``judge_weights`` override
    single points of it (None: as the kind says). "bradley-terry" and "reliability" look at the duels of
    the last ``memory`` iterations; fitted reputations count ``virtual_duels`` more for every adapter.
    ``start`` "fair" gives everyone ``start_reputation``; "uneven" spreads the ``prior`` scores of the
    adapters to that mean and the population standard deviation ``start_spread``.

    Raises SpartaError for a value that cannot be meant.
    """

    kind: Kind = "paper"
    order: Order | None = None
    scale: float | None = None
    pair_weights: PairWeights | None = None
    judge_weights: JudgeWeights | None = None
    memory: int = 3
    virtual_duels: float = 2.0
    kappa_0: float = 10.0
    kappa_min: float = 5.0
    decay: float = 0.9
    decay_steps: float = 10.0
    eps: float = 0.01
    floor: float = 10.0
    window: int = 10
    min_deviation: float = 0.1
    start: Literal["fair", "uneven"] = "fair"
    start_reputation: float = 100.0
    start_deviation: float = 0.5
    start_spread: float = 20.0
    prior: Mapping[str, float] | None = None

    def __post_init__(self) -> None:
        require_name("reputation.kind", self.kind, tuple(KINDS))
        require_name("reputation.start", self.start, ("fair", "uneven"))
        if self.order is not None:
            require_name("reputation.order", self.order, ("simultaneous", "sequential"))
        if self.pair_weights is not None:
            require_name("reputation.pair_weights", self.pair_weights, ("at-duel", "after-iteration"))
        if self.judge_weights is not None:
            require_name(
                "reputation.judge_weights", self.judge_weights, ("reputation", "uniform", "reliability")
            )
        positive = ["decay", "decay_steps", "floor", "min_deviation", "start_deviation", "start_spread"]
        positive += ["start_reputation", "virtual_duels"] + (["scale"] if self.scale is not None else [])
        for name in positive:
            _require(name, getattr(self, name), getattr(self, name) > 0, "a number above 0")
        for name in ("kappa_0", "kappa_min", "eps"):
            _require(name, getattr(self, name), getattr(self, name) >= 0, "a number, 0 or more")
        _require("decay", self.decay, self.decay <= 1, "a factor of at most 1")
        _require("window", self.window, self.window >= 2, "at least 2 changes")
        _require("memory", self.memory, self.memory >= 1, "at least 1 iteration")

    @property
    def reading(self) -> Reading:
        """The kind's reading with this object's overrides in it."""
        of_kind = KINDS[self.kind]
        return Reading(
            order=self.order or of_kind.order,
            scale=of_kind.scale if self.scale is None else self.scale,
            pair_weights=self.pair_weights or of_kind.pair_weights,
            judge_weights=self.judge_weights or of_kind.judge_weights,
            handicap=of_kind.handicap,
            rating=of_kind.rating,
        )

    def kappa(self, number: int) -> float:
        """max(kappa_min, kappa_0 * decay^(n / decay_steps)) for an iteration's duel ``number`` n, from 1."""
        return max(self.kappa_min, self.kappa_0 * math.pow(self.decay, number / self.decay_steps))


@dataclass(frozen=True)
class Rating:
    """An adapter's reputation R, its deviation sigma, and its last changes of R, oldest first."""

    reputation: float
    deviation: float
    changes: tuple[float, ...] = ()


def update(
    first: Rating, second: Rating, scores: tuple[float, float], number: int, settings: ReputationSettings
) -> tuple[Rating, Rating]:
    """Both fighters' ratings after an iteration's duel ``number`` (from 1) with the aggregated ``scores``.

    Both changes use the deviations from before the duel, in either order. A reputation stops at the
    floor, and the change that is remembered is the one that took place.
    """
    reading = settings.reading
    kappa = settings.kappa(number) / reading.scale
    spread = math.sqrt(first.deviation**2 + second.deviation**2)

    def surprise(own: float, other: float) -> float:
        z = (own - other) / spread
        return max(abs(_phi(z) - _phi(-z)), settings.eps)

    gain = scores[0] - scores[1]
    now_first = first.reputation + kappa * gain * math.tanh(first.deviation) * surprise(
        first.reputation, second.reputation
    )
    now_first = max(now_first, settings.floor)
    seen = now_first if reading.order == "sequential" else first.reputation
    now_second = second.reputation - kappa * gain * math.tanh(second.deviation) * surprise(
        second.reputation, seen
    )
    now_second = max(now_second, settings.floor)
    return _moved(first, now_first, settings), _moved(second, now_second, settings)


def _moved(rating: Rating, reputation: float, settings: ReputationSettings) -> Rating:
    changes = (*rating.changes, reputation - rating.reputation)[-settings.window :]
    if len(changes) < 2:
        return Rating(reputation, rating.deviation, changes)
    mean = math.fsum(changes) / len(changes)
    deviation = math.sqrt(math.fsum((change - mean) ** 2 for change in changes) / len(changes))
    return Rating(reputation, max(deviation, settings.min_deviation), changes)


def _phi(z: float) -> float:
    """The standard normal distribution function."""
    return 0.5 * (1.0 + math.erf(z / math.sqrt(2.0)))


def _require(name: str, value: float, holds: bool, wanted: str) -> None:
    if not (holds and math.isfinite(value)):
        raise SpartaError(f"reputation.{name} is {value}: give {wanted}")
