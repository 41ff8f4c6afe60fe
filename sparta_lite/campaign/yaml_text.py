"""YAML as settings are written in it: safe, small, every key once, no number read as another one."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from sparta_lite.errors import SpartaError, shortened, shown

_LONGEST = 1_000_000  # bytes of a file
_FAULTS = (yaml.YAMLError, ValueError, RecursionError)  # a date such as 2024-99-99 is a mere ValueError


class Loader(yaml.SafeLoader):
    """Safe YAML in which 1e-6 is a number and a key may stand once.

    What costs far more than it says is refused: an anchor inside itself, aliases that unfold into more than
    ``most_values`` values, brackets deeper than ``deepest``. So are numbers that YAML 1.1 reads otherwise
    than people do, 010 (8) and 1:30 (90), and tags such as !!set.
    """

    most_values = 50_000
    deepest = 50

    def __init__(self, stream: Any) -> None:
        super().__init__(stream)
        self._values = 0
        self._depth = 0
        self._open: set[str] = set()
        """Anchors of the nodes that are being composed."""
        self._sizes: dict[str, int] = {}
        """Anchor -> values in its node, those of aliases included."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if getattr(event, "tag", None) is not None:
            raise _fault(f"the tag {shown(event.tag)} is not read; write the value without it", event)
        anchor = event.anchor if isinstance(event, yaml.NodeEvent) else None
        alias = isinstance(event, yaml.AliasEvent)
        if alias and anchor in self._open:
            raise _fault(f"{shortened(str(anchor))} refers to itself; write out what is meant", event)
        before = self._values
        self._values += self._sizes.get(str(anchor), 1) if alias else 1
        if self._values > self.most_values:
            raise _fault(f"holds more than {self.most_values:,} values; give fewer", event)
        if self._depth >= self.deepest:
            raise _fault(f"nested more than {self.deepest} deep; give settings and their values", event)
        if anchor is not None and not alias:
            self._open.add(anchor)
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        if anchor is not None and not alias:
            self._open.discard(anchor)
            self._sizes[anchor] = self._values - before
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise _fault(f"the key {shown(key.value)} stands there twice; keep one", key)
                seen.add(key.value)
        return super().construct_mapping(node, deep=deep)

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        digits = node.value.replace("_", "").lstrip("+-")
        if len(digits) > 1000:
            raise _fault(f"a number of {len(digits):,} digits; give one that can be meant", node)
        number: int = super().construct_yaml_int(node)
        if ":" in digits or (digits[0] == "0" and digits[1:].isdigit()):
            raise _fault(
                f"{shortened(node.value)} is {shown(number)} to YAML; write that number, or put it in "
                "quotation marks",
                node,
            )
        return number


Loader.add_constructor("tag:yaml.org,2002:int", Loader.construct_yaml_int)


class Dumper(yaml.SafeDumper):
    """Keeps several lines of text readable; quotes what `Loader` would read as a number."""

    def represent_str(self, data: str) -> yaml.ScalarNode:
        style = "|" if "\n" in data else None
        if not data.replace("\n", "").isprintable():
            style = '"'  # only there control characters and foreign line breaks are escaped
        return self.represent_scalar("tag:yaml.org,2002:str", data, style=style)


_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$")
Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))
Dumper.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))
Dumper.add_representer(str, Dumper.represent_str)


def read_yaml(path: Path) -> Any:
    """What a YAML file holds, 1e-6 read as a number.

    Raises:
        SpartaError: it cannot be read, is not valid YAML, or holds more than settings can.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(_LONGEST + 1)
    except FileNotFoundError as error:
        raise SpartaError(
            f"{path}: no such file; `sparta-lite run --show-config` prints one to start from"
        ) from error
    except OSError as error:
        raise SpartaError(f"{path}: {error.strerror}; give a YAML file that can be read") from error
    if len(raw) > _LONGEST:
        raise SpartaError(f"{path}: larger than {_LONGEST:,} bytes; give a YAML file of settings")
    try:
        return parse_yaml(raw.decode("utf-8-sig"), str(path))
    except UnicodeDecodeError as error:
        raise SpartaError(f"{path}: not UTF-8 ({error.reason} at byte {error.start}); save it so") from error


def parse_yaml(text: str, source: str) -> Any:
    """The same for ``text``, which comes from ``source``.

    Raises:
        SpartaError: see ``read_yaml``.
    """
    try:
        return yaml.load(text, Loader)
    except _FAULTS as error:
        mark = getattr(error, "problem_mark", None)
        place = "" if mark is None else f", line {mark.line + 1}, column {mark.column + 1}"
        problem = shortened(str(getattr(error, "problem", None) or error), 150)
        advice = "" if ";" in problem else "; correct it, or put text in quotation marks"
        raise SpartaError(f"{source}{place}: not valid YAML: {problem}{advice}") from error


def to_yaml(value: Any) -> str:
    """``value`` as YAML that ``read_yaml`` reads back."""
    return yaml.dump(value, Dumper=Dumper, allow_unicode=True)


def _fault(problem: str, place: Any) -> yaml.MarkedYAMLError:
    """``place``: the node or event where it is."""
    return yaml.constructor.ConstructorError(None, None, problem, place.start_mark)
