"""From files and the command line to one `Config`, and back to commented YAML."""

from __future__ import annotations

import functools
import os
import re
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic.fields import FieldInfo

import sparta_lite.pocket
from sparta_lite.campaign.faults import explained, section
from sparta_lite.campaign.settings import POCKET, PRESET, SIZES, Config, Section
from sparta_lite.campaign.settings.duels import PUBLISHED
from sparta_lite.campaign.settings.ranges import range_of
from sparta_lite.campaign.yaml_text import parse_yaml, read_yaml, to_yaml
from sparta_lite.engine.gguf_file import HUB_FILE
from sparta_lite.errors import SpartaError, shortened, shown

__all__ = ["Config", "load_config", "show_config"]

Layer = dict[str, Any]

_PRESET = Path(sparta_lite.pocket.__file__).parent / "pocket.yaml"
_WIDTH = 100
_ONCE_WRITTEN_OUT = {"mode", "minimum_mass", "rounds", "forced", *PUBLISHED._fields}
_HUB_ID = re.compile(r"\w[\w.-]*/[\w.-]*\w")
_DEEPEST = 5  # parts of a dotted key


def load_config(
    path: Path | None, sets: Sequence[str] = (), seed: int | None = None, as_written: bool = False
) -> Config:
    """Class defaults < pocket preset (with the pocket base) < the file < ``seed`` < ``sets``.

    Args:
        path: a YAML file; paths in it are relative to its directory. None: no file.
        sets: ``key=value`` with dotted keys; values are read as YAML, paths are relative to the
            working directory.
        seed: replaces the file's seed.
        as_written: keep what an earlier version wrote down and did not heed, see ``_today``.

    Raises:
        SpartaError: all that is wrong with the settings, in one line.
    """
    layer: Layer = {}
    if path is not None:
        layer = _mapping(read_yaml(path), str(path))
        layer = _anchored(layer if as_written else _today(layer), path.parent)
    if seed is not None:
        layer = _merged(layer, {"seed": seed})
    keys: set[str] = set()
    for assignment in sets:
        key, value = _assignment(assignment)
        keys.add(key)
        layer = _merged(layer, _anchored(_nested(key, value), Path.cwd()))
    if layer.get("base", POCKET) == POCKET:
        layer = _merged(_preset(), layer)
    try:
        return Config.model_validate(layer)
    except ValidationError as error:
        source = "configuration" if path is None else shortened(str(path), 100)
        raise SpartaError(explained(error, source, keys)) from error


def load_recorded(path: Path) -> Config:
    """The settings of a run, as the run has written them down.

    Where an earlier version planned it, what that one could not be told is as it was then: 4 bits stay
    packed, and 100 duels lie between two saves.

    Raises:
        SpartaError: see ``load_config``.
    """
    config = load_config(path)
    if any(config.at(key) is None for key in SIZES.values()):
        return config  # it was never planned
    then: dict[str, Any] = {}
    if "unpack" not in config.engine.model_fields_set:
        then["engine"] = config.engine.model_copy(update={"unpack": False})
    if "checkpoint" not in config.model_fields_set:
        then["checkpoint"] = 100
    return config.model_copy(update=then)


def preset_values(config: Config) -> dict[str, Any]:
    """Dotted key -> value: what the preset of its base lays over the defaults of ``config``."""
    layer = _preset() if config.base == POCKET else {}
    found: dict[str, Any] = {}
    for key, value in layer.items():
        found |= {f"{key}.{name}": part for name, part in value.items()} if section(key) else {key: value}
    return found


@functools.cache
def _preset() -> Layer:
    return _mapping(read_yaml(_PRESET), str(_PRESET))


def show_config(config: Config) -> str:
    """YAML with a comment above every field; `load_config` reads the same ``config`` back."""
    lines = []
    for name, field in Config.model_fields.items():
        value = getattr(config, name)
        if not isinstance(value, Section):
            lines.append(_entry(name, value, field))
            continue
        lines.append(f"\n{_comment(field.description, '')}{name}:\n")
        for part, inner in type(value).model_fields.items():
            entry = _entry(part, getattr(value, part), inner)
            lines.append(textwrap.indent(entry, "  "))
    return "".join(lines)


