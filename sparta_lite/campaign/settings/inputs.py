"""The sections of what a run starts from: its adapters and its instructions."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from sparta_lite.campaign.settings.section import AboveZero, Positive, Section
from sparta_lite.data.tasks import TASKS, preset_of
from sparta_lite.errors import SpartaError

POCKET = "pocket"
"""The embedded base, adapters or questions, where a path could stand."""

PRESET = re.compile(r"pocket|tulu-10|fresh-\d+")
"""What may stand where a path could, and is none."""

HostileKind = Literal["inverted", "loud", "garbage", "loud-garbage"]

_NAME = re.compile(r"\w[\w.-]*")


def _enough_to_duel(size: int) -> int:
    if size < 3:
        raise ValueError(f"tribe.size is {size}; two fight and at least one judges, so give 3 or more")
    return size


class Tribe(Section):
    adapters: str | dict[str, str] = Field(
        default=POCKET,
        description="'pocket', 'tulu-10' (the published ones), 'fresh-N' (N new ones), a directory of PEFT "
        "adapters, or a mapping of names to PEFT directories or hub ids",
    )
    size: Annotated[int, AfterValidator(_enough_to_duel)] | None = Field(
        default=None, description="Take only the first so many adapters; null takes all"
    )
    rank: Positive = Field(default=16, description="Of the adapters of 'fresh-N'")
    alpha: AboveZero = Field(default=32.0, description="Of the adapters of 'fresh-N'")
    resident: int | None = Field(
        default=None,
        ge=1,
        description="Adapters on the device at once, the others wait in host memory; null: as planned",
    )

    hostile: int = Field(
        default=0,
        ge=0,
        description="The last so many adapters spoil the duels, to see what the rules can stand",
    )
    hostile_kind: HostileKind = Field(
        default="inverted",
        description="'inverted' judges score 11 - s; 'loud' ones mirror and widen; 'garbage' is what they "
        "answer, and they judge as they think; 'loud-garbage' is both",
    )

    @field_validator("adapters", mode="before")
    @classmethod
    def _names_or_place(cls, value: object) -> object:
        if isinstance(value, str) and value:
            return value
        if isinstance(value, dict) and all(
            isinstance(part, str) and part for part in (*value, *value.values())
        ):
            if len(value) < 3:
                raise ValueError(
                    f"tribe.adapters names {len(value)}; two fight and at least one judges, so name 3 or more"
                )
            if wrong := [name for name in value if not _NAME.fullmatch(name)]:
                raise ValueError(
                    f"tribe.adapters: {wrong[0]!r} cannot name a directory; use letters, digits and . _ -"
                )
            return value
        raise ValueError(
            f"tribe.adapters is {value!r}; give 'pocket', 'tulu-10', 'fresh-N', a directory, or a mapping of "
            "names to directories or hub ids"
        )


class Baseline(Section):
    adapter: str | None = Field(
        default=None,
        description="The one adapter that learns; null: the best by the evaluation before the first "
        "iteration, which favours the baseline",
    )


class Data(Section):
    path: str = Field(
        default=POCKET,
        min_length=1,
        description="'pocket', a JSON, JSONL, CSV, TSV or Parquet file, a directory of them, or a hub "
        "dataset such as openai/gsm8k; PATH#SPLIT picks one split",
    )
    task: str | None = Field(
        default=None,
        description="One of the paper's tasks in place of column and template, without a path from the hub: "
        f"{', '.join(TASKS)}",
    )
    subset: str | None = Field(default=None, description="Which configuration of a hub dataset")
    split: str | None = Field(default=None, description="Which split; null: the only one, or 'train'")
    filter: str | None = Field(
        default=None,
        description="Keep rows whose column has this value, or has not: 'level!=Level 5 and lang=en'",
    )
    column: str | None = Field(
        default=None,
        description="The file's column that holds the instruction, a text or a conversation; null: what the "
        "columns are called decides, see docs/data.md",
    )
    template: str | None = Field(
        default=None,
        description='In place of column: text over a row\'s columns, such as "{instruction}\\n{input}"',
    )

    @model_validator(mode="after")
    def _one_source(self) -> Data:
        if self.task is not None:
            try:
                preset_of(self.task)
            except SpartaError as error:
                raise ValueError(f"data.task: {error}") from error
            if self.column is not None or self.template is not None:
                raise ValueError("data.task brings its own columns; remove data.column and data.template")
            return self
        if self.path == POCKET and (self.column is not None or self.template is not None):
            raise ValueError("data.column and data.template belong to a file; give data.path or remove them")
        if self.path == POCKET and (self.subset or self.split or self.filter):
            raise ValueError("data.subset, split, filter: belong to a file or task; give one or remove them")
        if self.column is not None and self.template is not None:
            raise ValueError("data.column and data.template: choose one, and remove the other")
        return self
