"""95 % confidence intervals of what a number of held-out questions shows."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from sparta_lite.randomness import key

Interval = tuple[float, float]

_Z = 1.959963984540054  # the normal distribution's 97.5 % point
_RESAMPLES = 10_000


def wilson(right: float, total: int) -> Interval:
    """Of a share, by Wilson's score interval (1927): sound also near 0 and 1 and for few questions."""
    share, squared = right / total, _Z * _Z / total
    centre = (share + squared / 2) / (1 + squared)
    half = _Z / (1 + squared) * math.sqrt(share * (1 - share) / total + squared / (4 * total))
    return (0.0 if right == 0 else centre - half, 1.0 if right == total else centre + half)


def bootstrap(values: Sequence[float]) -> Interval:
    """Of a mean: the middle 95 % of the means of resampled values (percentile bootstrap, Efron 1979).

    Equal values give equal intervals: the draws follow from their number alone.
    """
    given = np.asarray(values, dtype=np.float64)
    rng = np.random.Generator(np.random.Philox(key("bootstrap", len(given)) % (1 << 64)))
    means = [given[rng.integers(len(given), size=len(given))].mean() for _ in range(_RESAMPLES)]
    low, high = np.quantile(means, (0.025, 0.975))
    return (float(low), float(high))
