"""What a campaign works on: base, adapters, instructions, held-out questions; refused before any work."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from sparta_lite.campaign.arena import judge_limit, question_limit
from sparta_lite.campaign.baseline import require_learner
from sparta_lite.campaign.config import load_config
from sparta_lite.campaign.hostility import hostile
from sparta_lite.campaign.keeping import Kept
from sparta_lite.campaign.planning import without_places, without_sizes
from sparta_lite.campaign.provenance import digest, digest_of_value, hashes
from sparta_lite.campaign.resident import Choices, Resident, load_resident
from sparta_lite.campaign.settings import POCKET, Config
from sparta_lite.campaign.settings.duels import PUBLISHED
from sparta_lite.campaign.sources import base_source
from sparta_lite.campaign.tasks import held_out
from sparta_lite.campaign.tribe import Places, find_tribe
from sparta_lite.data.instructions import Instructions, load_instructions
from sparta_lite.data.task import Task
from sparta_lite.data.tasks import load_answers, load_task_instructions
from sparta_lite.engine.base import Base
from sparta_lite.engine.chat import Chat
from sparta_lite.engine.gguf_file import gguf_file
from sparta_lite.engine.hub import base_directory
from sparta_lite.errors import SpartaError
from sparta_lite.pocket import items

POCKET_DUELS = 2400
"""Distinct questions: more than the default run draws."""
_SETTINGS = "config.yaml"


@dataclass(frozen=True)
class Inputs:
    resident: Resident
    instructions: Instructions
    held_out: Sequence[Task]
    references: Mapping[str, str]
    """Instruction -> reference answer, for the algorithm that learns from them; else empty."""
    hashes: Mapping[str, str]
    """SHA-256 of the settings, and of everything above that was read from files."""


def load_inputs(
    config: Config, choices: Choices, kept: Kept | None = None, date: datetime | None = None
) -> Inputs:
    """Load all that ``config`` names, what is quick to refuse first.

    Args:
        config: the run's settings.
        choices: from ``choose``.
        kept: what earlier runs of this process have loaded and later ones shall find; None: nothing.
        date: what a chat template that prints the date prints; None: now.

    Raises:
        SpartaError: something is missing, malformed, or does not fit the rest.
    """
    places, instructions, tasks = look_up(config)
    if kept is None:
        resident = load_resident(config, choices, places, training=True, date=date)
    else:
        resident = kept.resident(config, choices, places, date)
    _require_room(config, resident.base, resident.chat)
    references = _references(config, instructions) if config.algorithm == "spin" else {}
    others: dict[str, object] = {
        _SETTINGS: without_sizes(config).model_dump(exclude_defaults=True),
        "instructions": instructions.texts,
        "held-out questions": [[(each.text, each.answer) for each in task.questions] for task in tasks],
    }
    if references:
        others["reference answers"] = references
    hasher = kept.digest if kept else digest
    source = base_source(config.base)
    digests = hashes(gguf_file(source) or base_directory(source), places, others, hasher)
    return Inputs(resident, instructions, tasks, references, digests)


def settings_digest(config: Config) -> str:
    """SHA-256 of the settings without sizes of batches, and without where things stand."""
    return digest_of_value(without_places(config).model_dump(exclude_defaults=True))


def is_digest_of(recorded: str | None, config: Config, path: Path) -> bool:
    """Whether a run recorded this ``settings_digest`` of ``config``, which ``path`` holds, in any version."""
    return recorded in (settings_digest(config), _earlier_digest(path, without_places))


def changed(recorded: Mapping[str, str], inputs: Inputs, path: Path) -> list[str]:
    """Which hashes of a run are no longer those of ``inputs``, whose settings ``path`` holds."""
    names = [name for name, value in recorded.items() if inputs.hashes.get(name) != value]
    if _SETTINGS in names and recorded[_SETTINGS] == _earlier_digest(path, without_sizes):
        names.remove(_SETTINGS)
    return names


def _earlier_digest(path: Path, opened: Callable[[Config], Config]) -> str:
    """What an earlier version took of the settings in ``path``.

    ``checkpoint`` and how judges are sampled in mode 'expected' counted, where they were not the defaults.
    """
    config = load_config(path, as_written=True)
    usual = {key: None for key, value in PUBLISHED._asdict().items() if getattr(config.judge, key) == value}
    counted = {
        "checkpoint": None if config.checkpoint == 100 else config.checkpoint,
        "judge": config.judge.model_copy(update=usual),
    }
    return digest_of_value(opened(config).model_copy(update=counted).model_dump(exclude_defaults=True))


def look_up(config: Config) -> tuple[Places, Instructions, tuple[Task, ...]]:
    """All that ``config`` names but the base: places of the adapters, instructions, held-out questions.

    Raises:
        SpartaError: something is missing or malformed, or the tribe lacks who is to learn or to be healthy.
    """
    places, instructions, tasks = find_tribe(config), _instructions(config), held_out(config)
    hostile(config, tuple(places))
    require_learner(config, tuple(places), tasks)
    return places, instructions, tasks


def _instructions(config: Config) -> Instructions:
    data = config.data
    if data.task is not None:
        path = None if data.path == POCKET else data.path
        return load_task_instructions(data.task, path, data.subset, data.split, data.filter)
    if data.path == POCKET:
        return Instructions(tuple(item.question for item in items("duel", POCKET_DUELS)))
    return load_instructions(data.path, data.column, data.template, data.subset, data.split, data.filter)


def _references(config: Config, instructions: Instructions) -> dict[str, str]:
    """The reference answer of every instruction.

    Raises:
        SpartaError: the data has none.
    """
    data, answers = config.data, dict[str, str | None]()
    if data.task is not None:
        path = None if data.path == POCKET else data.path
        found = load_answers(data.task, path, data.subset, data.split, data.filter)
        answers = {text: question.answer for text, question in found.items()}
    elif data.path == POCKET:
        answers = {item.question: item.answer for item in items("duel", POCKET_DUELS)}
    known = {text: answer for text in instructions.texts if (answer := answers.get(text)) is not None}
    if len(known) < len(instructions.texts):
        raise SpartaError(
            f"algorithm: spin learns from reference answers, and {len(instructions.texts) - len(known)} of "
            f"{len(instructions.texts)} instructions have none; set data.task to a task with answers, or "
            "choose another algorithm"
        )
    return known


def _require_room(config: Config, base: Base, chat: Chat) -> None:
    """Refuse, before any work, templates and limits under which no duel could be fought or judged."""
    chat.question("", question_limit(config, base.context))
    limit = judge_limit(config, base.context, chat.score_tokens)
    if chat.judge("", (), limit) is None:
        raise SpartaError(
            f"judge: its request alone fills a prompt of {limit} tokens; raise judge.max_tokens, or lower "
            "judge.max_new_tokens where it leaves too little of the base's context"
        )
