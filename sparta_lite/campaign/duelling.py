"""The first half of an iteration: who fights whom, both answers, every judgment, and what the votes come to.

Each phase leaves its result on the disk before the next begins. One that was cut off goes on where
its file ends. Work is done in parts of fixed membership, so that every part, and with it the whole,
is the same whether or not the run was ever stopped.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from sparta_lite.campaign.arena import Arena, Meter, judge_limit
from sparta_lite.campaign.baseline import answered_sides, panel, reference_answer
from sparta_lite.campaign.curriculum import choose_instructions
from sparta_lite.campaign.events import Warned
from sparta_lite.campaign.hostility import spoiled_answer, spoiled_score
from sparta_lite.campaign.journals import Records
from sparta_lite.campaign.reading import require_tokens
from sparta_lite.campaign.records import DUELS, JUDGMENTS, FoughtDuel, Judgment
from sparta_lite.combat import Duel, Standing, progress, schedule
from sparta_lite.engine.chat import JudgePrompt
from sparta_lite.engine.decode import Prompt, generate
from sparta_lite.engine.score import Score, Span, expected_scores, sampled_scores
from sparta_lite.errors import SpartaError
from sparta_lite.kernels.sampling import Sampling
from sparta_lite.randomness import key
from sparta_lite.typed import RESTORE

_Item = TypeVar("_Item")
_JUDGED = 100  # duels in a part of judging, at most: many judges read each, and larger parts save nothing


def match(arena: Arena, iteration: int, standing: Standing) -> list[tuple[Duel, str]]:
    """The iteration's duels, each with its instruction."""
    config = arena.config
    with arena.phase(iteration, "match", config.duels) as meter:
        drawn = choose_instructions(arena, iteration)
        duels = schedule(
            config.duels,
            arena.tribe,
            standing.reputations,
            config.matchmaking.settings(),
            config.seed,
            iteration,
            progress(iteration, config.iterations),
        )
        meter.add(len(duels), 0)
    return [(duel, arena.instructions[drawn[duel.instruction]]) for duel in duels]


def fight(arena: Arena, iteration: int, duels: Sequence[tuple[Duel, str]]) -> list[FoughtDuel]:
    """Both fighters of every duel answer; a hostile one's answer is spoiled as it comes back."""
    settings = arena.config.generation
    # What is drawn here is learned from: ids that no text has would be learned, and read by nobody.
    sampling = Sampling(settings.temperature, settings.top_k, settings.top_p, arena.base.vocabulary)
    sides = answered_sides(arena.config)
    journal = Records(
        arena.store,
        arena.store.duels(iteration),
        lambda text, where: FoughtDuel.from_row(DUELS.of(text, where)),
        FoughtDuel.to_row,
    )
    _require_scheduled(arena.store.duels(iteration), journal.rows, duels)
    require_tokens(journal.rows, arena.base.decoder.head.shape[0], str(arena.store.duels(iteration)))
    done = _whole_parts(journal, len(duels), 1, arena.config.part)
    questions = {instruction: arena.question(instruction) for _, instruction in duels}
    with arena.phase(iteration, "generate", len(sides) * len(duels), len(sides) * done) as meter:
        for part in _parts(duels[done:], arena.config.part):
            prompts = [
                Prompt(
                    duel.fighters[side], questions[instruction].ids, _answer_key(arena, iteration, duel, side)
                )
                for duel, instruction in part
                for side in sides
            ]
            responses = generate(
                arena.base,
                arena.bank,
                prompts,
                sampling,
                settings.max_new_tokens,
                arena.config.sizes.places,
                meter.add,
                on_shrink=arena.on_shrink,
            )
            if not arena.reuses_logprobs:  # resumed in another precision the run would take them for its own
                responses = [replace(response, logprob=None) for response in responses]
            following = iter(responses)
            fought = []
            for duel, instruction in part:
                first, second = (
                    spoiled_answer(
                        arena.config,
                        arena.tribe,
                        arena.base.tokenizer,
                        (iteration, duel.index, duel.fighters[side]),
                        next(following),
                    )
                    if side in sides
                    else reference_answer(arena, instruction)
                    for side in (0, 1)
                )
                fought.append(FoughtDuel(duel, instruction, (first, second)))
            journal.add(fought)
    journal.close()
    if cut := sum(questions[instruction].cut > 0 for _, instruction in duels):
        arena.listener(
            Warned(
                f"iteration {iteration + 1}: {cut} of {len(duels)} instructions lost their end to fit; "
                "generation.max_prompt_tokens sets the limit"
            )
        )
    return journal.rows


