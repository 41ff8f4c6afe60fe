"""What every section of the settings is made of."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

Positive = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]
AboveZero = Annotated[float, Field(gt=0)]
ZeroOrMore = Annotated[float, Field(ge=0)]


def _no_overflow(value: float) -> float:
    if 0 < value < 0.01:
        raise ValueError(f"is {value}; give 0 for greedy, or at least 0.01")
    return value


Temperature = Annotated[float, Field(ge=0), AfterValidator(_no_overflow)]


class Section(BaseModel):
    """A part of the configuration: typed, complete, unchangeable, without unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)
