"""Which response of a duel is chosen and which is rejected."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sparta_lite.combat.duel import Bout, Duel
from sparta_lite.combat.reputation import ReputationSettings
from sparta_lite.combat.standing import Settlement, judge_weights
from sparta_lite.combat.verdict import aggregate


@dataclass(frozen=True)
class Preference:
    """A decided duel: ``chosen`` is 0 or 1, the place in ``duel.fighters``; ``scores`` decided it."""

    duel: Duel
    scores: tuple[float, float]
    chosen: int

    @property
    def rejected(self) -> int:
        return 1 - self.chosen

    @property
    def margin(self) -> float:
        return abs(self.scores[0] - self.scores[1])


def preferences(
    bouts: Sequence[Bout],
    settlement: Settlement,
    settings: ReputationSettings,
    minimum_margin: float = 0.0,
) -> tuple[Preference | None, ...]:
    """One entry per bout; None where no valid vote was cast or the scores lie within ``minimum_margin``.

    ``settlement`` is what `settle` made of the same bouts. Judges that weigh by reputation do so as at
    that duel (the paper) or as after the iteration's last duel (published code); other weights are the
    same for a whole iteration. Equal scores never make a pair.
    """
    reading = settings.reading
    if reading.pair_weights == "at-duel" or reading.judge_weights != "reputation":
        verdicts = settlement.verdicts
    else:
        final = judge_weights(settlement.standing.ratings, reading, {})
        verdicts = tuple(aggregate(votes, final) for _, votes in bouts)
    pairs: list[Preference | None] = []
    for (duel, _), verdict in zip(bouts, verdicts, strict=True):
        if verdict is None or verdict.winner is None:
            pairs.append(None)
            continue
        pair = Preference(duel, verdict.scores, verdict.winner)
        pairs.append(pair if pair.margin > minimum_margin else None)
    return tuple(pairs)
