"""The campaign: iteration after iteration, each phase on the disk before the next begins."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

import torch

from sparta_lite.campaign.arena import Arena, judge_limit, question_limit
from sparta_lite.campaign.config import load_config, show_config
from sparta_lite.campaign.duelling import fight, judge, match
from sparta_lite.campaign.events import (
    Event,
    Listener,
    RunFinished,
    RunStarted,
    StandingsChanged,
    Warned,
    to_row,
)
from sparta_lite.campaign.learning import learn
from sparta_lite.campaign.measuring import evaluate
from sparta_lite.campaign.provenance import hashes, versions
from sparta_lite.campaign.settings import POCKET, Config
from sparta_lite.campaign.settling import settle_votes, standings
from sparta_lite.campaign.store import FORMAT, Store
from sparta_lite.combat import Standing, begin
from sparta_lite.data.instructions import Instructions, load_instructions
from sparta_lite.engine.base import Base, load_base
from sparta_lite.engine.chat import Chat
from sparta_lite.engine.peft_io import AdapterFile, load_bank, read_adapter
from sparta_lite.errors import SpartaError
from sparta_lite.files import Journal, read_json, write_text
from sparta_lite.pocket import adapter_paths, base_path, items

_POCKET_DUELS = 2400  # distinct questions: more than the default run draws


def run(config: Config, out: Path, resume: bool, listener: Listener) -> None:
    """Run a campaign in the directory ``out``, or go on with the one that stands there.

    Args:
        config: all settings; with ``resume`` those that the run was started with.
        out: the run's directory.
        resume: go on where a stopped run's files end.
        listener: told what happens.

    Raises:
        SpartaError: the directory holds another run or none to resume, its inputs have changed, or
            something is wrong with base, adapters or data. Finished work stays as it is.
    """
    store = Store(out)
    _require_place(store, resume)
    with store.locked():
        _require_place(store, resume)  # another run may have come and gone since
        try:
            _campaign(config, store, resume, listener)
        except BaseException as end:
            # What ended the run is what the user must hear of, also when the disk cannot take it down.
            with contextlib.suppress(SpartaError):
                store.close(end)
            raise


def _require_place(store: Store, resume: bool) -> None:
    if resume and not store.run.is_file():
        raise SpartaError(f"{store.root}: no run to resume there; leave --resume out to start one")
    if not resume and store.run.is_file():
        raise SpartaError(
            f"{store.root}: holds a run already; add --resume to go on with it or choose another --out"
        )
    if not resume and store.holds_foreign_files():
        raise SpartaError(
            f"{store.root}: holds files that are no run's; choose an empty or a new directory for --out"
        )


def _campaign(config: Config, store: Store, resume: bool, listener: Listener) -> None:
    started = time.time()
    if resume and load_config(store.config, [], None) != config:
        raise SpartaError(
            f"{store.root}: was started with other settings; resume without a config file and without --set"
        )
    record = store.read_run() if resume else {}
    device = _device(config)
    # Sums depend on the number of threads: a run keeps the one that it began with.
    torch.set_num_threads(config.threads or record.get("threads") or torch.get_num_threads())
    base_at = base_path() if config.base == POCKET else Path(config.base)
    adapters_at = adapter_places(config)
    base = load_base(base_at, device)
    files = [read_adapter(name, path) for name, path in adapters_at.items()]
    bank = load_bank(base.decoder, files)
    instructions = _instructions(config)
    held_out = items("held-out", config.evaluation.items) if config.data.path == POCKET else []
    chat = Chat(base.tokenizer, config.generation.system, config.judge.layout, config.judge.wording)
    _require_room(config, base, chat)
    standing = begin(tuple(adapters_at), config.reputation.settings())

    inputs = hashes(base_at, adapters_at, instructions.texts)
    changed = [name for name, value in record.get("hashes", {}).items() if inputs.get(name) != value]
    if changed:
        raise SpartaError(f"{store.root}: {', '.join(changed)} changed since the run began; put it back")
    if resume:
        store.update_run(status="running", error=None)
    else:
        record = {"device": str(device), "threads": torch.get_num_threads(), "versions": versions()}
        write_text(store.config, show_config(config))
        store.update_run(
            format=FORMAT, status="running", seed=config.seed, **record, hashes=inputs, started=started
        )
    log = Journal(store.events)

    def tell(event: Event) -> None:
        log.append([to_row(event, time.time())], durable=False)
        listener(event)

    arena = Arena(
        config=config,
        store=store,
        listener=tell,
        base=base,
        bank=bank,
        adapter_configs={file.adapter.name: file.config for file in files},
        chat=chat,
        instructions=instructions.texts,
        items=held_out,
        metrics=Journal(store.metrics),
    )
    tell(
        RunStarted(
            run=str(store.root),
            base=config.base,
            device=str(device),
            tribe=arena.tribe,
            iterations=config.iterations,
            duels=config.duels,
            seed=config.seed,
            resumed=resume,
        )
    )
    if instructions.duplicates:
        tell(Warned(f"{config.data.path}: {instructions.duplicates} duplicate rows were left out"))
    now, then = {"device": str(device), **versions()}, {"device": record["device"], **record["versions"]}
    for name in now:
        if now[name] != then.get(name):
            tell(
                Warned(
                    f"{name} is {now[name]}, at the run's start it was {then.get(name)}: results may differ"
                )
            )
    _iterations(arena, standing)
    seconds = time.time() - started
    tell(RunFinished(seconds))
    log.append([])
    store.update_run(status="finished", finished=time.time())


def _iterations(arena: Arena, standing: Standing) -> None:
    config, store = arena.config, arena.store
    evaluate(arena, 0)
    for iteration in range(config.iterations):
        last = iteration + 1 == config.iterations
        measured = last or (iteration + 1) % config.evaluation.every == 0
        if store.adapters(iteration).is_dir():
            store.training(iteration).unlink(missing_ok=True)
            standing = _recall(arena, iteration, restore=last or not store.adapters(iteration + 1).is_dir())
            if measured:
                evaluate(arena, iteration + 1)
            continue
        duels = match(arena, iteration, standing)
        fought = fight(arena, iteration, duels)
        judgments = judge(arena, iteration, fought)
        standing, pairs = settle_votes(arena, iteration, standing, fought, judgments)
        learn(arena, iteration, fought, pairs)
        if measured:
            evaluate(arena, iteration + 1)


def _recall(arena: Arena, iteration: int, restore: bool) -> Standing:
    """Where an iteration that is already done left the tribe; its adapters too where they are needed."""
    record = read_json(arena.store.reputation(iteration))
    standing = Standing.from_json(record["after"])
    tribe = standings(standing, record["tally"], record["judge_weights"])
    arena.listener(StandingsChanged(iteration, tribe))
    if restore:
        directory = arena.store.adapters(iteration)
        files: list[AdapterFile] = [read_adapter(name, directory / name) for name in arena.tribe]
        arena.bank.restore(load_bank(arena.base.decoder, files).snapshot())
    return standing


def adapter_places(config: Config) -> dict[str, Path]:
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