def judge(arena: Arena, iteration: int, fought: Sequence[FoughtDuel]) -> list[Judgment]:
    """Everyone who does not fight in a duel scores both answers, each on its own; or a baseline's judges.

    A hostile judge's scores are spoiled as they come back.
    """
    size = len(panel(arena, fought[0].duel))
    path = arena.store.judgments(iteration)
    journal = Records(arena.store, path, JUDGMENTS.of, Judgment.to_row)
    _require_asked(
        path, journal.rows, [(each.duel.index, name) for each in fought for name in panel(arena, each.duel)]
    )
    part_size = min(arena.config.part, _JUDGED)
    done = _whole_parts(journal, len(fought), size, part_size)
    with arena.phase(iteration, "judge", 2 * size * len(fought), 2 * size * done) as meter:
        for part in _parts(fought[done:], part_size):
            journal.add(_judge_part(arena, iteration, part, meter))
    journal.close()
    return journal.rows


def _judge_part(arena: Arena, iteration: int, part: Sequence[FoughtDuel], meter: Meter) -> list[Judgment]:
    settings, seed = arena.config.judge, arena.config.seed
    tokens = arena.chat.score_tokens
    limit = judge_limit(arena.config, arena.base.context, tokens)
    papers: list[tuple[FoughtDuel, str, list[JudgePrompt | None]]] = []
    spans: list[Span | None] = []
    for each in part:
        read = [arena.chat.judge(each.instruction, response.ids, limit) for response in each.responses]
        whole = _whole_responses(arena, each, read)
        for name in panel(arena, each.duel):
            papers.append((each, name, read))
            spans += whole
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
            tokens,
            settings.minimum_mass,
            arena.config.sizes.batch_tokens,
            meter.add,
            arena.on_shrink,
            spans if arena.reuses_logprobs else None,
            Sampling(*settings.in_one_pass),
            settings.least_prefix,
        )
    else:
        given = sampled_scores(
            arena.base,
            arena.bank,
            prompts,
            settings.rounds,
            Sampling(*settings.in_rounds),
            settings.max_new_tokens,
            arena.config.sizes.places,
            lambda prompt, number: key(prompt, "round", number),
            lambda done, tokens: meter.add(0, tokens),
            arena.on_shrink,
            tokens.prefix if settings.forced else (),
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
                (
                    spoiled_score(arena.config, arena.tribe, name, first.value),
                    spoiled_score(arena.config, arena.tribe, name, second.value),
                ),
                (first.failure, second.failure),
                (first.mass, second.mass),
                (cut[0], cut[1]),
                (first.logprob, second.logprob),
                (first.prefix, second.prefix),
                (first.unparsed, second.unparsed),
            )
        )
    return judgments


def _answer_key(arena: Arena, iteration: int, duel: Duel, side: int) -> int:
    """Of an answer's random numbers; the side counts where an adapter faces itself."""
    fighter = duel.fighters[side]
    alone = duel.fighters[0] == duel.fighters[1]
    return key(arena.config.seed, "generate", iteration, duel.index, fighter, *([side] if alone else []))


def _whole_responses(
    arena: Arena, fought: FoughtDuel, read: Sequence[JudgePrompt | None]
) -> list[Span | None]:
    """Where each prompt that is read begins with question and whole response, token by token as generated."""
    question = arena.question(fought.instruction).ids
    spans: list[Span | None] = []
    for paper, response in zip(read, fought.responses, strict=True):
        if paper is not None:
            end = len(question) + len(response.ids)
            spans.append((len(question), end) if paper.ids[:end] == question + response.ids else None)
    return spans


def _parts(duels: Sequence[_Item], size: int) -> Iterator[Sequence[_Item]]:
    return (duels[start : start + size] for start in range(0, len(duels), size))


def _whole_parts(journal: Records[Any], total: int, rows_per_duel: int, size: int) -> int:
    """How many duels a journal holds in whole parts; what a killed process left beyond them is dropped."""
    if rows_per_duel == 0:
        return total
    duels = len(journal.rows) // rows_per_duel
    done = duels if duels >= total else duels // size * size
    if len(journal.rows) > done * rows_per_duel:
        journal.cut(done * rows_per_duel)
    return done


def _require_scheduled(path: Path, fought: Sequence[FoughtDuel], duels: Sequence[tuple[Duel, str]]) -> None:
    """Refuse records of other duels than those that follow from the run's seed."""
    _require_at_most(path, fought, len(duels))
    for number, (each, scheduled) in enumerate(zip(fought, duels, strict=False), start=1):
        if (each.duel, each.instruction) != scheduled:
            raise SpartaError(f"{path}, line {number}: is not the duel that the run's seed draws; {RESTORE}")


def _require_asked(path: Path, judgments: Sequence[Judgment], asked: Sequence[tuple[int, str]]) -> None:
    """Refuse judgments of others than those who judge, or in another order."""
    _require_at_most(path, judgments, len(asked))
    for number, (each, wanted) in enumerate(zip(judgments, asked, strict=False), start=1):
        if (each.duel, each.judge) != wanted:
            duel, judge = wanted
            raise SpartaError(f"{path}, line {number}: is not {judge}'s judgment of duel {duel}; {RESTORE}")


def _require_at_most(path: Path, rows: Sequence[object], count: int) -> None:
    if len(rows) > count:
        raise SpartaError(f"{path}: has {len(rows)} lines where {count} belong; {RESTORE}")
