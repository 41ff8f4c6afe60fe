"""The arms of an ablation: settings that are compared, from a grid, a file, or a preset."""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sparta_lite.campaign.config import Config, load_config
from sparta_lite.campaign.tribe import find_tribe
from sparta_lite.campaign.yaml_text import read_yaml
from sparta_lite.errors import SpartaError, shortened, shown

_NAME = re.compile(r"\w[\w.,=+-]*")
_LONGEST = 40  # characters of a value in a name
_LONGEST_NAME = 150  # bytes: a file system takes 255
_MOST = 1000  # arms
_OPENING, _CLOSING = "[{(", "]})"

Assignments = tuple[str, ...]
"""``key=value`` as ``--set`` takes them."""


@dataclass(frozen=True)
class Arm:
    name: str
    """That of its directory, too."""
    settings: Assignments
    """What sets it apart from the others."""
    config: Config
    """All of its settings, with the seed of the first run."""


def load_arms(config: Path | None, sets: Sequence[str], named: Mapping[str, Assignments]) -> tuple[Arm, ...]:
    """Arms with their complete settings.

    Args:
        config: a YAML file with what they have in common; None: the pocket tribe.
        sets: ``key=value``, for all of them.
        named: name -> what sets an arm apart.

    Raises:
        SpartaError: a name cannot be a directory's, or settings are wrong; it names the arm.
    """
    shared = load_config(config, sets)  # what is wrong here is no single arm's fault
    arms = []
    for name, settings in named.items():
        if not is_name(name):
            raise SpartaError(
                f"arm {shown(name)}: cannot name a directory; use a few letters, digits, . _ - + = and ,"
            )
        if any(re.match(r"\s*seed\s*=", each) for each in settings):
            raise SpartaError(
                f"arm {name}: the seeds of an ablation follow from --seeds and the first from --set seed=N; "
                "leave seed out"
            )
        try:
            own = load_config(config, [*sets, *settings])
        except SpartaError as error:
            raise SpartaError(f"arm {name}: {str(error).replace('--set ', '')}") from error
        arms.append(Arm(name, settings, own.model_copy(update={"seed": shared.seed})))
    return tuple(arms)


def is_name(name: str) -> bool:
    """Whether an arm can be called so: its directory is."""
    return _NAME.fullmatch(name) is not None and len(name.encode()) <= _LONGEST_NAME


@contextlib.contextmanager
def of_arm(name: str) -> Iterator[None]:
    """Say which arm it is that is refused."""
    try:
        yield
    except SpartaError as error:
        raise SpartaError(f"arm {name}: {error}") from error


def grid(vary: Sequence[str]) -> dict[str, Assignments]:
    """Every combination of ``key=value,value,...``; the last key changes fastest.

    Raises:
        SpartaError: an assignment has no value, a value twice, or a key that another one has.
    """
    axes = [_axis(each) for each in vary]
    keys = [key for key, _ in axes]
    if twice := next((key for key in keys if keys.count(key) > 1), None):
        raise SpartaError(f"--vary {twice}: stands there twice; give all its values at once")
    ends = [key.rpartition(".")[2] for key in keys]
    short = [end if ends.count(end) == 1 else key for key, end in zip(keys, ends, strict=True)]
    _require_few(math.prod(len(values) for _, values in axes), "--vary")
    arms: dict[str, Assignments] = {}
    for values in itertools.product(*(values for _, values in axes)):
        parts = [f"{key}={_in_a_name(value)}" for key, value in zip(short, values, strict=True)]
        name = _free(",".join(parts).encode()[: _LONGEST_NAME - 10].decode(errors="ignore"), arms)
        arms[name] = tuple(f"{key}={value}" for key, value in zip(keys, values, strict=True))
    return arms


def from_file(path: Path) -> dict[str, Assignments]:
    """The arms of a YAML file: a mapping of names to settings, dotted or nested, ``{}`` for none.

    Paths among them are relative to the working directory, as in ``--set``.

    Raises:
        SpartaError: it cannot be read, or holds something else.
    """
    if not path.exists():
        raise SpartaError(
            f"{path}: no such file; give a YAML file of arms, each a name and its settings such as `small: "
            "{tribe.size: 5}`, as examples/ablation.yaml is"
        )
    held = read_yaml(path)
    if not isinstance(held, dict) or not held:
        raise SpartaError(f"{path}: give a mapping of arms, such as `small: {{tribe.size: 5}}`")
    _require_few(len(held), str(path))
    arms: dict[str, Assignments] = {}
    for name, settings in held.items():
        settings = {} if settings is None else settings
        if not isinstance(name, str) or not isinstance(settings, dict):
            raise SpartaError(f"{path}: {shown(name)} is no arm; give a name and a mapping of its settings")
        arms[name] = tuple(_assigned(key, value, f"{path}: arm {name}") for key, value in settings.items())
    return arms


