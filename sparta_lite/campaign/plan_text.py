"""A plan for people: `sparta-lite plan` prints it whole, a run records it and says it in brief."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from pathlib import Path

from sparta_lite.campaign.config import preset_values
from sparta_lite.campaign.events import Planned
from sparta_lite.campaign.planning import durations, gigabytes
from sparta_lite.campaign.settings import SIZES, Config
from sparta_lite.engine.pace import seconds, span, whole
from sparta_lite.engine.phases import cache_bytes
from sparta_lite.engine.plan import Plan
from sparta_lite.engine.shape import weight_bytes

_PARTS = ("adapters", "KV cache", "gradients", "optimizer", "activations")


def announcement(made: Plan, config: Config) -> Planned:
    """A plan as a run tells it: the whole table where sizes were left open, else two lines."""
    memory = {phase.name: made.weights + phase.memory + made.machine.reserve for phase in made.phases}
    lines = summary(made) if len(made.given) == len(SIZES) else table(made, config)
    spans = {phase: span(made, each) for phase, each in seconds(made).items()}
    return Planned(tuple(lines), memory, made.machine.memory, seconds=spans)


def summary(made: Plan) -> list[str]:
    """A plan in two lines, and what stood in the way of measuring the machine."""
    largest = max(made.phases, key=lambda phase: phase.memory)
    sizes, work = made.sizes, made.work
    resident = min(sizes.resident, work.adapters)
    kept = "activations computed twice" if sizes.checkpointing else "activations kept"
    together = f"{sizes.adapters_at_once} x {sizes.micro_batch} pairs"
    return [
        f"plan: {made.machine.name}: {gigabytes(made.needed)} of {gigabytes(made.machine.memory)}, most in "
        f"{largest.name}, {gigabytes(made.machine.reserve)} of it in reserve; time, roughly: "
        f"{durations(span(made, whole(made)))}",
        f"plan: {sizes.places} places, {sizes.batch_tokens:,} scoring tokens, {together} in training "
        f"({work.trainer}, {kept}), {resident} of {work.adapters} adapters resident",
        *(f"plan: {note}" for note in made.machine.notes),
    ]


def brief(made: Plan, recorded: Path) -> tuple[str, ...]:
    """A plan in few lines: what it comes to, what makes its times uncertain, and how to see it whole.

    Args:
        made: the plan.
        recorded: the file of the run's settings, with the sizes that were planned.
    """
    return (
        f"plan: needs {gigabytes(made.needed)} of {gigabytes(made.machine.memory)} on {made.machine.name}, "
        f"roughly {_time(made)}",
        *(f"plan: {note}" for note in made.machine.notes),
        f"plan: `sparta-lite plan {shlex.quote(str(recorded))}` shows it whole",
    )


def table(made: Plan, config: Config) -> list[str]:
    """Memory and time by phase, and the sizes that were chosen; every line has at most 80 characters."""
    work, machine, times = made.work, made.machine, seconds(made)
    number = "4 bits" if work.four_bit else f"{8 * work.number} bits"
    number = f"4 bits, unpacked to {8 * work.number}" if work.unpacked else number
    lines = [
        f"{machine.name}: {gigabytes(machine.memory)}",
        f"base: {made.shape.family}, {_count(made.shape.parameters)} parameters in {number}, "
        f"{gigabytes(made.weights)}" + ("" if made.shape.delta or work.unpacked else f"; {_keys(made)}"),
        *([_keys(made)] if work.unpacked and not made.shape.delta else []),
        *_states(made),
        f"tribe: {work.adapters} adapters of {_count(work.adapter)} numbers, "
        f"{gigabytes(4 * work.adapter)} each in fp32",
        _row("GB", _PARTS, "peak", "time"),
    ]
    for phase in made.phases:
        parts = [f"{phase.parts[part] / 1e9:.2f}" if part in phase.parts else "" for part in _PARTS]
        peak = f"{(made.weights + phase.memory) / 1e9:.2f}"
        time = durations(span(made, times[phase.name])).replace(" to ", "-")
        lines.append(_row(phase.name, parts, peak, time))
    libraries = "CUDA context" if machine.kind == "cuda" else "libraries"
    lines.append(
        f"needs {gigabytes(made.needed)}, of it {gigabytes(machine.reserve)} in reserve for the {libraries} "
        "and fragmentation"
    )
    preset = preset_values(config)
    for name, key in SIZES.items():
        size = getattr(made.sizes, name)
        source = "" if name not in made.given else " (preset)" if preset.get(key) == size else " (as given)"
        lines.append(f"  {key}: {json.dumps(size)}{source}")
    if made.sizes.resident < work.adapters:
        waiting = work.adapters - made.sizes.resident
        lines.append(f"{waiting} adapters wait in host memory, {gigabytes(4 * work.adapter)} each")
    return [
        *lines,
        f"training is by the trainer {work.trainer}; each time above is for one iteration",
        *machine.notes,
        f"{work.iterations} x {work.duels:,} duels take roughly {_time(made)}",
    ]


def _keys(made: Plan) -> str:
    return f"KV {made.kv / 1024:.4g} KiB a token"


def _states(made: Plan) -> list[str]:
    """What layers with the delta rule, whose states do not grow, save of an answer's memory."""
    shape, work = made.shape, made.work
    if shape.delta is None:
        return []
    length = work.prompt + work.answer
    full, own = (cache_bytes(each, work.number, length) for each in (replace(shape, delta=None), shape))
    return [
        f"{_keys(made)} in {shape.attention_layers} of {shape.layers} layers, in the others "
        f"{shape.delta.sequence_bytes(work.number) / 2**20:.4g} MiB an answer",
        f"so {full / own:.1f} x as many answers fit as with attention in every layer",
        _held(made),
    ]


def _held(made: Plan) -> str:
    work = made.work
    packed = work.four_bit or work.unpacked
    other = gigabytes(weight_bytes(made.shape, not packed, work.number))
    if packed:
        return f"4 bits cost such a base more than others; quantization=none takes {other}"
    return f"unquantised, as such a base is where it fits; quantization=nf4 takes {other}"


def _time(made: Plan) -> str:
    """Of the whole run, such as '40 s with usual answers'."""
    kind = "the longest" if made.work.usual is None else "usual"
    return f"{durations(span(made, whole(made)))} with {kind} answers"


def _row(name: str, parts: tuple[str, ...] | list[str], peak: str, time: str) -> str:
    columns = (f"{part:>{len(title)}}" for part, title in zip(parts, _PARTS, strict=True))
    return f"{name:<8} {' '.join(columns)} {peak:>6} {time:>14}".rstrip()


def _count(number: int) -> str:
    """Such as 7.62 billion or 0.16 million."""
    return f"{number / 1e9:.2f} billion" if number >= 1e8 else f"{number / 1e6:.2f} million"
