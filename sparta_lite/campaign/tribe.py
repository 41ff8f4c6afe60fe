"""Where the adapters of a tribe come from: directories, the hub, the published ten, or new ones."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from sparta_lite.campaign.settings import POCKET, Config
from sparta_lite.engine.hub import CONFIG_FILE, WEIGHTS_FILE, local
from sparta_lite.errors import SpartaError
from sparta_lite.pocket import adapter_paths

TULU = (
    "code_alpaca",
    "cot",
    "flan_v2",
    "gemini_alpaca",
    "lima",
    "oasst1",
    "open_orca",
    "science",
    "sharegpt",
    "wizardlm",
)
"""The subsets of Tulu-v2 that the paper's ten adapters were made of, one each."""

_PUBLISHED = "bunsenfeng/yuru_qw_{}"  # on Qwen/Qwen2.5-7B-Instruct
_FRESH = re.compile(r"fresh-(\d+)")

Places = Mapping[str, Path | None]
"""Adapter -> its PEFT directory, in the tribe's order; None: it is made new, from the run's seed."""


def find_tribe(config: Config, files: Sequence[str] = (CONFIG_FILE, WEIGHTS_FILE)) -> Places:
    """Where every adapter of the tribe stands; of what is on the hub ``files`` are downloaded.

    Raises:
        SpartaError: there are fewer than three adapters or than ``tribe.size``, or the hub lacks one.
    """
    return {name: _on_disk(name, place, files) for name, place in _named(config).items()}


def require_tribe(config: Config) -> None:
    """Refuse adapters that are to stand on this machine and do not; the hub is not asked.

    Raises:
        SpartaError: see ``find_tribe``.
    """
    for name, place in _named(config).items():
        if place is not None and Path(place).is_absolute():
            _on_disk(name, place, ())


def _named(config: Config) -> dict[str, str | None]:
    """Adapter -> its directory or hub id, in the tribe's order."""
    given, size = config.tribe.adapters, config.tribe.size
    places = _places(given)
    if len(places) < (size or 0):
        raise SpartaError(f"tribe.size is {size}, but {given} holds {len(places)} PEFT adapters; lower it")
    if len(places) < 3:
        raise SpartaError(
            f"tribe.adapters: {given} holds {len(places)} PEFT adapters; two fight and at least one judges, "
            "so give 3 or more"
        )
    return dict(list(places.items())[:size])


def _places(given: str | dict[str, str]) -> dict[str, str | None]:
    """Name -> directory or hub id."""
    if isinstance(given, dict):
        return dict(given)
    if given == POCKET:
        return {name: str(path) for name, path in adapter_paths().items()}
    if given == "tulu-10":
        return {subset: _PUBLISHED.format(subset) for subset in TULU}
    if fresh := _FRESH.fullmatch(given):
        return {f"fresh-{number}": None for number in range(1, int(fresh[1]) + 1)}
    if not Path(given).is_dir():
        raise SpartaError(
            f"tribe.adapters: {given} is no directory; give one that holds PEFT adapters, 'tulu-10', "
            "'fresh-N' for N new ones, or a mapping of names to directories or hub ids"
        )
    return {path.parent.name: str(path.parent) for path in sorted(Path(given).glob(f"[!.]*/{CONFIG_FILE}"))}


def _on_disk(name: str, place: str | None, files: Sequence[str]) -> Path | None:
    try:
        return None if place is None else local(place, files)
    except SpartaError as error:
        raise SpartaError(f"adapter {name!r}: {error}") from error
