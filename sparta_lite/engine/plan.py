"""The largest batches of a run that fit into a device's memory.

Nothing is loaded. Lengths are taken at their limits, so that a plan is the worst case of its settings.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from sparta_lite.engine.phases import Phase, kv_bytes, phases_of
from sparta_lite.engine.shape import Shape, weight_bytes
from sparta_lite.engine.work import Machine, Sizes, Work

Given = Mapping[str, Any]
"""Some of the ``Sizes`` by name: those that the settings say."""

_ENOUGH_TOKENS = 2048  # in a training pass: with room for fewer, activations are computed twice
_MOST_TOKENS = 32768  # in one pass: beyond it a card gains nothing


@dataclass(frozen=True)
class Plan:
    shape: Shape
    work: Work
    machine: Machine
    sizes: Sizes
    given: Given
    weights: int
    phases: tuple[Phase, ...]

    @property
    def peak(self) -> int:
        """Bytes, without the reserve."""
        return self.weights + max(phase.memory for phase in self.phases)

    @property
    def kv(self) -> int:
        """Keys and values of one token in all layers, in bytes."""
        return kv_bytes(self.shape, self.work.number)

    @property
    def needed(self) -> int:
        return self.peak + self.machine.reserve

    @property
    def fits(self) -> bool:
        return self.needed <= self.machine.memory

    @property
    def kept(self) -> int:
        """Bytes that generation may leave for its next call: its cache, and what steps are recorded in."""
        return max(
            phase.memory - phase.parts["adapters"] for phase in self.phases if "KV cache" in phase.parts
        )

    @property
    def keeps(self) -> bool:
        """Whether that has room beside the phases that do not generate."""
        others = max(phase.memory for phase in self.phases if "KV cache" not in phase.parts)
        return self.weights + others + self.kept + self.machine.reserve <= self.machine.memory


def plan(shape: Shape, work: Work, machine: Machine, given: Given) -> Plan:
    """The largest sizes that fit; where none do, the plan with the smallest.

    More memory never makes a size smaller, with one exception: where it lets the training keep its
    activations, that comes first, for it saves a third of the training's operations.

    Args:
        shape: of the base.
        work: what the run asks.
        machine: the device.
        given: sizes that the settings name: they stand as they are.
    """

    def made(sizes: Sizes) -> Plan:
        return planned(shape, work, machine, sizes, given)

    def fits(sizes: Sizes) -> bool:
        return made(sizes).fits

    most = _most(work, machine)
    enough = Sizes(min(16, most.places), min(4096, most.batch_tokens), 1, 1, True, 1)
    least = replace(enough, places=1, batch_tokens=min(work.judge_prompt, enough.batch_tokens))
    if not fits(least):
        return made(least)
    if fits(replace(enough, resident=most.resident)):
        return made(_grown(replace(enough, resident=most.resident), most, work, fits))
    if fits(enough):
        return made(_largest(enough, "resident", most.resident, fits))
    return made(_grown(least, enough, work, fits))


def planned(shape: Shape, work: Work, machine: Machine, sizes: Sizes, given: Given | None = None) -> Plan:
    """The plan with exactly these sizes, but for those that are ``given``."""
    given = given or {}
    sizes = replace(sizes, **given)
    if "adapters_at_once" not in given:
        sizes = replace(sizes, adapters_at_once=min(sizes.adapters_at_once, sizes.resident))
    phases = []
    for phase in phases_of(shape, work, sizes, machine.kind == "cuda"):
        activations = int(phase.parts["activations"] * work.factors.get(phase.name, 1))
        phases.append(Phase(phase.name, {**phase.parts, "activations": activations}))
    weights = weight_bytes(shape, work.four_bit, work.number)
    return Plan(shape, work, machine, sizes, given, weights, tuple(phases))


def corrected(made: Plan, factors: Mapping[str, float]) -> Plan:
    """``made`` planned anew after a warm-up.

    Args:
        made: the plan.
        factors: phase -> by how much its activations took more than planned; what took less stays as it is.
    """
    before = made.work.factors
    more = {phase: before.get(phase, 1.0) * factor for phase, factor in factors.items() if factor > 1}
    if not more:
        return made
    return plan(made.shape, replace(made.work, factors={**before, **more}), made.machine, made.given)


def _most(work: Work, machine: Machine) -> Sizes:
    together = work.adapters if work.trainer == "tribe" else 1
    if machine.kind == "cpu":  # larger passes leave its cache
        return Sizes(64, 2048, min(4, work.batch), together, False, work.adapters)
    pairs = _MOST_TOKENS // (together * work.packed)
    return Sizes(256, _MOST_TOKENS, max(1, min(work.batch, pairs)), together, False, work.adapters)


def _grown(start: Sizes, most: Sizes, work: Work, fits: Callable[[Sizes], bool]) -> Sizes:
    """Every size as near to ``most`` as fits; the phases do not share what they take."""
    for name in ("places", "batch_tokens"):
        start = _largest(start, name, getattr(most, name), fits)
    if start.checkpointing and not most.checkpointing:
        together = min(most.adapters_at_once, -(-_ENOUGH_TOKENS // work.packed))
        pairs = min(most.micro_batch, -(-_ENOUGH_TOKENS // (together * work.packed)))
        kept = replace(start, checkpointing=False, adapters_at_once=together, micro_batch=pairs)
        start = kept if fits(kept) else start
    start = _largest(start, "adapters_at_once", most.adapters_at_once, fits)
    if start.adapters_at_once == most.adapters_at_once:
        start = _largest(start, "micro_batch", most.micro_batch, fits)
    return start


def _largest(start: Sizes, name: str, most: int, fits: Callable[[Sizes], bool]) -> Sizes:
    """``start`` with the largest ``name`` up to ``most`` that fits; ``start`` itself does."""
    low, high = getattr(start, name), most
    while low < high:
        middle = (low + high + 1) // 2
        if fits(replace(start, **{name: middle})):
            low = middle
        else:
            high = middle - 1
    return replace(start, **{name: low})
