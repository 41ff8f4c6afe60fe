"""What decoding and judging give back, apart from torch: whoever reads a run's files needs no more."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from sparta_lite.typed import Count, Number

Stop = Literal["end-of-turn", "length", "context", "text", "reference"]
Failure = Literal["too long", "no score", "no verdict", "not finite"]


@dataclass(frozen=True)
class Response:
    """What a row was continued with."""

    ids: tuple[Count, ...]
    """The very tokens that were drawn, the end-of-turn token included."""
    text: str
    """The tokens as text, without special tokens."""
    stop: Stop
    logprob: Number | None = field(compare=False)
    """log p(ids | prompt) as generation saw it: natural logarithm, temperature 1, nothing cut off, the
    end-of-turn token included; None: not kept. Other batch neighbours round it in another way: equality
    leaves it out."""
