"""From files and the command line to one `Config`, and back to commented YAML."""

from __future__ import annotations

import difflib
import os
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

import sparta_lite.pocket
from sparta_lite.campaign.settings import POCKET, PRESET, Config, Section
from sparta_lite.errors import SpartaError

__all__ = ["Config", "load_config", "show_config"]

Layer = dict[str, Any]

_PRESET = Path(sparta_lite.pocket.__file__).parent / "pocket.yaml"
_WIDTH = 100
_UNREADABLE = (yaml.YAMLError, ValueError, RecursionError)  # a date such as 2024-99-99 is a mere ValueError
_HUB_ID = re.compile(r"\w[\w.-]*/[\w.-]*\w")
_LONGEST_VALUE = 60  # characters of a wrong value that an error repeats


def load_config(path: Path | None, sets: Sequence[str] = (), seed: int | None = None) -> Config:
    """Class defaults < pocket preset (with the pocket base) < the file < ``seed`` < ``sets``.

    Args:
        path: a YAML file; paths in it are relative to its directory. None: no file.
        sets: ``key=value`` with dotted keys; values are read as YAML, paths are relative to the
            working directory.
        seed: replaces the file's seed.

    Raises:
        SpartaError: all that is wrong with the settings, in one line.
    """
    layer: Layer = {}
    if path is not None:
        layer = _anchored(_mapping(read_yaml(path), str(path)), path.parent)
    if seed is not None:
        layer = _merged(layer, {"seed": seed})
    keys: set[str] = set()
    for assignment in sets:
        key, value = _assignment(assignment)
        keys.add(key)
        layer = _merged(layer, _anchored(_nested(key, value), Path.cwd()))
    if layer.get("base", POCKET) == POCKET:
        layer = _merged(_mapping(read_yaml(_PRESET), str(_PRESET)), layer)
    try:
        return Config.model_validate(layer)
    except ValidationError as error:
        source = "configuration" if path is None else str(path)
        raise SpartaError(f"{source}: {'; '.join(_explained(error, keys))}") from error


def preset_values(config: Config) -> dict[str, Any]:
    """Dotted key -> value: what the preset of its base lays over the defaults of ``config``."""
    layer = _mapping(read_yaml(_PRESET), str(_PRESET)) if config.base == POCKET else {}
    found: dict[str, Any] = {}
    for key, value in layer.items():
        found |= {f"{key}.{name}": part for name, part in value.items()} if _section(key) else {key: value}
    return found


def show_config(config: Config) -> str:
    """YAML with a comment above every field; `load_config` reads the same ``config`` back."""
    lines = []
    for name, field in Config.model_fields.items():
        value = getattr(config, name)
        if not isinstance(value, Section):
            lines.append(_entry(name, value, field.description))
            continue
        lines.append(f"\n{_comment(field.description, '')}{name}:\n")
        for part, inner in type(value).model_fields.items():
            entry = _entry(part, getattr(value, part), inner.description)
            lines.append(textwrap.indent(entry, "  "))
    return "".join(lines)


def _entry(name: str, value: Any, description: str | None) -> str:
    return _comment(description, "  ") + yaml.dump({name: value}, Dumper=_Dumper, allow_unicode=True)


def _comment(description: str | None, indent: str) -> str:
    lines = textwrap.wrap(description or "", _WIDTH - len(indent) - 2, break_on_hyphens=False)
    return "".join(f"# {line}\n" for line in lines)


