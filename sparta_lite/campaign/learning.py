"""Every adapter learns from the iteration's pairs, with what the metrics say of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from sparta_lite.campaign.arena import Arena
from sparta_lite.campaign.baseline import budget, learners, win_rates
from sparta_lite.campaign.events import TrainingStep, Warned
from sparta_lite.campaign.metrics import Evaluation, Metric, Trained, Update
from sparta_lite.campaign.records import FoughtDuel, Judgment
from sparta_lite.campaign.training_state import read_training, write_training
from sparta_lite.combat import Preference
from sparta_lite.engine.bank import Bank
from sparta_lite.engine.peft_io import write_adapter
from sparta_lite.training.dpo import train
from sparta_lite.training.optim import cosine
from sparta_lite.training.packing import TokenizedPair
from sparta_lite.training.phase import DpoResult, DpoSettings, DpoState, DpoStep
from sparta_lite.training.unsloth import wrap_with_unsloth
from sparta_lite.training.view import wrap_with_peft


def learn(
    arena: Arena,
    iteration: int,
    fought: Sequence[FoughtDuel],
    judgments: Sequence[Judgment],
    pairs: Sequence[Preference],
) -> None:
    """Every adapter, or the one that learns alone, learns from all pairs of the iteration."""
    config, store = arena.config, arena.store
    pupils = learners(arena)
    first = arena.bank.slot(pupils[0])
    bank = arena.bank if pupils == arena.tribe else arena.bank.part(first, first + 1)
    settings = DpoSettings(
        **config.training.model_dump(exclude={"save_every", "trainer", "reuse_logprobs"}),
        loss="sppo" if config.algorithm == "sppo" else "dpo",
    )
    resume = _recorded_state(arena, iteration)
    at_once = min(settings.adapters_at_once or len(pupils), bank.limit)
    if arena.trainer != "tribe":
        at_once = 1
    updates = settings.epochs * -(-len(pairs) // settings.batch)
    moving = sum(cosine(update, updates, settings.warmup) > 0 for update in range(updates))
    groups = -(-len(pupils) // at_once)
    done = resume.done if resume else 0
    _forget_updates(arena, iteration, bank, at_once, done)
    tokenized = [_tokenized(arena, fought[pair.duel.index], pair) for pair in pairs]
    if config.algorithm == "sppo":
        rates = win_rates(judgments, pairs)
        tokenized = [replace(pair, win_rate=rate) for pair, rate in zip(tokenized, rates, strict=True)]
    tokens = sum(pair.tokens for pair in tokenized)
    if not pairs:
        arena.listener(
            Warned(f"iteration {iteration + 1}: no duel made a preference pair; nothing is learned")
        )

    with arena.phase(iteration, "train", updates * groups, done) as meter:
        steps: list[DpoStep] = []

        def on_step(step: DpoStep) -> None:
            steps.append(step)
            arena.metrics.add([Update(iteration, **vars(step))], durable=False)
            group = bank.slot(step.adapter) // at_once
            if bank.slot(step.adapter) == min((group + 1) * at_once, len(pupils)) - 1:
                names = [each.adapter for each in steps]
                arena.listener(
                    TrainingStep(
                        iteration,
                        step.step,
                        step.steps,
                        dict(zip(names, (each.loss for each in steps), strict=True)),
                        dict(zip(names, (each.margin for each in steps), strict=True)),
                    )
                )
                steps.clear()
                meter.add(1, settings.epochs * tokens * len(names) // step.steps)

        def keep(state: DpoState) -> None:
            arena.metrics.sync()
            write_training(store.training(iteration), state)

        try:
            result = _trainer(arena)(
                bank,
                tokenized,
                settings,
                seed=config.seed,
                iteration=iteration,
                pad=0,
                on_step=on_step,
                save=keep,
                resume=resume,
                on_shrink=arena.on_shrink,
                known=_known(arena, bank, fought, judgments, pairs) if arena.reuses_logprobs else None,
            )
        finally:
            if bank is not arena.bank:
                arena.bank.take_back(first, bank)
        arena.metrics.add(
            [
                Trained(
                    iteration=iteration,
                    pairs=len(pairs),
                    moved=result.moved,
                    cut_prompts=result.truncated.prompts,
                    cut_completions=result.truncated.completions,
                ),
                budget(config, iteration, pupils, fought, judgments, moving),
            ]
        )

        def write(directory: Path) -> None:
            for name in arena.tribe:
                write_adapter(directory / name, arena.bank, name, arena.adapter_configs[name])

        store.write_adapters(iteration, write)


def _recorded_state(arena: Arena, iteration: int) -> DpoState | None:
    """Where a stopped training goes on; None: at its beginning."""
    path = arena.store.training(iteration)
    if not path.is_file():
        return None
    state = read_training(path)
    if state is None:
        arena.listener(
            Warned(f"{path} is of an earlier version, without a digest: the iteration's training begins anew")
        )
    return state


def _trainer(arena: Arena) -> Callable[..., DpoResult]:
    """``dpo.train`` or ``sequential.train_in_turn``, with what only one of them takes."""
    if arena.trainer == "tribe":
        return partial(train, arena.base.decoder, save_every=arena.config.training.save_every)
    # TRL is slow to import, and Unsloth has to have patched it before.
    from sparta_lite.training.sequential import train_in_turn

    wrap = wrap_with_unsloth if arena.trainer == "unsloth" else wrap_with_peft
    return partial(train_in_turn, arena.base.model, arena.base.tokenizer, wrap=wrap)


def _tokenized(arena: Arena, fought: FoughtDuel, pair: Preference) -> TokenizedPair:
    """The pair in the very tokens that were generated."""
    prompt = arena.question(fought.instruction).ids
    return TokenizedPair(prompt, fought.responses[pair.chosen].ids, fought.responses[pair.rejected].ids)


def _known(
    arena: Arena,
    bank: Bank,
    fought: Sequence[FoughtDuel],
    judgments: Sequence[Judgment],
    pairs: Sequence[Preference],
) -> Tensor:
    """Log-probabilities of chosen and rejected under the adapters as they were in this iteration's duels.

    Both fighters' records hold each one's own answer, a judge's hold both where it read them as a fighter.
    Training starts from the versions of the adapters that fought and judged, so that these are its reference.

    Returns:
        float32 [adapters of ``bank``, pairs, 2], NaN where nothing is known.
    """
    known = torch.full((len(arena.tribe), len(pairs), 2), torch.nan)
    place = {pair.duel.index: number for number, pair in enumerate(pairs)}
    for number, pair in enumerate(pairs):
        for column, side in enumerate((pair.chosen, pair.rejected)):
            logprob = fought[pair.duel.index].responses[side].logprob
            if logprob is not None:
                known[arena.bank.slot(pair.duel.fighters[side]), number, column] = logprob
    for judgment in judgments:
        if judgment.duel not in place:
            continue
        number = place[judgment.duel]
        for column, side in enumerate((pairs[number].chosen, pairs[number].rejected)):
            logprob = judgment.logprobs[side]
            if logprob is not None:
                known[arena.bank.slot(judgment.judge), number, column] = logprob
    return known[[arena.bank.slot(adapter.name) for adapter in bank.adapters]]


def _forget_updates(arena: Arena, iteration: int, bank: Bank, at_once: int, done: int) -> None:
    """Drop what the metrics say of updates that a resumed training will make again."""

    def repeated(row: Metric) -> bool:
        if row.iteration != iteration or isinstance(row, Evaluation):
            return False
        if not isinstance(row, Update):
            return True
        return bank.slot(row.adapter) // at_once * row.steps + row.step >= done

    rows = arena.metrics.rows
    first = next((number for number, row in enumerate(rows) if repeated(row)), len(rows))
    kept = [row for row in rows[first:] if not repeated(row)]
    arena.metrics.cut(first)
    if kept:
        arena.metrics.add(kept)
