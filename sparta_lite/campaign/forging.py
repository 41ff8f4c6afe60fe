"""A tribe from one data set: an adapter for every value of a column, each on the same resident base."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from sparta_lite.campaign.provenance import begun
from sparta_lite.campaign.resident import choices_for
from sparta_lite.campaign.sources import base_source
from sparta_lite.data.conversations import TULU_V2, Columns, Subsets, read_subsets, sample
from sparta_lite.data.row import some
from sparta_lite.engine.base import Base, Quantization, load_base
from sparta_lite.engine.hub import CONFIG_FILE
from sparta_lite.engine.peft_io import write_adapter
from sparta_lite.engine.template import TurnsError, now
from sparta_lite.errors import SpartaError, shown
from sparta_lite.files import read_json, write_json
from sparta_lite.training.sft import Lesson, SftSettings, tokenize, train_adapter
from sparta_lite.training.unsloth import load_model, wrap_with_unsloth
from sparta_lite.training.view import Wrap, wrap_with_peft

_RECORD = "forge.json"


@dataclass(frozen=True)
class ForgePlan:
    """What decides the adapters; it stands beside them as ``forge.json``."""

    base: str
    data: str
    by: str | None
    columns: Columns
    split: str | None
    rows: int | None
    """The most rows of a subset; None: all."""
    quantization: Quantization
    seed: int
    settings: SftSettings


def forge_tribe(plan: ForgePlan, out: Path, say: Callable[[str], None] = lambda line: None) -> None:
    """Make one adapter per subset into ``out/<subset>/``; those that are there already stay.

    Raises:
        SpartaError: the data or the base is at fault, or ``out`` holds what another plan has made.
    """
    _require_place(plan, out)
    subsets = read_subsets(plan.data, plan.by, plan.columns, plan.split)
    if plan.data == TULU_V2:
        say("gemini_alpaca is made from the mixture's gpt4_alpaca: it has no answers by Gemini")
    if subsets.skipped:
        say(f"{len(subsets.skipped)} rows were skipped: {some(subsets.skipped)}")
    missing = [name for name in subsets.conversations if not (out / name / CONFIG_FILE).is_file()]
    for name in subsets.conversations:
        if name not in missing:
            say(f"{name}: made already")
    if not missing:
        return
    base, wrap = _load(plan)
    for notice in base.notices:
        say(notice)
    date = _date(plan, out)
    lessons = {name: _lessons(base, plan, subsets, name, date, say) for name in missing}
    write_json(out / _RECORD, {**asdict(plan), "date": date.isoformat()})
    for name in missing:
        bank, start, result = train_adapter(
            base, lessons[name], plan.settings, wrap=wrap, seed=plan.seed, name=name
        )
        write_adapter(out / name, bank, name, start.config)
        steps = "1 step" if result.steps == 1 else f"{result.steps} steps"
        losses = f"{result.first_loss:.3f} to {result.last_loss:.3f}"
        say(f"{name}: {len(lessons[name])} conversations, {steps}, loss {losses}")


def _load(plan: ForgePlan) -> tuple[Base, Wrap]:
    """The base, once for all subsets, and what makes a PEFT model of it: Unsloth where it can."""
    choices = choices_for(plan.base)
    unsloth = choices.trainer == "unsloth"
    base = load_base(
        base_source(plan.base),
        choices.device,
        choices.dtype,
        plan.quantization,
        loader=load_model if unsloth else None,
    )
    return base, wrap_with_unsloth if unsloth else wrap_with_peft


def _require_place(plan: ForgePlan, out: Path) -> None:
    record = out / _RECORD
    if not record.is_file():
        # A process that was killed at once has left at most a file that was not put in place.
        if out.exists() and (not out.is_dir() or any(each.suffix != ".partial" for each in out.iterdir())):
            raise SpartaError(f"{out}: exists already; give --out a directory that does not")
        return
    before: dict[str, Any] = read_json(record, ("base", "data"))
    now = asdict(plan)
    changed = [name for name in now if before.get(name) != now[name]]
    if changed and any(out.glob(f"*/{CONFIG_FILE}")):
        raise SpartaError(
            f"{out}: its adapters were forged with another {', '.join(changed)}; give another --out"
        )


def _date(plan: ForgePlan, out: Path) -> datetime:
    """What a chat template takes for now: when the first of the plan's adapters was begun."""
    path = out / _RECORD
    record: dict[str, Any] = read_json(path) if path.is_file() else {}
    same = all(record.get(name) == value for name, value in asdict(plan).items())
    return begun(record["date"], None, path) if same and "date" in record else now()


def _lessons(
    base: Base, plan: ForgePlan, subsets: Subsets, name: str, date: datetime, say: Callable[[str], None]
) -> list[Lesson]:
    """The subset's conversations as tokens; those that cannot be learned from are said.

    Raises:
        SpartaError: the base's template refuses most of them, or no answer begins early enough.
    """
    placed = list(zip(subsets.places[name], subsets.conversations[name], strict=True))
    chosen = sample(placed, plan.rows, plan.seed, name)
    lessons, refused, late = [], [], []
    for place, conversation in chosen:
        try:
            lesson = tokenize(base, conversation, plan.settings.max_length, date)
        except TurnsError as error:
            refused.append((place, error))
            continue
        if lesson is None:
            late.append(place)
        else:
            lessons.append(lesson)
    places = some([place for place, _ in refused])
    if 2 * len(refused) > len(chosen):
        raise SpartaError(
            f"{plan.data}: of the subset {shown(name)} {len(refused)} of {len(chosen)} rows cannot be used "
            f"({places}): {refused[0][1]}; remove them, or choose another --base"
        )
    if not lessons:
        raise SpartaError(
            f"{plan.data}: in the subset {shown(name)} no answer begins within {plan.settings.max_length} "
            "tokens; raise --max-length"
        )
    if refused:
        say(f"{name}: {len(refused)} rows were skipped: {places}; {refused[0][1]}")
    if late:
        say(f"{name}: {len(late)} rows were skipped, their answers begin too late: {some(late)}")
    return lessons
