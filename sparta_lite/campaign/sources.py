"""Where what a run names is to be found, and whether it is: known before anything heavy is imported."""

from __future__ import annotations

from pathlib import Path

from sparta_lite.campaign.settings import POCKET, Config
from sparta_lite.campaign.tribe import require_tribe
from sparta_lite.data.rows import require_source
from sparta_lite.engine.hub import base_directory
from sparta_lite.engine.known import shipped_base
from sparta_lite.errors import SpartaError
from sparta_lite.pocket import base_path


def base_source(base: str) -> str:
    """Directory, file or hub id of the base that a setting names."""
    return str(base_path()) if base == POCKET else base


def config_file(base: str, planning: bool = False) -> Path:
    """The base's ``config.json``, downloaded alone where the base is on the hub.

    Args:
        base: as settings name it.
        planning: whether the numbers that are shipped will do, so that the hub need not be asked.

    Raises:
        SpartaError: there is none.
    """
    source = base_source(base)
    if planning and not Path(source).is_dir() and (shipped := shipped_base(source)):
        return shipped / "config.json"
    path = base_directory(source, ("config.json",)) / "config.json"
    if not path.is_file():
        raise SpartaError(
            f"base: {source} is not a model directory (no config.json); give one in transformers' form, or a "
            "GGUF file"
        )
    return path


def require_base(base: str) -> None:
    """Refuse a base that is to stand on this machine and does not; the hub is not asked.

    Raises:
        SpartaError: see ``config_file``.
    """
    source = Path(base_source(base))
    if source.is_absolute() or source.is_file():
        config_file(base)


def require_model(config: Config, planning: bool = False) -> None:
    """The same for a run's base and its adapters.

    Args:
        config: the run's settings.
        planning: see ``find_tribe``.

    Raises:
        SpartaError: one is not there.
    """
    require_base(config.base)
    require_tribe(config, planning)


def require_sources(config: Config) -> None:
    """The same for all that a run begins with: base, adapters, instructions and held-out questions.

    Raises:
        SpartaError: something is not there.
    """
    require_model(config)
    for path in (config.data.path, *config.evaluation.paths.values()):
        if path != POCKET:
            require_source(path)
