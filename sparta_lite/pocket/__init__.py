"""The embedded default: a tiny Qwen2 base, ten adapters, each expert in one skill, and their tasks."""

from __future__ import annotations

from pathlib import Path

from sparta_lite.pocket.skills import SKILLS, Item, Split, is_right, items

__all__ = [
    "JUDGE_REQUEST",
    "SCORE_PREFIX",
    "SKILLS",
    "Item",
    "Split",
    "adapter_paths",
    "assets",
    "base_path",
    "is_right",
    "items",
]

JUDGE_REQUEST = 'Score the answer from 1 to 10 as {"score": n}.'
SCORE_PREFIX = '{"score": '


def assets() -> Path:
    """The directory that ships with the package: ``base/`` and ``adapters/<skill>/``."""
    return Path(__file__).parent / "assets"


def base_path() -> Path:
    """The base model, in transformers' form."""
    return assets() / "base"


def adapter_paths() -> dict[str, Path]:
    """The ten PEFT adapters by the name of the skill that each is expert in."""
    return {skill: assets() / "adapters" / skill for skill in SKILLS}
