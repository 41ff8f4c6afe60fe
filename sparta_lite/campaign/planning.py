"""From the settings of a run to a memory plan, and to settings in which no size is left open."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import torch

from sparta_lite.campaign.arena import question_limit
from sparta_lite.campaign.settings import POCKET, SIZES, Config
from sparta_lite.campaign.settings.section import parse_memory as parse_memory
from sparta_lite.campaign.sources import base_source, config_file
from sparta_lite.campaign.tribe import find_tribe, to_be_forged
from sparta_lite.engine.hub import CONFIG_FILE, base_directory
from sparta_lite.engine.known import TULU_ADAPTERS, shipped_adapter, shipped_base
from sparta_lite.engine.pace import Span, card, processor, seconds, whole
from sparta_lite.engine.peft_config import read_settings
from sparta_lite.engine.plan import Plan, plan
from sparta_lite.engine.shape import Shape, adapter_parameters, read_shape
from sparta_lite.engine.work import Machine, Trainer, Usual, Work
from sparta_lite.errors import SpartaError
from sparta_lite.training.unsloth import ARCHITECTURES

if TYPE_CHECKING:  # it plans to choose
    from sparta_lite.campaign.resident import Choices

Adapter = tuple[int, "str | Sequence[str]"]
"""Rank and target modules."""
Adapters = Sequence[Adapter]

_UNPACK = "engine.unpack"
_PLANNED = (*SIZES.values(), _UNPACK, "checkpoint")
_PART = 100  # duels between two saves
_LOST = 300.0  # seconds of generating that a run on a card may lose when it is killed
_REPLY = 16  # tokens that the forced beginning of a score has at most
_POCKET = Usual(question=14, answer=5, request=26, pairs=0.5)
"""The embedded questions, and what the embedded tribe makes of them."""
_MOMENTS = {"adamw": 8.0, "adamw-8bit": 2 * (1 + 4 / 256)}  # bytes a number; in 8 bits a scale per 256


def planned(
    config: Config, choices: Choices | None, held: int = 0, planning: bool = False
) -> tuple[Plan, Config]:
    """Plan a run from the configuration files of its base and adapters; no weights are read.

    Args:
        config: null sizes in it are chosen, the others stand.
        choices: device, dtype and trainer; None: a card that is not here, with the memory of ``vram``.
        held: bytes that the run will find taken by a base that is loaded already: its own.
        planning: no run follows at once, so that shipped numbers will do; see ``find_tribe``.

    Returns:
        The plan, and ``config`` with every size filled in.

    Raises:
        SpartaError: the run cannot fit, or what it names cannot be read.
    """
    directory = config_file(config.base, planning).parent
    if config.trust_remote_code:
        directory = base_directory(base_source(config.base), ("config.json", "*.py"))
    shape = read_shape(directory, config.trust_remote_code)
    target = _target(config, choices, shape, held)
    adapters = _adapters(config, shape, planning)
    config = _held(config, shape, adapters, target)
    made = _plan(config, shape, adapters, target)
    if choices is None and config.training.trainer == "auto" and target.trainer == "unsloth":
        own = _plan(config, shape, adapters, replace(target, trainer="tribe"))
        if own.fits and not (made.fits and seconds(made)["train"] < seconds(own)["train"]):
            made = own
    if not made.fits:
        raise SpartaError(_refusal(config, shape, adapters, target, made))
    return made, with_sizes(config, made)


def assumed(config: Config) -> dict[str, str]:
    """'base' and 'tribe' -> where a plan has their numbers from, if not from their own files."""
    found = {}
    if not Path(base_source(config.base)).is_dir() and shipped_base(config.base):
        found["base"] = "numbers shipped with sparta-lite, not read from the checkpoint"
    if to_be_forged(config):
        found["tribe"] = "none there yet: adapters as `sparta-lite forge` makes them"
    given = config.tribe.adapters
    places = (
        given.values() if isinstance(given, dict) else TULU_ADAPTERS.values() if given == "tulu-10" else ()
    )
    if any(map(shipped_adapter, places)):
        found["tribe"] = "rank and layers of its authors' training code, not read"
    return found


def with_sizes(config: Config, made: Plan) -> Config:
    """``config`` with the plan's sizes, and whether it unpacks, where it leaves them open."""
    sizes = {SIZES[name]: size for name, size in vars(made.sizes).items()}
    return _with(config, {**sizes, _UNPACK: made.work.unpacked, "checkpoint": _part(made)})


def with_sizes_of(config: Config, recorded: Config) -> Config:
    """``config`` with the sizes of a run that was started before, where it leaves them open."""
    if "quantization" not in config.model_fields_set:  # it was settled by the plan
        config = _with(config, {"quantization": recorded.quantization}, replace=True)
    return _with(config, {key: recorded.at(key) for key in _PLANNED})