class _Loader(yaml.SafeLoader):
    """Safe YAML in which 1e-6 is a number and a key may stand once."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key {key.value!r} stands there twice; keep one", key.start_mark
                    )
                seen.add(key.value)
        return super().construct_mapping(node, deep=deep)


class _Dumper(yaml.SafeDumper):
    """Keeps several lines of text readable; quotes what `_Loader` would read as a number."""

    def represent_str(self, data: str) -> yaml.ScalarNode:
        style = "|" if "\n" in data else None
        if not data.replace("\n", "").isprintable():
            style = '"'  # only there control characters and foreign line breaks are escaped
        return self.represent_scalar("tag:yaml.org,2002:str", data, style=style)


_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$")
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))
_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))
_Dumper.add_representer(str, _Dumper.represent_str)


def read_yaml(path: Path) -> Any:
    """What a YAML file holds, 1e-6 read as a number.

    Raises:
        SpartaError: it cannot be read, or is not valid YAML.
    """
    try:
        return yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except FileNotFoundError as error:
        raise SpartaError(
            f"{path}: no such file; `sparta-lite run --show-config` prints one to start from"
        ) from error
    except OSError as error:
        raise SpartaError(f"{path}: {error.strerror}; give a YAML file that can be read") from error
    except UnicodeDecodeError as error:
        raise SpartaError(f"{path}: not UTF-8 ({error.reason} at byte {error.start}); save it so") from error
    except _UNREADABLE as error:
        raise SpartaError(f"{path}{_yaml_fault(error)}") from error


def _yaml_fault(error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or str(error).replace("\n", " ")
    place = "" if mark is None else f", line {mark.line + 1}, column {mark.column + 1}"
    return f"{place}: not valid YAML: {problem}"


def _mapping(value: Any, source: str) -> Layer:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise SpartaError(f"{source}: holds {_short(value)}; give a mapping such as `iterations: 8`")
    # A section whose keys are all commented out is None.
    return {key: part for key, part in value.items() if part is not None or not _section(key)}


def _assignment(text: str) -> tuple[str, Any]:
    key, equals, written = text.partition("=")
    key = key.strip()
    if not equals or not all(key.split(".")):
        raise SpartaError(f"--set {text}: give key=value, such as --set reputation.kind=uniform")
    try:
        value = yaml.load(written, _Loader)
    except _UNREADABLE as error:
        if not _is_text(key):
            raise SpartaError(f"--set {text}{_yaml_fault(error)}") from error
        return key, written
    # "{instruction}" is a mapping to YAML, and 7 a number: a field that can only be text takes them as text.
    return key, written if _is_text(key) and not isinstance(value, str | None) else value


def _is_text(key: str) -> bool:
    section, _, name = key.rpartition(".")
    kind = _section(section) if section else Config
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


def _section(name: str) -> type[Section] | None:
    field = Config.model_fields.get(name)
    kind = field.annotation if field else None
    return kind if isinstance(kind, type) and issubclass(kind, Section) else None


def _anchored(layer: Layer, root: Path) -> Layer:
    """``layer`` with its relative paths made absolute, seen from ``root``; presets and hub ids stay."""

    def at_root(value: Any) -> Any:
        if not isinstance(value, str) or value == "" or PRESET.fullmatch(value):
            return value
        if "\0" in value:
            raise SpartaError(f"{value!r} holds a null character; give a path")
        path = os.path.abspath(root / Path(value).expanduser())
        # owner/name may be a path or a repository on the hub: what stands on the disk goes first.
        is_hub = _HUB_ID.fullmatch(value.partition("#")[0]) and not os.path.exists(path.partition("#")[0])
        return value if is_hub else path

    result = dict(layer)
    if "base" in result:
        result["base"] = at_root(result["base"])
    for section, key in (("tribe", "adapters"), ("data", "path"), ("evaluation", "paths")):
        part = result.get(section)
        if isinstance(part, dict) and key in part:
            value = part[key]
            many = isinstance(value, dict)
            moved = {name: at_root(place) for name, place in value.items()} if many else at_root(value)
            result[section] = {**part, key: moved}
    return result


def _explained(error: ValidationError, from_sets: set[str]) -> Iterator[str]:
    """One clause per error: the dotted key, what is wrong, what is allowed."""
    for fault in error.errors(include_url=False):
        key = ".".join(str(part) for part in fault["loc"])
        source = "--set " if key in from_sets else ""
        if fault["type"] in ("extra_forbidden", "invalid_key"):
            yield f"{source}{key} is unknown; did you mean {_nearest(key)}?"
        elif fault["type"] == "value_error":
            yield f"{source}{fault['ctx']['error']}"
        elif fault["type"] in ("model_type", "model_attributes_type"):
            yield f"{source}{key} is {_short(fault['input'])}; it should be a mapping of its settings"
        else:
            allowed = fault["msg"].replace("Input should be", "it should be")
            yield f"{source}{key} is {_short(fault['input'])}; {allowed}{_meant(fault)}"


def _nearest(key: str) -> str:
    """The valid dotted key that ``key`` most likely stands for."""
    section, _, name = key.rpartition(".")
    elsewhere = [valid for valid in _keys() if valid.rpartition(".")[2] == name]
    if elsewhere:
        return " or ".join(elsewhere)
    kind = _section(section) if section else Config
    here = list(kind.model_fields) if kind else []
    nearest = difflib.get_close_matches(name, here, n=1, cutoff=0.6)
    if nearest:
        return f"{section}.{nearest[0]}" if section else nearest[0]
    return difflib.get_close_matches(key, list(_keys()), n=1, cutoff=0.0)[0]


def _keys() -> Iterator[str]:
    for name in Config.model_fields:
        kind = _section(name)
        yield name
        if kind:
            yield from (f"{name}.{part}" for part in kind.model_fields)


def _meant(fault: Any) -> str:
    if fault["type"] != "literal_error":
        return ""
    valid = re.findall(r"'([^']*)'", fault["ctx"]["expected"])
    nearest = difflib.get_close_matches(str(fault["input"]), valid, n=1)
    return f" (did you mean {nearest[0]!r}?)" if nearest else ""


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _LONGEST_VALUE else f"{text[: _LONGEST_VALUE - 3]}..."
