"""One adapter that learns alone: self-rewarding, SPIN and SPPO on SPARTA's budget, in its ordinary files.

A duel of theirs is the learner's with itself: both answers are its own, drawn anew, or the first is a
reference answer. Reputations stay as they begin, and all other adapters as they are.

==============  =================  ==========================================  ===============
algorithm       answers of a duel  who judges                                  loss
==============  =================  ==========================================  ===============
self-rewarding  two of its own     the learner itself                          DPO
spin            reference, own     nobody: the reference is chosen             DPO
sppo            two of its own     all others, as they were before the run     squared, by win
                                                                               rate
==============  =================  ==========================================  ===============

Yuan et al. 2024 (arXiv 2401.10020), Chen et al. 2024 (2401.01335), Wu et al. 2024 (2405.00675). They differ
from their papers where SPARTA's budget asks for it: two answers to an instruction, not four or five; and in
SPPO the tribe votes in place of an outside preference model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from sparta_lite.campaign.arena import Arena
from sparta_lite.campaign.curriculum import choose_instructions
from sparta_lite.campaign.hostility import hostile
from sparta_lite.campaign.metrics import Budget, evaluations, merit
from sparta_lite.campaign.records import FoughtDuel, Judgment
from sparta_lite.campaign.settings import Config
from sparta_lite.combat import (
    Bout,
    Duel,
    Preference,
    ReputationSettings,
    Settlement,
    Standing,
    aggregate,
    judges,
    preferences,
)
from sparta_lite.data.task import Task
from sparta_lite.engine.response import Response
from sparta_lite.errors import SpartaError


def require_learner(config: Config, tribe: Sequence[str], tasks: Sequence[Task]) -> None:
    """Refuse, before any work, settings that name no adapter to learn alone.

    Raises:
        SpartaError: they do not, though their algorithm needs one.
    """
    name = config.baseline.adapter
    if config.algorithm == "sparta":
        return
    if name is None and not tasks:
        raise SpartaError("baseline.adapter: nothing is measured, so that none is best; name one")
    if name is not None and name not in tribe:
        raise SpartaError(f"baseline.adapter: {name} is not in the tribe; give one of {', '.join(tribe)}")
    if name in hostile(config, tribe):
        raise SpartaError(f"baseline.adapter: {name} is one of the hostile adapters; name another")


def learners(arena: Arena) -> tuple[str, ...]:
    """Who learns: the tribe, or the one adapter of a baseline."""
    return arena.tribe if arena.config.algorithm == "sparta" else (_learner(arena),)


def _learner(arena: Arena) -> str:
    """The adapter that is named, or the first of the best ones before the first iteration."""
    if arena.config.baseline.adapter is not None:
        return arena.config.baseline.adapter
    measured = evaluations(arena.metrics.rows)[0]
    spoilers = hostile(arena.config, arena.tribe)
    merits = {name: merit(measured.tasks, name) for name in arena.tribe if name not in spoilers}
    known = {name: value for name, value in merits.items() if value is not None}
    if not known:
        raise SpartaError("baseline.adapter: no adapter could be measured, so that none is best; name one")
    return max(known, key=lambda name: known[name])


def face_itself(arena: Arena, iteration: int) -> list[tuple[Duel, str]]:
    """A baseline's duels, each with its instruction: those that SPARTA would fight over."""
    name = _learner(arena)
    with arena.phase(iteration, "match", arena.config.duels) as meter:
        drawn = choose_instructions(arena, iteration)
        meter.add(len(drawn), 0)
    return [
        (Duel(index, index, (name, name)), arena.instructions[instruction])
        for index, instruction in enumerate(drawn)
    ]


def panel(arena: Arena, duel: Duel) -> tuple[str, ...]:
    """Who judges a duel, in the tribe's order."""
    match arena.config.algorithm:
        case "spin":
            return ()
        case "self-rewarding":
            return duel.fighters[:1]
        case _:
            return judges(duel, arena.tribe)


def answered_sides(config: Config) -> tuple[int, ...]:
    """The sides of a duel whose answers are generated."""
    return (1,) if config.algorithm == "spin" else (0, 1)


def reference_answer(arena: Arena, instruction: str) -> Response:
    """The reference answer of an instruction as the learner would write it, end of turn included."""
    # Its module loads the libraries that train, which no other algorithm needs here.
    from sparta_lite.training.sft import tokenize

    text = arena.references[instruction]
    chat, context = arena.chat, arena.base.context
    lesson = tokenize(arena.base, [("user", ""), ("assistant", text)], context, chat.date)
    learned = () if lesson is None else tuple(label for label in lesson.labels if label >= 0)
    return Response(learned[: arena.config.generation.max_new_tokens], text, "reference", None)


def settle_alone(
    config: Config, standing: Standing, bouts: Sequence[Bout]
) -> tuple[Settlement, tuple[Preference | None, ...]]:
    """What a baseline's votes come to: the plain mean decides, and nobody's reputation moves.

    SPIN's pairs need no votes: the reference counts 1 and the own answer 0.
    """
    verdicts = tuple(aggregate(votes) for _, votes in bouts)
    after = replace(standing, iteration=standing.iteration + 1)
    settlement = Settlement(verdicts, (standing.ratings,) * len(bouts), after)
    if config.algorithm == "spin":
        return settlement, tuple(Preference(duel, (1.0, 0.0), chosen=0) for duel, _ in bouts)
    uniform = ReputationSettings(kind="uniform")
    return settlement, preferences(bouts, settlement, uniform, config.pairs.minimum_margin)


def win_rates(judgments: Sequence[Judgment], pairs: Sequence[Preference]) -> list[float]:
    """The share of the valid votes that score each pair's chosen answer higher; a tie is half a vote.

    It can be below 1/2 where a few judges' scores are far apart. SPPO's paper has a preference model's
    probability in its place, and takes the mean over all answers to an instruction.
    """
    place = {pair.duel.index: number for number, pair in enumerate(pairs)}
    won: list[list[float]] = [[] for _ in pairs]
    for judgment in judgments:
        number = place.get(judgment.duel)
        if number is None:
            continue
        chosen, rejected = (judgment.scores[side] for side in (pairs[number].chosen, pairs[number].rejected))
        if chosen is not None and rejected is not None:
            won[number].append(0.5 if chosen == rejected else float(chosen > rejected))
    return [sum(votes) / len(votes) for votes in won]


def budget(
    config: Config,
    iteration: int,
    names: Sequence[str],
    fought: Sequence[FoughtDuel],
    judgments: Sequence[Judgment],
    steps: int,
) -> Budget:
    """What an iteration took, to compare algorithms by.

    ::

        learners           names of the adapters that learned
        generated          answers of fighters
        reference_answers  answers that came with the data
        judgments          answers that judges read
        optimizer_steps    of every learner, at a learning rate above 0: ``steps``
    """
    answers = len(answered_sides(config)) * len(fought)
    return Budget(
        iteration=iteration,
        learners=tuple(names),
        generated=answers,
        reference_answers=2 * len(fought) - answers,
        judgments=2 * len(judgments),
        optimizer_steps=steps,
    )
