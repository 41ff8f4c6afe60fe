"""Counter-based randomness: every draw is a pure function of what it is for.

A key is made from names and numbers such as ``(seed, "generate", iteration, duel, adapter)``; a
counter then numbers the draws under that key. Nothing here has state, so no result can depend on
the order of calls or on which rows shared a batch.
"""

from __future__ import annotations

import hashlib
import random

Part = int | str

_INT64 = 1 << 64


def key(*parts: Part) -> int:
    """A signed 64-bit key for ``parts``; equal parts give equal keys on every machine."""
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def generator(*parts: Part) -> random.Random:
    """A private generator for work that is sequential by nature, such as one shuffle."""
    return random.Random(key(*parts) % _INT64)
