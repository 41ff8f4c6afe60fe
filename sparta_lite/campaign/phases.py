"""The phases of one iteration. Each leaves its result on the disk before the next begins.

A phase that was cut off goes on where its files end. Work is done in parts of fixed membership,
so every part, and with it the whole, is the same whether or not the run was ever stopped.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from safetensors.torch import load_file, save

from sparta_lite.campaign.arena import Arena, Meter
from sparta_lite.campaign.events import (
    AdapterStanding,
    DuelDecided,
    Evaluated,
    StandingsChanged,
    TrainingStep,
    Warned,
)
from sparta_lite.campaign.records import FoughtDuel, Judgment, bouts
from sparta_lite.combat import Duel, Preference, Settlement, Standing, judges, preferences, schedule, settle
from sparta_lite.data.instructions import draw
from sparta_lite.engine.chat import JudgePrompt
from sparta_lite.engine.decode import Prompt, generate
from sparta_lite.engine.peft_io import write_adapter
from sparta_lite.engine.score import Score, expected_scores, sampled_scores
from sparta_lite.files import Journal, read_json, write_bytes, write_json, write_lines, write_whole
from sparta_lite.kernels.sampling import Sampling
from sparta_lite.pocket import is_right
from sparta_lite.randomness import key
from sparta_lite.training.dpo import DpoSettings, DpoState, DpoStep, read_state, train
from sparta_lite.training.packing import TokenizedPair

GREEDY = Sampling(temperature=0)


def match(arena: Arena, iteration: int, standing: Standing) -> list[tuple[Duel, str]]:
    """The iteration's duels, each with its instruction."""
    config = arena.config
    with arena.phase(iteration, "match", config.duels) as meter:
        drawn = draw(len(arena.instructions), config.duels, config.seed, iteration)
        duels = schedule(
            config.duels,
            arena.tribe,
            standing.reputations,
            config.matchmaking.settings(),
            config.seed,
            iteration,
        )
        meter.add(len(duels), 0)
    return [(duel, arena.instructions[drawn[duel.instruction]]) for duel in duels]


def fight(arena: Arena, iteration: int, duels: Sequence[tuple[Duel, str]]) -> list[FoughtDuel]:
    """Both fighters of every duel answer."""
    settings = arena.config.generation
    sampling = Sampling(settings.temperature, settings.top_k, settings.top_p)
    journal = Journal(arena.store.duels(iteration))
    done = _whole_parts(journal, len(duels), 1, arena.config.checkpoint)
    with arena.phase(iteration, "generate", 2 * len(duels), 2 * done) as meter:
        for part in _parts(duels[done:], arena.config.checkpoint):
            prompts = [
                Prompt(
                    fighter,
                    question(arena, instruction),
                    key(arena.config.seed, "generate", iteration, duel.index, fighter),
                )
                for duel, instruction in part
                for fighter in duel.fighters
            ]
            responses = generate(
                arena.base, arena.bank, prompts, sampling, settings.max_new_tokens, settings.places, meter.add
            )
            journal.append(
                FoughtDuel(duel, instruction, (responses[2 * index], responses[2 * index + 1])).to_row()
                for index, (duel, instruction) in enumerate(part)
            )
    journal.close()
    return [FoughtDuel.from_row(row) for row in journal.rows]


def judge(arena: Arena, iteration: int, fought: Sequence[FoughtDuel]) -> list[Judgment]:
    """Everyone who does not fight in a duel scores both answers, each on its own."""
    panel = len(arena.tribe) - 2
    journal = Journal(arena.store.judgments(iteration))
    done = _whole_parts(journal, len(fought), panel, arena.config.checkpoint)
    with arena.phase(iteration, "judge", 2 * panel * len(fought), 2 * panel * done) as meter:
        for part in _parts(fought[done:], arena.config.checkpoint):
            journal.append(judgment.to_row() for judgment in _judge_part(arena, iteration, part, meter))
    journal.close()
    return [Judgment.from_row(row) for row in journal.rows]


