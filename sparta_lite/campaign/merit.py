"""What an adapter is worth by what was measured of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def merit(tasks: Sequence[Mapping[str, Any]], name: str) -> float | None:
    """What an adapter is worth by the tasks of one evaluation, 0 to 1; None where one could not be measured.

    The mean counts, with judged scores brought from 1..10 to 0..1.
    """
    values = [task["accuracy"][name] for task in tasks]
    if not values or None in values:
        return None
    shares = [(value - 1) / 9 if task["judged"] else value for task, value in zip(tasks, values, strict=True)]
    return float(sum(shares) / len(shares))
