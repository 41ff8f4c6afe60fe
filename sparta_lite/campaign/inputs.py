"""What a campaign works on: base, adapters, instructions, held-out questions; refused before any work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sparta_lite.campaign.arena import judge_limit, question_limit
from sparta_lite.campaign.provenance import hashes
from sparta_lite.campaign.settings import POCKET, Config
from sparta_lite.data.instructions import Instructions, load_instructions
from sparta_lite.engine.bank import Bank
from sparta_lite.engine.base import Base, load_base
from sparta_lite.engine.chat import Chat
from sparta_lite.engine.peft_io import load_bank, read_adapter
from sparta_lite.errors import SpartaError
from sparta_lite.pocket import Item, adapter_paths, base_path, items

_POCKET_DUELS = 2400  # distinct questions: more than the default run draws


@dataclass(frozen=True)
class Inputs:
    device: torch.device
    base: Base
    bank: Bank
    adapter_configs: Mapping[str, Mapping[str, Any]]
    chat: Chat
    instructions: Instructions
    held_out: Sequence[Item]
    hashes: Mapping[str, str]
    """SHA-256 of everything above that was read from files."""


def load_inputs(config: Config) -> Inputs:
    """Load all that ``config`` names.

    Raises:
        SpartaError: something is missing, malformed, or does not fit the rest.
    """
    device = _device(config)
    base_at = base_path() if config.base == POCKET else Path(config.base)
    adapters_at = _adapter_places(config)
    base = load_base(base_at, device)
    files = [read_adapter(name, path) for name, path in adapters_at.items()]
    bank = load_bank(base.decoder, files)
    chat = Chat(base.tokenizer, config.generation.system, config.judge.layout, config.judge.wording)
    _require_room(config, base, chat)
    instructions = _instructions(config)
    return Inputs(
        device=device,
        base=base,
        bank=bank,
        adapter_configs={file.adapter.name: file.config for file in files},
        chat=chat,
        instructions=instructions,
        held_out=items("held-out", config.evaluation.items) if config.data.path == POCKET else (),
        hashes=hashes(base_at, adapters_at, instructions.texts),
    )


def _adapter_places(config: Config) -> dict[str, Path]:
    """Where every adapter of the tribe stands, in the tribe's order.

    Raises:
        SpartaError: there are fewer than three adapters, or fewer than ``tribe.size``.
    """
    given = config.tribe.adapters
    if given == POCKET:
        places = adapter_paths()
    elif isinstance(given, dict):
        places = {name: Path(path) for name, path in given.items()}
    else:
        if not Path(given).is_dir():
            raise SpartaError(f"tribe.adapters: {given} is no directory; give one that holds PEFT adapters")
        found = sorted(Path(given).glob("*/adapter_config.json"))
        places = {path.parent.name: path.parent for path in found}
    if len(places) < (config.tribe.size or 0):
        raise SpartaError(
            f"tribe.size is {config.tribe.size}, but {given} holds {len(places)} PEFT adapters; lower it"
        )
    places = dict(list(places.items())[: config.tribe.size])
    if len(places) < 3:
        raise SpartaError(
            f"tribe.adapters: {given} holds {len(places)} PEFT adapters; two fight and at least one judges, "
            "so give 3 or more"
        )
    return places


def _instructions(config: Config) -> Instructions:
    if config.data.path == POCKET:
        return Instructions(tuple(item.question for item in items("duel", _POCKET_DUELS)), duplicates=0)
    return load_instructions(config.data.path, config.data.column, config.data.template)


def _require_room(config: Config, base: Base, chat: Chat) -> None:
    """Refuse, before any work, templates and limits under which no duel could be fought or judged."""
    chat.question("", question_limit(config, base.context))
    limit = judge_limit(config, base.context, chat.score_tokens)
    if chat.judge("", (), limit) is None:
        raise SpartaError(
            f"judge: its request alone fills a prompt of {limit} tokens; raise judge.max_tokens, or lower "
            "judge.max_new_tokens where it leaves too little of the base's context"
        )


def _device(config: Config) -> torch.device:
    if config.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if config.device == "cuda" and not torch.cuda.is_available():
        raise SpartaError("device: torch sees no CUDA device; set device to cpu or auto")
    return torch.device(config.device)
