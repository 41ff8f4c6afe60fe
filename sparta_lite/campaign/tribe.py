"""Where the adapters of a tribe come from: directories, the hub, the published ten, or new ones."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from sparta_lite.campaign.settings import POCKET, Config
from sparta_lite.engine.hub import CONFIG_FILE, WEIGHTS_FILE, local
from sparta_lite.engine.known import TULU, TULU_ADAPTERS, shipped_adapter
from sparta_lite.errors import SpartaError
from sparta_lite.pocket import adapter_paths

_FRESH = re.compile(r"fresh-(\d+)")

Places = Mapping[str, Path | None]
"""Adapter -> its PEFT directory, in the tribe's order; None: it is made new, from the run's seed."""


def find_tribe(
    config: Config, files: Sequence[str] = (CONFIG_FILE, WEIGHTS_FILE), planning: bool = False
) -> Places:
    """Where every adapter of the tribe stands; of what is on the hub ``files`` are downloaded.

    Args:
        config: the run's settings.
        files: which files of an adapter.
        planning: whether shipped numbers of published adapters will do and, in place of a directory that
            is not there yet, what ``forge`` makes by default (not on the pocket base, which has its own).

    Raises:
        SpartaError: there are fewer than three adapters or than ``tribe.size``, or the hub lacks one.
    """
    return {name: _on_disk(name, place, files, planning) for name, place in _named(config, planning).items()}


def to_be_forged(config: Config) -> bool:
    """Whether the tribe's directory is not there yet."""
    given = config.tribe.adapters
    if not isinstance(given, str) or config.base == POCKET:
        return False
    return Path(given).is_absolute() and not Path(given).exists()


def tribe_names(config: Config) -> tuple[str, ...]:
    """The adapters by name, in the tribe's order; the hub is not asked.

    Raises:
        SpartaError: see ``find_tribe``.
    """
    return tuple(_named(config, False))


def require_tribe(config: Config, planning: bool = False) -> None:
    """Refuse adapters that are to stand on this machine and do not; the hub is not asked.

    Raises:
        SpartaError: see ``find_tribe``.
    """
    for name, place in _named(config, planning).items():
        if place is not None and Path(place).is_absolute():
            _on_disk(name, place, ())


def _named(config: Config, planning: bool) -> dict[str, str | None]:
    """Adapter -> its directory or hub id, in the tribe's order."""
    given, size = config.tribe.adapters, config.tribe.size
    if planning and to_be_forged(config):
        return dict.fromkeys(TULU[:size])
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
        return dict(TULU_ADAPTERS)
    if fresh := _FRESH.fullmatch(given):
        return {f"fresh-{number}": None for number in range(1, int(fresh[1]) + 1)}
    if not Path(given).is_dir():
        raise SpartaError(
            f"tribe.adapters: {given} is no directory; give one that holds PEFT adapters, 'tulu-10', "
            "'fresh-N' for N new ones, or a mapping of names to directories or hub ids"
        )
    if (Path(given) / CONFIG_FILE).is_file():
        raise SpartaError(
            f"tribe.adapters: {given} is one adapter; give the directory in which 3 or more stand, or a "
            "mapping of names to directories or hub ids"
        )
    return {path.parent.name: str(path.parent) for path in sorted(Path(given).glob(f"[!.]*/{CONFIG_FILE}"))}


def _on_disk(name: str, place: str | None, files: Sequence[str], planning: bool = False) -> Path | None:
    if planning and place is not None and (shipped := shipped_adapter(place)):
        return shipped
    try:
        return None if place is None else local(place, files)
    except SpartaError as error:
        raise SpartaError(f"adapter {name!r}: {error}") from error