def without_sizes(config: Config) -> Config:
    """``config`` with every size open: all that decides a run's results."""
    return _with(config, dict.fromkeys(_PLANNED), replace=True)


def without_places(config: Config) -> Config:
    """``without_sizes``, and without where base, adapters and data stand: those may be moved."""
    places = {"base": "", "tribe.adapters": "", "data.path": "", "evaluation.paths": {}}
    return _with(without_sizes(config), places, replace=True)


def is_planned(config: Config) -> bool:
    """Whether no size is open."""
    return all(config.at(key) is not None for key in _PLANNED)


def _part(made: Plan) -> int:
    """Duels between two saves.

    At the end of a part places of its batch stay empty: on a card, where a step of few rows takes about as
    long as one of many, a part is as large as the loss of its answers may cost.
    """
    if made.machine.kind == "cpu":
        return _PART
    each = seconds(made)["generate"] / made.work.duels
    return max(_PART, min(made.work.duels, int(_LOST / each)))


def gigabytes(size: float) -> str:
    return f"{size / 1e9:.2f} GB"


def duration(seconds: float) -> str:
    """Such as 40 s, 12 min, 3.5 h: an estimate has no more digits."""
    if seconds < 100:
        return f"{max(seconds, 1):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def durations(estimated: Span) -> str:
    """Such as 3 to 8 min, 40 s to 2 min."""
    least, most = map(duration, estimated)
    if least == most:
        return least
    (number, unit), (_, other) = least.split(), most.split()
    return f"{number if unit == other else least} to {most}"


@dataclass(frozen=True)
class _Target:
    machine: Machine
    number: int
    """Bytes of one number of the base there."""
    trainer: Trainer


def _target(config: Config, choices: Choices | None, shape: Shape, held: int) -> _Target:
    given = None if config.vram is None else parse_memory(config.vram)
    if choices is None:
        if given is None:
            raise SpartaError("plan: a card that is not here needs its memory; give vram, such as 24GB")
        size = 2 if config.dtype == "auto" else getattr(torch, config.dtype).itemsize
        return _Target(card(f"a card with {config.vram}", given), size, _trainer(config, shape))
    if choices.device.type == "cuda":
        name = torch.cuda.get_device_name(choices.device)
        machine = card(name, given or torch.cuda.mem_get_info(choices.device)[0] + held)
    else:
        machine = processor(given or psutil.virtual_memory().available + held, choices.dtype)
    return _Target(machine, choices.dtype.itemsize, choices.trainer)


def _trainer(config: Config, shape: Shape) -> Trainer:
    """The trainer on a card that is not here."""
    if config.training.trainer != "auto":
        return config.training.trainer
    ours = config.engine.unpack and _in_four_bits(config, shape)  # unsloth would refuse to unpack them
    theirs = not ours and find_spec("unsloth") and shape.family in ARCHITECTURES
    return "unsloth" if theirs else "tribe"


def _in_four_bits(config: Config, shape: Shape) -> bool:
    return config.quantization == "nf4" or shape.quantized


def _adapters(config: Config, shape: Shape, planning: bool) -> Adapters:
    """Rank and target modules of every adapter, by its ``adapter_config.json``."""
    found: list[Adapter] = []
    for name, path in find_tribe(config, (CONFIG_FILE,), planning).items():
        if path is None:
            found.append((config.tribe.rank, "all-linear"))
            continue
        settings = read_settings(path, f"adapter {name!r} in {path}")
        adapted = settings.resolve(f"model.{each.name}" for each in shape.linears)
        if not adapted:
            raise SpartaError(
                f"{settings.where}: the base has none of its target_modules; use the base it was made for"
            )
        targets = [module.removeprefix("model.") for module in adapted]
        found.append((max(rank for rank, _ in adapted.values()), targets))
    return found


def _held(config: Config, shape: Shape, adapters: Adapters, target: _Target) -> Config:
    """``config`` with a base of the delta rule unquantised, where nothing else is asked for and it fits."""
    if shape.delta is None or shape.quantized or "quantization" in config.model_fields_set:
        return config
    plain = _with(config, {"quantization": "none"}, replace=True)
    return plain if _plan(plain, shape, adapters, target).fits else config


def _plan(config: Config, shape: Shape, adapters: Adapters, target: _Target) -> Plan:
    work = _work(config, shape, adapters, target)
    given = {name: config.at(key) for name, key in SIZES.items() if config.at(key) is not None}
    if work.trainer != "tribe":
        given.pop("adapters_at_once", None)
    if work.unpacked and work.trainer == "unsloth":
        raise SpartaError(
            "engine.unpack: unsloth trains over the 4 bits that it has loaded; set it to false, or "
            "training.trainer to tribe"
        )
    made = plan(shape, work, target.machine, given)
    if config.engine.unpack is None and work.four_bit and target.machine.kind == "cuda":
        return _faster(made, plan(shape, _unpacked(work), target.machine, given))
    return made