def settle_votes(
    arena: Arena,
    iteration: int,
    standing: Standing,
    fought: Sequence[FoughtDuel],
    judgments: Sequence[Judgment],
) -> tuple[Standing, list[Preference]]:
    """Votes become verdicts, reputations and preference pairs."""
    rules = arena.config.reputation.settings()
    cast = bouts(fought, judgments)
    with arena.phase(iteration, "settle", len(cast)) as meter:
        settlement = settle(standing, cast, rules)
        found = preferences(cast, settlement, rules, arena.config.pairs.minimum_margin)
        pairs = [pair for pair in found if pair is not None]
        write_lines(
            arena.store.preferences(iteration),
            [_preference_row(arena, pair, fought[pair.duel.index]) for pair in pairs],
        )
        tally = _tally(arena, iteration, fought, settlement)
        weights = judge_shares(arena, settlement.standing)
        write_json(
            arena.store.reputation(iteration),
            {
                "iteration": iteration,
                "before": standing.to_json(),
                "after": settlement.standing.to_json(),
                "judge_weights": weights,
                "tally": tally,
                "verdicts": [
                    None if verdict is None else {"scores": list(verdict.scores), "winner": verdict.winner}
                    for verdict in settlement.verdicts
                ],
            },
        )
        meter.add(len(cast), 0)
    for each, (_, votes), verdict in zip(fought, cast, settlement.verdicts, strict=True):
        winner = None if verdict is None or verdict.winner is None else each.duel.fighters[verdict.winner]
        arena.listener(
            DuelDecided(
                iteration=iteration,
                duel=each.duel.index,
                instruction=each.instruction,
                fighters=each.duel.fighters,
                responses=(each.responses[0].text, each.responses[1].text),
                votes=dict(votes),
                scores=None if verdict is None else verdict.scores,
                winner=winner,
            )
        )
    arena.listener(StandingsChanged(iteration, standings(settlement.standing, tally, weights)))
    _warn_of_failures(arena, iteration, judgments)
    return settlement.standing, pairs


