"""What a campaign works on: base, adapters, instructions, held-out questions; refused before any work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sparta_lite.campaign.arena import judge_limit, question_limit
from sparta_lite.campaign.planning import without_sizes
from sparta_lite.campaign.provenance import hashes
from sparta_lite.campaign.resident import Choices, Resident, base_source, load_resident
from sparta_lite.campaign.settings import POCKET, Config
from sparta_lite.campaign.tasks import held_out
from sparta_lite.campaign.tribe import find_tribe
from sparta_lite.data.instructions import Instructions, load_instructions
from sparta_lite.data.task import Task
from sparta_lite.data.tasks import load_task_instructions
from sparta_lite.engine.base import Base
from sparta_lite.engine.chat import Chat
from sparta_lite.engine.hub import local
from sparta_lite.errors import SpartaError
from sparta_lite.pocket import items

_POCKET_DUELS = 2400  # distinct questions: more than the default run draws


@dataclass(frozen=True)
class Inputs:
    resident: Resident
    instructions: Instructions
    held_out: Sequence[Task]
    hashes: Mapping[str, str]
    """SHA-256 of the settings, and of everything above that was read from files."""


def load_inputs(config: Config, choices: Choices) -> Inputs:
    """Load all that ``config`` names, what is quick to refuse first.

    Raises:
        SpartaError: something is missing, malformed, or does not fit the rest.
    """
    places = find_tribe(config)
    instructions, tasks = _instructions(config), held_out(config)
    resident = load_resident(config, choices, places, training=True)
    _require_room(config, resident.base, resident.chat)
    others = {
        "config.yaml": without_sizes(config).model_dump(exclude_defaults=True),
        "instructions": instructions.texts,
        "held-out questions": [[(each.text, each.answer) for each in task.questions] for task in tasks],
    }
    digests = hashes(local(base_source(config.base)), places, others)
    return Inputs(resident, instructions, tasks, digests)


def _instructions(config: Config) -> Instructions:
    data = config.data
    if data.task is not None:
        path = None if data.path == POCKET else data.path
        return load_task_instructions(data.task, path, data.subset, data.split, data.filter)
    if data.path == POCKET:
        return Instructions(tuple(item.question for item in items("duel", _POCKET_DUELS)))
    return load_instructions(data.path, data.column, data.template, data.subset, data.split, data.filter)


def _require_room(config: Config, base: Base, chat: Chat) -> None:
    """Refuse, before any work, templates and limits under which no duel could be fought or judged."""
    chat.question("", question_limit(config, base.context))
    limit = judge_limit(config, base.context, chat.score_tokens)
    if chat.judge("", (), limit) is None:
        raise SpartaError(
            f"judge: its request alone fills a prompt of {limit} tokens; raise judge.max_tokens, or lower "
            "judge.max_new_tokens where it leaves too little of the base's context"
        )
