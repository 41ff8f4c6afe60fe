"""Which of two trainers a plan finds faster, before the base is loaded and after the warm-up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import get_args

from sparta_lite.campaign.run_record import RunRecord
from sparta_lite.engine.pace import seconds
from sparta_lite.engine.plan import Plan, plan
from sparta_lite.errors import SpartaError, shortened
from sparta_lite.training.choice import Trainer

_REASON = 160  # characters of what stands in the way of a trainer


def faster(made: Callable[[Trainer], Plan]) -> tuple[Trainer, str]:
    """The trainer whose plan takes less time for the training of an iteration, and both figures.

    Args:
        made: the plan with a trainer; raises ``SpartaError`` where there is none.

    Raises:
        SpartaError: there is none with either, as tribe's says it.
    """
    ours, theirs = _seconds(made, "tribe"), _seconds(made, "unsloth")
    if isinstance(theirs, SpartaError):
        if isinstance(ours, SpartaError):
            raise ours
        return "tribe", f"not unsloth: {shortened(str(theirs), _REASON)}"
    if isinstance(ours, SpartaError):
        return "unsloth", f"not tribe: {shortened(str(ours), _REASON)}"
    return "tribe" if ours <= theirs else "unsloth", f"by the plan {_figures(ours, theirs)}"


def begun_with(record: RunRecord | None) -> tuple[Trainer, str] | None:
    """The trainer that a run began with, and why; None: it has not begun, or says nothing of it."""
    said = "" if record is None else record.choices.get("trainer", "")
    name, _, why = said.partition(" (")
    found: Trainer | None = next((each for each in get_args(Trainer) if each == name), None)
    return None if found is None else (found, why.removesuffix(")"))


def overtaken(warmed: Plan) -> str | None:
    """What to say where a warm-up has made tribe's plan slower than Unsloth's; None: it has not.

    The base is loaded by then, and not through Unsloth, so that this run keeps its trainer. The other way
    round needs no word: a warm-up of tribe never makes its plan faster.
    """
    if warmed.work.trainer != "tribe":
        return None
    factors = {name: each for name, each in warmed.work.factors.items() if name != "train"}
    given = {name: size for name, size in warmed.given.items() if name != "adapters_at_once"}
    packed = warmed.work.four_bit or warmed.work.unpacked
    work = replace(warmed.work, trainer="unsloth", factors=factors, four_bit=packed, unpacked=False)
    theirs = plan(warmed.shape, work, warmed.machine, given)
    ours, other = seconds(warmed)["train"], seconds(theirs)["train"]
    if not theirs.fits or ours <= other:
        return None
    return (
        f"after the warm-up {_figures(ours, other)}, through which the base would have to be loaded: "
        "training.trainer=unsloth takes it"
    )


def _figures(ours: float, theirs: float) -> str:
    return f"an iteration's training takes {ours:,.0f} s with tribe and {theirs:,.0f} s with unsloth"


def _seconds(made: Callable[[Trainer], Plan], trainer: Trainer) -> float | SpartaError:
    try:
        return seconds(made(trainer))["train"]
    except SpartaError as error:
        return error