def _unpacked(work: Work) -> Work:
    return replace(work, four_bit=False, unpacked=True)


def _faster(packed: Plan, unpacked: Plan) -> Plan:
    """The plan with the matrices unpacked where it fits and is faster.

    And where it sends no more adapters to wait in host memory, which its time leaves out.
    """
    alike = unpacked.sizes.resident >= packed.sizes.resident and unpacked.work.trainer != "unsloth"
    return unpacked if alike and unpacked.fits and whole(unpacked) < whole(packed) else packed


def _work(config: Config, shape: Shape, adapters: Adapters, target: _Target) -> Work:
    generation, judge, training = config.generation, config.judge, config.training
    sampled = judge.mode == "sampled"
    reply = judge.max_new_tokens if sampled else _REPLY
    drawn = [(generation.temperature, generation.top_k)] + [judge.in_rounds[:2]] * sampled
    tasks = config.evaluation.tasks
    if tasks is None:  # then the task of the instructions, if they come from one
        tasks = ["its own"] if config.data.task is not None or config.data.path == POCKET else []
    at_home = config.base == config.tribe.adapters == config.data.path == POCKET and not config.data.task
    work = Work(
        adapters=len(adapters),
        adapter=adapter_parameters(shape, adapters),
        number=target.number,
        four_bit=_in_four_bits(config, shape),
        prompt=max(1, question_limit(config, shape.context)),
        answer=generation.max_new_tokens,
        judge_prompt=max(1, min(judge.max_tokens, shape.context - reply)),
        judge_answer=reply if sampled else 0,
        judge_rounds=judge.rounds,
        evaluation_answer=config.evaluation.max_new_tokens,
        length=training.max_length,
        prompt_in_training=training.max_prompt,
        batch=training.batch,
        trainer=target.trainer,
        moments=_MOMENTS[training.optimizer],
        uncut=any(temperature > 0 and top_k == 0 for temperature, top_k in drawn),
        duels=config.duels,
        iterations=config.iterations,
        epochs=training.epochs,
        questions=len(tasks) * config.evaluation.items,
        evaluations=1 + -(-config.iterations // config.evaluation.every),
        usual=_POCKET if at_home and not sampled else None,
    )
    return _unpacked(work) if config.engine.unpack and work.four_bit else work


def _refusal(config: Config, shape: Shape, adapters: Adapters, target: _Target, made: Plan) -> str:
    """Why the plan does not fit, and the fewest of these changes that would make it fit."""
    machine = made.machine
    phase = max(made.phases, key=lambda phase: phase.memory).name
    why = (
        f"plan: needs {gigabytes(made.needed)} of memory ({phase}, {gigabytes(machine.reserve)} of it in "
        f"reserve), {machine.name} has {gigabytes(machine.memory)} for it"
    )

    def fits(changes: dict[str, Any]) -> bool:
        return _plan(_with(config, changes, replace=True), shape, adapters, target).fits

    changes = _remedies(config)
    if not fits(changes):
        least = _plan(_with(config, changes, replace=True), shape, adapters, target)
        return f"{why}; the least that settings can do is {gigabytes(least.needed)}: use a smaller base"
    for key in list(changes):
        fewer = {other: value for other, value in changes.items() if other != key}
        changes = fewer if fits(fewer) else changes
    advice = " ".join(f"{key}={json.dumps(value).strip(chr(34))}" for key, value in changes.items())
    return f"{why}; it would fit with {advice}"


def _remedies(config: Config) -> dict[str, Any]:
    """Settings that save memory, the dearest first: those that are not needed are dropped in this order."""
    generation, judge, training = config.generation, config.judge, config.training
    lengths = {
        "training.max_prompt": (training.max_prompt, 128),
        "training.max_length": (training.max_length, 256),
        "judge.max_tokens": (judge.max_tokens, 1024),
        "generation.max_prompt_tokens": (generation.max_prompt_tokens, 512),
        "generation.max_new_tokens": (generation.max_new_tokens, 256),
    }
    changes: dict[str, Any] = {key: least for key, (now, least) in lengths.items() if now > least}
    if config.quantization == "none":
        changes["quantization"] = "nf4"
    if config.engine.unpack:
        changes[_UNPACK] = False
    if training.optimizer == "adamw":
        changes["training.optimizer"] = "adamw-8bit"
    return changes | {key: None for key in SIZES.values() if config.at(key) is not None}


def _with(config: Config, values: dict[str, Any], replace: bool = False) -> Config:
    """``config`` with ``values`` by dotted key: where it says null, or everywhere with ``replace``."""
    for key, value in values.items():
        if not replace and config.at(key) is not None:
            continue
        section, _, name = key.rpartition(".")
        if section:
            part = getattr(config, section).model_copy(update={name: value})
            config = config.model_copy(update={section: part})
        else:
            config = config.model_copy(update={name: value})
    return config
