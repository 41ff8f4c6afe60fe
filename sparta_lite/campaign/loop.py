"""The campaign: iteration after iteration, each phase on the disk before the next begins."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from sparta_lite.campaign.arena import Arena
from sparta_lite.campaign.baseline import face_itself, learners
from sparta_lite.campaign.config import load_recorded, show_config
from sparta_lite.campaign.duelling import fight, judge, match
from sparta_lite.campaign.events import (
    Event,
    LearnsAlone,
    Listener,
    PhaseFinished,
    PhaseStarted,
    RunFinished,
    RunStarted,
    StandingsChanged,
    Warned,
    to_row,
)
from sparta_lite.campaign.hostility import hostile
from sparta_lite.campaign.inputs import changed, load_inputs, settings_digest
from sparta_lite.campaign.journals import Log, open_metrics
from sparta_lite.campaign.keeping import Kept
from sparta_lite.campaign.learning import learn
from sparta_lite.campaign.measuring import evaluate, is_measured
from sparta_lite.campaign.plan_text import announcement, brief
from sparta_lite.campaign.planning import is_planned, planned, with_sizes_of
from sparta_lite.campaign.provenance import begun, versions
from sparta_lite.campaign.reading import read_reputation
from sparta_lite.campaign.reluctance import of_all_iterations, reluctance
from sparta_lite.campaign.resident import choose, unpacked
from sparta_lite.campaign.resuming import require_sound
from sparta_lite.campaign.run_record import FORMAT, UNCHECKED, RunRecord, digest_of
from sparta_lite.campaign.settings import Config
from sparta_lite.campaign.settling import settle_votes, standings
from sparta_lite.campaign.store import Store
from sparta_lite.campaign.trainers import overtaken
from sparta_lite.campaign.tribe import tribe_names
from sparta_lite.campaign.warming import warm_up
from sparta_lite.combat import Standing, begin
from sparta_lite.engine import attention, nf4
from sparta_lite.engine.peft_io import AdapterFile, load_bank, read_adapter
from sparta_lite.engine.template import now as today
from sparta_lite.errors import SpartaError
from sparta_lite.files import write_text


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
    run_on(None, config, out, resume, listener)


def run_on(kept: Kept | None, config: Config, out: Path, resume: bool, listener: Listener) -> None:
    """``run``, on the base and the adapters that ``kept`` holds from earlier runs of this process.

    What stands in the run's directory afterwards is the same.
    """
    store = Store(out)
    _require_place(store, resume)
    with store.locked():
        _require_place(store, resume)  # another run may have come and gone since
        try:
            with contextlib.nullcontext() if resume else store.announced(show_config(config)):
                _campaign(config, store, resume, listener, kept)
        except BaseException as end:
            # What ended the run is what the user must hear of, also when the disk cannot take it down.
            with contextlib.suppress(SpartaError):
                store.close(end)
            raise


def _require_place(store: Store, resume: bool) -> None:
    if resume and not store.run.is_file() and (not store.config.is_file() or store.holds_foreign_files()):
        raise SpartaError(f"{store.root}: no run to resume there; leave --resume out to start one")
    if not resume and store.run.is_file():
        raise SpartaError(
            f"{store.root}: holds a run already; add --resume to go on with it or choose another --out"
        )
    if not resume and store.holds_foreign_files():
        raise SpartaError(
            f"{store.root}: holds files that are no run's; choose an empty or a new directory for --out"
        )


def _campaign(config: Config, store: Store, resume: bool, listener: Listener, kept: Kept | None) -> None:
    started = time.time()
    if resume:
        recorded = load_recorded(store.config)
        if with_sizes_of(config, recorded) != recorded:
            raise SpartaError(
                f"{store.root}: was started with other settings; resume without a config file and --set"
            )
        config = recorded
    # A run that was killed before it began has left its settings alone: it begins now.
    record = store.read_run() if store.run.is_file() else None
    if record is not None:
        require_sound(store, config, tribe_names(config))
    # A chat template may print the date: a run keeps the one that it began with.
    date = begun(record.date, record.started, store.run) if record else kept.date if kept else today()
    # Sums depend on the number of threads: a run keeps the one that it began with.
    torch.set_num_threads(config.threads or (record.threads if record else torch.get_num_threads()))
    held_by_base = kept.held if kept else 0
    choices = choose(config, record=record, held=held_by_base)
    asked, plan, plans, behind = config, None, [], None
    if record is None or not is_planned(config):
        plan, config = planned(config, choices, held_by_base)
        plans.append(replace(announcement(plan, config), brief=brief(plan, store.config)))
        listener(plans[-1])
    nf4.recall(record.choices.get("nf4", "") if record else "")
    inputs = load_inputs(config, choices, kept, date)
    resident = inputs.resident
    if plan is not None and choices.device.type == "cuda":
        warmed, config = warm_up(resident.base, resident.bank, asked, plan)
        if warmed is not plan:
            plan = warmed
            plans.append(announcement(plan, config))
            listener(plans[-1])
            behind = overtaken(plan) if config.training.trainer == "auto" else None
    tribe = tuple(adapter.name for adapter in resident.bank.adapters)
    spoilers = hostile(config, tribe)
    standing = begin(tribe, config.reputation.settings())
    chosen = {**choices.reasons, **attention.choices(resident.base.decoder.mixers), **nf4.choices()}
    if resident.base.unpacked:
        chosen["weights"] = unpacked(choices)
    now = {
        "device": str(choices.device),
        "threads": torch.get_num_threads(),
        "versions": versions(),
        "choices": chosen,
    }

    if record is not None:
        if names := changed(record.hashes, inputs, store.config):
            raise SpartaError(f"{store.root}: {', '.join(names)} changed since the run began; put it back")
        store.update_run(status="running", error=None)
    else:
        settings = show_config(config)
        write_text(store.config, settings)
        store.update_run(
            format=FORMAT,
            status="running",
            seed=config.seed,
            algorithm=config.algorithm,
            hostile=list(spoilers),
            **now,
            hashes=dict(inputs.hashes),
            date=date.isoformat(),
            started=started,
            settings=settings_digest(config),
            files={store.config.name: vars(digest_of(settings.encode()))},
        )
    log = Log(store, store.events)
    ended = record.finished if record is not None and record.status == "finished" else None
    held: list[dict[str, Any]] = [to_row(each, time.time()) for each in plans]

    def tell(event: Event) -> None:
        nonlocal ended
        held.append(to_row(event, time.time()))
        if isinstance(event, PhaseStarted):
            ended = None
        if ended is None:  # else the run was over, and looking at it again leaves no trace
            log.append(held, durable=False)
            held.clear()
            if isinstance(event, PhaseFinished) and event.phase == "train":
                log.sync()
        listener(event)

    arena = Arena(
        config=config,
        store=store,
        listener=tell,
        base=resident.base,
        bank=resident.bank,
        adapter_configs=resident.adapter_configs,
        chat=resident.chat,
        trainer=choices.trainer,
        instructions=inputs.instructions.texts,
        tasks=inputs.held_out,
        metrics=open_metrics(store),
        references=inputs.references,
        keeps_warm=plan is not None and plan.keeps,
    )
    tell(
        RunStarted(
            run=str(store.root),
            base=config.base,
            device=str(choices.device),
            tribe=tribe,
            iterations=config.iterations,
            duels=config.duels,
            seed=config.seed,
            resumed=record is not None,
            choices=chosen,
            algorithm=config.algorithm,
            hostile=spoilers,
        )
    )
    for notice in (
        *resident.base.notices,
        *inputs.instructions.notices(config.data.task or config.data.path),
    ):
        tell(Warned(notice))
    for notice in (notice for task in inputs.held_out for notice in task.notices):
        tell(Warned(notice))
    if behind is not None:
        tell(Warned(behind))
    arena.look_at_kernels()
    if record is not None:
        for name, (is_now, was) in _changes(now, record).items():
            tell(Warned(f"{name} is {is_now}, at the run's start it was {was}: results may differ"))
        if record.sha256 is None:
            tell(Warned(f"{store.root}: {UNCHECKED}"))
    _iterations(arena, standing)
    _look_back(arena)
    seconds = time.time() - started
    tell(RunFinished(seconds))
    log.sync()
    store.update_run(status="finished", finished=ended or time.time())


def _changes(now: Mapping[str, Any], record: RunRecord) -> dict[str, tuple[str, str | None]]:
    """Device and versions that are not those that a run began with: (now, then)."""
    here = {"device": now["device"], **now["choices"], **now["versions"]}
    there = {"device": record.device, **record.choices, **record.versions}
    return {name: (value, there.get(name)) for name, value in here.items() if there.get(name) != value}


def _iterations(arena: Arena, standing: Standing) -> None:
    config, store = arena.config, arena.store
    evaluate(arena, 0)
    if config.algorithm != "sparta":
        arena.listener(LearnsAlone(*learners(arena)))
    for iteration in range(config.iterations):
        last = iteration + 1 == config.iterations
        measured = last or (iteration + 1) % config.evaluation.every == 0
        if store.adapters(iteration).is_dir():
            store.training(iteration).unlink(missing_ok=True)
            latest = last or not store.adapters(iteration + 1).is_dir()
            lost = measured and not is_measured(arena, iteration + 1)
            standing = _recall(arena, iteration, restore=latest or lost)
            if measured:
                evaluate(arena, iteration + 1)
            continue
        if config.algorithm == "sparta":
            duels = match(arena, iteration, standing)
        else:
            duels = face_itself(arena, iteration)
        fought = fight(arena, iteration, duels)
        judgments = judge(arena, iteration, fought)
        standing, pairs = settle_votes(arena, iteration, standing, fought, judgments)
        learn(arena, iteration, fought, judgments, pairs)
        if measured:
            evaluate(arena, iteration + 1)


def _look_back(arena: Arena) -> None:
    """Say at the end what is worth knowing of the judges of all iterations."""
    config = arena.config
    if config.iterations > 1:
        said = reluctance(config.judge, of_all_iterations(arena.store, config.iterations))
        if said:
            arena.listener(Warned(said))


def _recall(arena: Arena, iteration: int, restore: bool) -> Standing:
    """Where an iteration that is already done left the tribe; its adapters too where they are needed."""
    record = read_reputation(arena.store, iteration)
    standing = record.after
    tribe = standings(standing, record.tally, record.judge_weights)
    arena.listener(StandingsChanged(iteration, tribe))
    if restore:
        files: list[AdapterFile] = [
            read_adapter(name, arena.store.require_adapter(iteration, name)) for name in arena.tribe
        ]
        saved = load_bank(arena.base.decoder, files, resident=arena.bank.limit)
        arena.bank.restore(dict(saved.tensors()))
    return standing
