"""Settings that are valid, at the ends of what they take."""

from __future__ import annotations

from random import Random
from typing import Any

from sparta_lite.campaign.faults import section
from sparta_lite.campaign.settings import Config
from sparta_lite.campaign.settings.ranges import range_of, words

KEYS = [
    f"{name}.{part}" if kind else name
    for name in Config.model_fields
    for kind in [section(name)]
    for part in (kind.model_fields if kind else [""])
]


def valid(key: str, random: Random) -> Any:
    """A value that the setting takes, most often an extreme one."""
    start, _, name = key.rpartition(".")
    kind = section(start) if start else Config
    field = (kind or Config).model_fields[name]
    if limits := range_of(field):
        low, high = limits.low, limits.high
        return random.choice((low, high, low + 1, min(high, max(low, 2)), min(high, max(low, 1000))))
    return random.choice(words(field) or ("true", "null", "false"))