def _entry(name: str, value: Any, field: FieldInfo) -> str:
    limits = range_of(field)
    within = f" ({limits})" if limits else ""
    return _comment(f"{field.description}{within}", "  ") + to_yaml({name: value})


def _comment(description: str | None, indent: str) -> str:
    lines = textwrap.wrap(description or "", _WIDTH - len(indent) - 2, break_on_hyphens=False)
    return "".join(f"# {line}\n" for line in lines)


def _mapping(value: Any, source: str) -> Layer:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise SpartaError(f"{source}: holds {shown(value)}; give a mapping such as `iterations: 8`")
    # A section whose keys are all commented out is None.
    return {key: part for key, part in value.items() if part is not None or not section(key)}


def _today(layer: Layer) -> Layer:
    """``layer`` as this version means it, where an earlier one has written all settings out.

    How judges are sampled said nothing in mode 'expected' then, and stood there all the same.
    """
    judge = layer.get("judge")
    if not isinstance(judge, dict) or "minimum_prefix" in judge or not judge.keys() >= _ONCE_WRITTEN_OUT:
        return layer
    usual = PUBLISHED._asdict()
    kept = {
        key: value
        for key, value in judge.items()
        if key not in usual or (judge["mode"] == "sampled" and value != usual[key])
    }
    return {**layer, "judge": kept}


def _assignment(text: str) -> tuple[str, Any]:
    key, equals, written = text.partition("=")
    key = key.strip()
    if not equals or not all(key.split(".")) or key.count(".") >= _DEEPEST:
        raise SpartaError(f"--set {shortened(text)}: give key=value, such as --set reputation.kind=uniform")
    # "{instruction}" is a mapping to YAML, and 7 a number: a field that can only be text takes them as text.
    try:
        value = parse_yaml(written, f"--set {shortened(text)}")
    except SpartaError:
        if not _is_text(key):
            raise
        return key, written
    return key, written if _is_text(key) and not isinstance(value, str | None) else value


def _is_text(key: str) -> bool:
    start, _, name = key.rpartition(".")
    kind = section(start) if start else Config
    field = kind.model_fields.get(name) if kind else None
    return field is not None and field.annotation in (str, str | None)


def _nested(key: str, value: Any) -> Layer:
    for part in reversed(key.split(".")):
        value = {part: value}
    layer: Layer = value
    return layer


def _merged(under: Mapping[str, Any], over: Mapping[str, Any]) -> Layer:
    result = dict(under)
    for key, value in over.items():
        below = result.get(key)
        if isinstance(below, dict) and isinstance(value, dict):
            result[key] = _merged(below, value)
        else:
            result[key] = value
    return result


def _anchored(layer: Layer, root: Path) -> Layer:
    """``layer`` with its relative paths made absolute, seen from ``root``; presets and hub ids stay."""

    def at_root(value: Any) -> Any:
        if not isinstance(value, str) or value == "" or PRESET.fullmatch(value):
            return value
        if "\0" in value:
            raise SpartaError(f"{shown(value)} holds a null character; give a path")
        path = os.path.abspath(root / os.path.expanduser(value))  # an unknown ~user stays as it is
        # owner/name may be a path or a repository on the hub: what stands on the disk goes first.
        named = _HUB_ID.fullmatch(value.partition("#")[0]) or HUB_FILE.fullmatch(value)
        is_hub = named and not os.path.exists(path.partition("#")[0])
        return value if is_hub else path

    result = dict(layer)
    if "base" in result:
        result["base"] = at_root(result["base"])
    for name, key in (("tribe", "adapters"), ("data", "path"), ("evaluation", "paths")):
        part = result.get(name)
        if isinstance(part, dict) and key in part:
            value = part[key]
            many = isinstance(value, dict)
            moved = {each: at_root(place) for each, place in value.items()} if many else at_root(value)
            result[name] = {**part, key: moved}
    return result