def learn(arena: Arena, iteration: int, fought: Sequence[FoughtDuel], pairs: Sequence[Preference]) -> None:
    """Every adapter learns from all pairs of the iteration."""
    config, store = arena.config, arena.store
    settings = DpoSettings(**config.training.model_dump(exclude={"save_every"}))
    path = store.training(iteration)
    resume = read_state(load_file(path)) if path.is_file() else None
    at_once = settings.adapters_at_once or len(arena.tribe)
    updates = settings.epochs * -(-len(pairs) // settings.batch)
    groups = -(-len(arena.tribe) // at_once)
    done = resume.done if resume else 0
    _forget_updates(arena, iteration, at_once, done)
    lengths = sum(len(question(arena, each.instruction)) for each in fought)

    with arena.phase(iteration, "train", updates * groups, done) as meter:
        steps: list[DpoStep] = []

        def on_step(step: DpoStep) -> None:
            steps.append(step)
            arena.metrics.append([_training_row(iteration, step)], durable=False)
            group = arena.bank.slot(step.adapter) // at_once
            if arena.bank.slot(step.adapter) == min((group + 1) * at_once, len(arena.tribe)) - 1:
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
                meter.add(1, lengths * len(names) // max(step.steps, 1))

        def keep(state: DpoState) -> None:
            arena.metrics.append([])
            data = save(state.tensors())
            write_whole(path, lambda temporary: write_bytes(temporary, data))

        result = train(
            arena.base.decoder,
            arena.bank,
            [_tokenized(arena, fought[pair.duel.index], pair) for pair in pairs],
            settings,
            seed=config.seed,
            iteration=iteration,
            pad=0,
            on_step=on_step,
            save=keep,
            save_every=config.training.save_every,
            resume=resume,
        )
        arena.metrics.append(
            [
                {
                    "kind": "trained",
                    "iteration": iteration,
                    "pairs": len(pairs),
                    "moved": result.moved,
                    "cut_prompts": result.truncated.prompts,
                    "cut_completions": result.truncated.completions,
                }
            ]
        )
        store.write_adapters(
            iteration,
            lambda directory: [  # type: ignore[func-returns-value]
                write_adapter(directory / name, arena.bank, name, arena.adapter_configs[name])
                for name in arena.tribe
            ],
        )


def evaluate(arena: Arena, iteration: int) -> None:
    """Greedy answers of every adapter and of the bare base to the held-out questions."""
    if not arena.items:
        return
    known = [row for row in arena.metrics.rows if row["kind"] == "evaluation"]
    if not any(row["iteration"] == iteration for row in known):
        bare = known[0]["base"] if known else None
        names: list[str | None] = [*arena.tribe] if known else [*arena.tribe, None]
        with arena.phase(iteration, "evaluate", len(names) * len(arena.items)) as meter:
            rights = _rights(arena, names, meter)
        accuracy = {name: _share(rights[name]) for name in arena.tribe}
        arena.metrics.append(
            [
                {
                    "kind": "evaluation",
                    "iteration": iteration,
                    "items": len(arena.items),
                    "accuracy": accuracy,
                    "base": _share(rights[None]) if bare is None else bare,
                    "by_skill": {name: _by_skill(arena, rights[name]) for name in arena.tribe},
                }
            ]
        )
        known = [row for row in arena.metrics.rows if row["kind"] == "evaluation"]
    row = next(row for row in known if row["iteration"] == iteration)
    arena.listener(Evaluated(iteration, row["accuracy"], row["base"]))


def question(arena: Arena, instruction: str) -> tuple[int, ...]:
    """The prompt of an instruction, cut to what the configuration and the base's context allow."""
    settings = arena.config.generation
    room = arena.base.context - settings.max_new_tokens
    return arena.chat.question(instruction, min(settings.max_prompt_tokens, room)).ids


def judge_shares(arena: Arena, standing: Standing) -> dict[str, float]:
    """Every adapter's share of the judges' weight, as the rules of the run weigh them."""
    if arena.config.reputation.settings().reading.judge_weights == "uniform":
        return dict.fromkeys(arena.tribe, 1 / len(arena.tribe))
    total = sum(standing.reputations.values())
    return {name: reputation / total for name, reputation in standing.reputations.items()}


def _judge_part(arena: Arena, iteration: int, part: Sequence[FoughtDuel], meter: Meter) -> list[Judgment]:
    settings, seed = arena.config.judge, arena.config.seed
    limit = min(settings.max_tokens, arena.base.context - 8)
    if settings.mode == "sampled":
        limit = min(limit, arena.base.context - settings.max_new_tokens)
    papers: list[tuple[FoughtDuel, str, list[JudgePrompt | None]]] = []
    for each in part:
        read = [arena.chat.judge(each.instruction, response.ids, limit) for response in each.responses]
        papers += [(each, name, read) for name in judges(each.duel, arena.tribe)]
    prompts = [
        Prompt(name, paper.ids, key(seed, "judge", iteration, each.duel.index, name, side))
        for each, name, read in papers
        for side, paper in enumerate(read)
        if paper is not None
    ]
    if settings.mode == "expected":
        given = expected_scores(
            arena.base,
            arena.bank,
            prompts,
            arena.chat.score_tokens,
            settings.minimum_mass,
            arena.config.batch_tokens,
            meter.add,
        )
    else:
        given = sampled_scores(
            arena.base,
            arena.bank,
            prompts,
            settings.rounds,
            Sampling(settings.temperature, settings.top_k, settings.top_p),
            settings.max_new_tokens,
            arena.config.generation.places,
            lambda prompt, number: key(prompt, "round", number),
            lambda done, tokens: meter.add(0, tokens),
        )
        meter.add(len(prompts), 0)
    following = iter(given)
    judgments = []
    for each, name, read in papers:
        first, second = (Score(None, "too long") if paper is None else next(following) for paper in read)
        cut = [0 if paper is None else paper.cut for paper in read]
        judgments.append(
            Judgment(
                each.duel.index,
                name,
                (first.value, second.value),
                (first.failure, second.failure),
                (first.mass, second.mass),
                (cut[0], cut[1]),
            )
        )
    return judgments


def _tokenized(arena: Arena, fought: FoughtDuel, pair: Preference) -> TokenizedPair:
    """The pair in the very tokens that were generated."""
    prompt = question(arena, fought.instruction)
    return TokenizedPair(prompt, fought.responses[pair.chosen].ids, fought.responses[pair.rejected].ids)


def _preference_row(arena: Arena, pair: Preference, fought: FoughtDuel) -> dict[str, Any]:
    system = arena.config.generation.system
    opening = [] if system is None else [{"role": "system", "content": system}]
    return {
        "prompt": [*opening, {"role": "user", "content": fought.instruction}],
        "chosen": [{"role": "assistant", "content": fought.responses[pair.chosen].text}],
        "rejected": [{"role": "assistant", "content": fought.responses[pair.rejected].text}],
        "duel": pair.duel.index,
        "winner": pair.duel.fighters[pair.chosen],
        "loser": pair.duel.fighters[pair.rejected],
        "margin": pair.margin,
    }


def _tally(
    arena: Arena, iteration: int, fought: Sequence[FoughtDuel], settlement: Settlement
) -> dict[str, dict[str, int]]:
    """Wins, losses and draws since the run began."""
    if iteration:
        tally = read_json(arena.store.reputation(iteration - 1))["tally"]
    else:
        tally = {name: {"wins": 0, "losses": 0, "draws": 0} for name in arena.tribe}
    for each, verdict in zip(fought, settlement.verdicts, strict=True):
        if verdict is None:
            continue
        for side, name in enumerate(each.duel.fighters):
            outcome = "draws" if verdict.winner is None else "wins" if verdict.winner == side else "losses"
            tally[name][outcome] += 1
    return dict(tally)


def standings(
    standing: Standing, tally: dict[str, dict[str, int]], weights: dict[str, float]
) -> dict[str, AdapterStanding]:
    return {
        name: AdapterStanding(rating.reputation, rating.deviation, **tally[name], weight=weights[name])
        for name, rating in standing.ratings.items()
    }


def _warn_of_failures(arena: Arena, iteration: int, judgments: Sequence[Judgment]) -> None:
    failed = sum(None in judgment.scores for judgment in judgments)
    if failed:
        arena.listener(
            Warned(f"iteration {iteration}: {failed} of {len(judgments)} judgments failed and cast no vote")
        )


def _training_row(iteration: int, step: DpoStep) -> dict[str, Any]:
    return {"kind": "training", "iteration": iteration, **vars(step)}


def _forget_updates(arena: Arena, iteration: int, at_once: int, done: int) -> None:
    """Drop what the metrics say of updates that a resumed training will make again."""

    def repeated(row: dict[str, Any]) -> bool:
        if row["iteration"] != iteration or row["kind"] not in ("training", "trained"):
            return False
        if row["kind"] == "trained":
            return True
        return bool(arena.bank.slot(row["adapter"]) // at_once * row["steps"] + row["step"] >= done)

    kept = [row for row in arena.metrics.rows if not repeated(row)]
    if len(kept) < len(arena.metrics.rows):
        arena.metrics.rewrite(kept)


def _rights(arena: Arena, names: Sequence[str | None], meter: Meter) -> dict[str | None, list[bool]]:
    prompts = [Prompt(name, question(arena, item.question)) for name in names for item in arena.items]
    responses = generate(
        arena.base,
        arena.bank,
        prompts,
        GREEDY,
        arena.config.evaluation.max_new_tokens,
        arena.config.generation.places,
        meter.add,
    )
    answers = iter(responses)
    return {name: [is_right(item, next(answers).text) for item in arena.items] for name in names}


def _by_skill(arena: Arena, rights: Sequence[bool]) -> dict[str, float]:
    marks: dict[str, list[bool]] = {}
    for item, right in zip(arena.items, rights, strict=True):
        marks.setdefault(item.skill, []).append(right)
    return {skill: _share(of_skill) for skill, of_skill in marks.items()}


def _share(marks: Sequence[bool]) -> float:
    return sum(marks) / len(marks)


def _parts(duels: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    return (duels[start : start + size] for start in range(0, len(duels), size))


def _whole_parts(journal: Journal, total: int, rows_per_duel: int, size: int) -> int:
    """How many duels a journal holds in whole parts; what a killed process left beyond them is dropped."""
    duels = len(journal.rows) // rows_per_duel
    done = duels if duels >= total else duels // size * size
    if len(journal.rows) > done * rows_per_duel:
        journal.rewrite(journal.rows[: done * rows_per_duel])
    return done
