"""The sections of what a run starts from: its adapters and its instructions."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from sparta_lite.campaign.settings.section import NAME, PATH, TEXT, FewOrZero, Section, Width
from sparta_lite.data.tasks import TASKS, preset_of
from sparta_lite.errors import SpartaError, shown

POCKET = "pocket"
"""The embedded base, adapters or questions, where a path could stand."""

PRESET = re.compile(r"pocket|tulu-10|fresh-\d+")
"""What may stand where a path could, and is none."""

HostileKind = Literal["inverted", "loud", "garbage", "loud-garbage"]

_FRESH = re.compile(r"fresh-(\d+)")
_NAME = re.compile(r"\w[\w.-]*")
_LONGEST_NAME = 150  # bytes: a file system takes 255
_MOST = 1000  # adapters of a tribe


def _enough_to_duel(size: int) -> int:
    if not 3 <= size <= _MOST:
        raise ValueError(f"is {shown(size)}; two fight and at least one judges, so give 3 to {_MOST:,}")
    return size


def _names_directory(name: str) -> bool:
    return _NAME.fullmatch(name) is not None and len(name.encode()) <= _LONGEST_NAME


class Tribe(Section):
    adapters: str | dict[str, str] = Field(
        default=POCKET,
        description="'pocket', 'tulu-10' (the published ones), 'fresh-N' (N new ones), a directory of PEFT "
        "adapters, or a mapping of names to PEFT directories or hub ids",
    )
    size: Annotated[int, AfterValidator(_enough_to_duel)] | None = Field(
        default=None, description="Take only the first so many adapters, 3 to 1,000; null takes all"
    )
    rank: int = Field(default=16, ge=1, le=4096, description="Of the adapters of 'fresh-N'")
    alpha: Width = Field(default=32.0, description="Of the adapters of 'fresh-N'")
    resident: int | None = Field(
        default=None,
        ge=1,
        le=1000,
        description="Adapters on the device at once, the others wait in host memory; null: as planned",
    )

    hostile: FewOrZero = Field(
        default=0,
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
        if isinstance(value, str) and 0 < len(value) <= PATH:
            fresh = _FRESH.fullmatch(value)
            if fresh and (len(fresh[1]) > 4 or int(fresh[1]) > _MOST):
                raise ValueError(f"tribe.adapters is {shown(value)}; give fresh-3 to fresh-{_MOST}")
            return value
        if isinstance(value, dict) and all(
            isinstance(part, str) and 0 < len(part) <= PATH for part in (*value, *value.values())
        ):
            if not 3 <= len(value) <= _MOST:
                raise ValueError(
                    f"tribe.adapters names {len(value):,}; two fight and at least one judges, so name 3 to "
                    f"{_MOST:,}"
                )
            if wrong := [name for name in value if not _names_directory(name)]:
                raise ValueError(
                    f"tribe.adapters: {shown(wrong[0])} cannot name a directory; use few "
                    "letters, digits and . _ -"
                )
            return value
        raise ValueError(
            f"tribe.adapters is {shown(value)}; give 'pocket', 'tulu-10', 'fresh-N', a directory, or a "
            "mapping of names to directories or hub ids, in quotation marks where they are no words"
        )


class Baseline(Section):
    adapter: str | None = Field(
        default=None,
        max_length=NAME,
        description="The one adapter that learns; null: the best by the evaluation before the first "
        "iteration, which favours the baseline",
    )


class Data(Section):
    path: str = Field(
        default=POCKET,
        min_length=1,
        max_length=PATH,
        description="'pocket', a JSON, JSONL, CSV, TSV or Parquet file, a directory of them, or a hub "
        "dataset such as openai/gsm8k; PATH#SPLIT picks one split",
    )
    task: str | None = Field(
        default=None,
        max_length=NAME,
        description="One of the paper's tasks in place of column and template, without a path from the hub: "
        f"{', '.join(TASKS)}",
    )
    subset: str | None = Field(
        default=None, max_length=NAME, description="Which configuration of a hub dataset"
    )
    split: str | None = Field(
        default=None, max_length=NAME, description="Which split; null: the only one, or 'train'"
    )
    filter: str | None = Field(
        default=None,
        max_length=TEXT,
        description="Keep rows whose column has this value, or has not: 'level!=Level 5 and lang=en'",
    )
    column: str | None = Field(
        default=None,
        max_length=NAME,
        description="The file's column that holds the instruction, a text or a conversation; null: what the "
        "columns are called decides, see docs/data.md",
    )
    template: str | None = Field(
        default=None,
        max_length=TEXT,
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