def _assigned(key: object, value: object, where: str) -> str:
    if not isinstance(key, str) or "=" in key:
        raise SpartaError(f"{where}: {shown(key)} is no setting; give one by name, such as tribe.size: 5")
    try:
        return f"{key}={json.dumps(value, ensure_ascii=False)}"
    except TypeError as error:  # a date
        raise SpartaError(f"{where}: {key} is {shown(value)}; put it in quotation marks") from error


def _require_few(arms: int, where: str) -> None:
    if arms > _MOST:
        raise SpartaError(f"{where}: makes {arms:,} arms; give fewer values, for {_MOST:,} arms at most")


def _reputation(config: Config) -> dict[str, Assignments]:
    return {"default": (), "uniform": ("reputation.kind=uniform",)}


def _matchmaking(config: Config) -> dict[str, Assignments]:
    return {"default": (), "random": ("matchmaking.alpha=1",)}


def _size(config: Config) -> dict[str, Assignments]:
    """The whole tribe, half of it, and three: the fewest that can duel, for two fight and one judges."""
    full = len(find_tribe(config))
    return {f"size={size}": (f"tribe.size={size}",) for size in _falling(full, full // 2, 3) if size >= 3}


def _diversity(config: Config) -> dict[str, Assignments]:
    """Tribes of one size made of ever fewer different adapters: the first ones, under several names each."""
    places = find_tribe(config)
    if None in places.values():
        raise SpartaError(
            "--preset diversity: the adapters of 'fresh-N' are alike; give trained ones in tribe.adapters"
        )
    arms: dict[str, Assignments] = {f"{len(places)}-different": ()}
    for count in _falling(len(places) // 2, 2, 1):
        pool: dict[str, str] = {}
        for number, (name, place) in zip(
            range(len(places)), itertools.cycle(list(places.items())[:count]), strict=False
        ):
            again = number // count
            pool[_free(name if again == 0 else f"{name}-{again + 1}", pool)] = str(place)
        # A mapping is laid over another one: the text in between takes the other one away.
        arms[f"{count}-different"] = (
            "tribe.adapters=none",
            f"tribe.adapters={json.dumps(pool)}",
            f"tribe.size={len(places)}",
        )
    return arms


PRESETS: dict[str, Callable[[Config], dict[str, Assignments]]] = {
    "reputation": _reputation,
    "matchmaking": _matchmaking,
    "size": _size,
    "diversity": _diversity,
}
"""The paper's ablations by one word; the first arm of each is the settings as they are."""


def from_preset(name: str, config: Path | None, sets: Sequence[str]) -> dict[str, Assignments]:
    """The arms of one of ``PRESETS`` for these settings.

    Raises:
        SpartaError: there is no such preset, or the tribe that it needs cannot be found.
    """
    if name not in PRESETS:
        raise SpartaError(f"--preset {shortened(name)}: there is none; give one of {', '.join(PRESETS)}")
    return PRESETS[name](load_config(config, sets))


def _axis(text: str) -> tuple[str, list[str]]:
    key, equals, listed = text.partition("=")
    key, values, given = key.strip(), [value.strip() for value in _split(listed)], shortened(text)
    if not equals or not key or not all(values):
        raise SpartaError(f"--vary {given}: give key=value,value, such as reputation.kind=paper,uniform")
    if len(set(values)) < len(values):
        raise SpartaError(f"--vary {given}: names a value twice; name each once")
    return key, values


def _split(text: str) -> Iterator[str]:
    """At the commas that stand in no brackets and no quotation marks."""
    part, depth, quote = "", 0, ""
    for character in text:
        if character == "," and not depth and not quote:
            yield part
            part = ""
            continue
        part += character
        if quote:
            quote = "" if character == quote else quote
        elif character in "\"'":
            quote = character
        else:
            depth += (character in _OPENING) - (character in _CLOSING)
    yield part


def _in_a_name(value: str) -> str:
    return re.sub(r"[^\w.+-]+", "-", value).strip("-")[:_LONGEST] or "x"


def _free(name: str, taken: Mapping[str, object]) -> str:
    """``name``, or the first of ``name-2``, ``name-3``, ... that is not taken."""
    names = itertools.chain([name], (f"{name}-{number}" for number in itertools.count(2)))
    return next(each for each in names if each not in taken)


def _falling(*counts: int) -> list[int]:
    return sorted({count for count in counts if count >= 1}, reverse=True)
