"""What every section of the settings is made of: each number has a range, each text a longest length."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from sparta_lite.errors import SpartaError, shown

Count = Annotated[int, Field(ge=1, le=1_000_000)]
CountOrZero = Annotated[int, Field(ge=0, le=1_000_000)]
Few = Annotated[int, Field(ge=1, le=1000)]
FewOrZero = Annotated[int, Field(ge=0, le=1000)]
Share = Annotated[float, Field(ge=0, le=1)]
SmallShare = Annotated[float, Field(ge=0, le=0.999999)]
"""What may be asked of a probability that is never one."""
SomeShare = Annotated[float, Field(ge=1e-6, le=1)]
Width = Annotated[float, Field(ge=1e-6, le=1e6)]
"""Of a bell curve; its square neither vanishes nor overflows."""
AboveZero = Annotated[float, Field(ge=1e-9, le=1e9)]
ZeroOrMore = Annotated[float, Field(ge=0, le=1e9)]

NAME = 1000
"""Most characters of a name, of a path, of a text."""
PATH = 4096
TEXT = 100_000


def _no_overflow(value: float) -> float:
    if 0 < value < 0.01:
        raise ValueError(f"is {value}; give 0 for greedy, or at least 0.01")
    return value


Temperature = Annotated[float, Field(ge=0, le=100), AfterValidator(_no_overflow)]


def _open_if_auto(value: object) -> object:
    return None if value == "auto" else value


Switch = Annotated[bool | None, BeforeValidator(_open_if_auto)]
"""On or off, which YAML reads as true and false; ``auto`` is another word for null."""

_MEMORY = re.compile(r"\s*([0-9]{1,9}(?:\.[0-9]{1,9})?)\s*([MG]i?B)\s*", re.IGNORECASE)
_UNITS = {"MB": 10**6, "MIB": 2**20, "GB": 10**9, "GIB": 2**30}


def parse_memory(text: str) -> int:
    """'24GB', '22.5 GiB' or '8000MB' in bytes.

    Raises:
        SpartaError: it is none of these.
    """
    match = _MEMORY.fullmatch(text)
    size = int(float(match[1]) * _UNITS[match[2].upper()]) if match else 0
    if size <= 0:
        raise SpartaError(
            f"vram is {shown(text)}; give a size such as 24GB (10^9 bytes each) or 24GiB (2^30)"
        )
    return size


class Section(BaseModel):
    """A part of the configuration: typed, complete, unchangeable, without unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)
