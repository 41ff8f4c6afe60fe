"""Reputations fitted to all duels of some iterations at once, in no order, with standard errors.

Bradley and Terry (1952): i beats j with probability pi_i / (pi_i + pi_j). A reputation is the strength pi
on a scale on which the tribe's geometric mean is the start's reputation: R_i : R_j are the odds of i against
j.

- A drawn duel is half a win for each.
- Margins count for nothing. They are measured on the judges' scale, which differs from judge to judge and
  drifts as they are trained; who won is also all that the preference pairs take from a duel.
- Every adapter has a few virtual duels more, half of them won, against one opponent common to all. So one
  that won all its duels stays finite, and groups that never met can be compared.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from sparta_lite.combat.duel import Bout
from sparta_lite.combat.reputation import Rating
from sparta_lite.combat.verdict import Verdict
from sparta_lite.errors import SpartaError

Results = dict[tuple[str, str], float]
"""(winner, loser) -> duels, of one iteration; a draw is half a duel in either direction."""

_CLOSE = 1e-12
_SWEEPS = 100_000


def results(bouts: Sequence[Bout], verdicts: Sequence[Verdict | None]) -> Results:
    """Who beat whom, and how often; sorted, so that equal results are written alike."""
    won: Results = {}
    for (duel, _), verdict in zip(bouts, verdicts, strict=True):
        if verdict is None:
            continue
        first, second = duel.fighters
        for pair, side in (((first, second), 0), ((second, first), 1)):
            points = 0.5 if verdict.winner is None else float(verdict.winner == side)
            if points:
                won[pair] = won.get(pair, 0.0) + points
    return dict(sorted(won.items()))


def fit(
    iterations: Sequence[Results], ratings: Mapping[str, Rating], mean: float, virtual: float
) -> dict[str, Rating]:
    """The tribe's ratings from the results of ``iterations``; ``ratings`` itself where those hold none.

    Args:
        ratings: names the tribe.
        mean: the geometric mean of the reputations.
        virtual: duels that are added for every adapter, above 0.

    Returns:
        Reputations and their standard errors, those of the logarithms times the reputation: see `interval`.
    """
    tribe = tuple(ratings)
    won = [
        [math.fsum(each.get((winner, loser), 0.0) for each in iterations) for loser in tribe]
        for winner in tribe
    ]
    if not any(map(any, won)):
        return dict(ratings)
    logs, errors = maximum(won, virtual)
    return {
        name: Rating(mean * math.exp(log), mean * math.exp(log) * error)
        for name, log, error in zip(tribe, logs, errors, strict=True)
    }


def interval(rating: Rating, deviations: float = 1.96) -> tuple[float, float]:
    """A fitted reputation's confidence interval, symmetrical on the scale of logarithms."""
    factor = math.exp(deviations * rating.deviation / rating.reputation)
    return rating.reputation / factor, rating.reputation * factor


def maximum(won: Sequence[Sequence[float]], virtual: float) -> tuple[list[float], list[float]]:
    """The likeliest log strengths, of mean 0, and their standard errors.

    MM iteration (Hunter 2004, Annals of Statistics 32): pi_i <- wins_i / sum_j n_ij / (pi_i + pi_j), the
    opponent of the virtual duels being one player more. The errors come from the observed information at
    the maximum, virtual duels included, and are those of the distance to the tribe's mean.

    Args:
        won: [size, size], duels that the row's player won against the column's.
        virtual: see `fit`.

    Raises:
        SpartaError: the iteration does not settle.
    """
    size = len(won)
    duels = [[won[i][j] + won[j][i] for j in range(size)] for i in range(size)]
    wins = [math.fsum(won[i]) + virtual / 2 for i in range(size)]
    strengths, opponent = [1.0] * size, 1.0
    for _ in range(_SWEEPS):
        before = [*strengths, opponent]
        met = [
            math.fsum(
                [
                    virtual / (strengths[i] + opponent),
                    *(duels[i][j] / (strengths[i] + strengths[j]) for j in range(size) if duels[i][j]),
                ]
            )
            for i in range(size)
        ]
        virtual_met = math.fsum(virtual / (opponent + strength) for strength in strengths)
        strengths = [wins[i] / met[i] for i in range(size)]
        opponent = size * virtual / 2 / virtual_met
        moved = zip([*strengths, opponent], before, strict=True)
        if max(abs(math.log(after / earlier)) for after, earlier in moved) < _CLOSE:
            break
    else:
        raise SpartaError(
            "reputation.kind 'bradley-terry': the fit does not settle; raise reputation.virtual_duels"
        )
    logs = [math.log(strength / opponent) for strength in strengths]
    covariance = _inverse(_information(logs, duels, virtual))
    means = [math.fsum(row) / size for row in covariance]
    overall = math.fsum(means) / size
    errors = [math.sqrt(covariance[i][i] - 2 * means[i] + overall) for i in range(size)]
    middle = math.fsum(logs) / size
    return [log - middle for log in logs], errors


def _information(
    logs: Sequence[float], duels: Sequence[Sequence[float]], virtual: float
) -> list[list[float]]:
    """Minus the second derivatives of the log-likelihood, the virtual opponent at 0."""
    size = len(logs)
    information = [
        [-duels[i][j] * _variance(logs[i] - logs[j]) if i != j else 0.0 for j in range(size)]
        for i in range(size)
    ]
    for i in range(size):
        information[i][i] = virtual * _variance(logs[i]) - math.fsum(information[i])
    return information


def _variance(log_odds: float) -> float:
    """p (1 - p) of the duel with these log-odds."""
    return 0.25 / math.cosh(log_odds / 2) ** 2


def _inverse(matrix: Sequence[Sequence[float]]) -> list[list[float]]:
    """By Gauss and Jordan; ``matrix`` is positive definite, so no pivot is 0."""
    size = len(matrix)
    rows = [[*row, *(float(i == j) for j in range(size))] for i, row in enumerate(matrix)]
    for i in range(size):
        rows[i] = [value / rows[i][i] for value in rows[i]]
        for j in range(size):
            if j != i and rows[j][i]:
                factor = rows[j][i]
                rows[j] = [below - factor * above for below, above in zip(rows[j], rows[i], strict=True)]
    return [row[size:] for row in rows]
