"""Whether judges would have begun a verdict by themselves, where its beginning is forced on them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from statistics import median_low

from sparta_lite.campaign.journals import recorded
from sparta_lite.campaign.records import JUDGMENTS, Judgment
from sparta_lite.campaign.settings import Judge
from sparta_lite.campaign.store import Store

HARDLY_EVER = 0.01
"""Judges whose median probability of the forced prefix lies below it are warned of."""


def of_all_iterations(store: Store, iterations: int) -> Iterable[Judgment]:
    """Every judgment of a run."""
    for iteration in range(iterations):
        path = store.judgments(iteration)
        yield from JUDGMENTS.lines(recorded(store, path), path)


def median_prefix(judgments: Iterable[Judgment]) -> float | None:
    """The median probability with which they begin with the forced prefix; None: it is not known."""
    known = [prefix for judgment in judgments for prefix in judgment.prefix if prefix is not None]
    return math.exp(median_low(known)) if known else None


def reluctance(settings: Judge, judgments: Iterable[Judgment]) -> str | None:
    """What to warn of, where judges hardly ever begin a verdict and nobody has said that this is meant."""
    if settings.mode != "expected" or settings.forced:
        return None
    found = median_prefix(judgments)
    if found is None or found >= HARDLY_EVER:
        return None
    return (
        "these judges would hardly ever give a score themselves: they write what is forced on them with a "
        f"median probability of {found:.0e}; `sparta-lite audit` says what their scores are worth, "
        "judge.minimum_prefix leaves such votes out"
    )
