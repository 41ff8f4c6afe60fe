"""What an iteration's votes come to: verdicts, reputations, preference pairs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from sparta_lite.campaign.arena import Arena
from sparta_lite.campaign.baseline import settle_alone
from sparta_lite.campaign.curriculum import learn_instructions
from sparta_lite.campaign.events import AdapterStanding, DuelDecided, StandingsChanged, Warned
from sparta_lite.campaign.reading import read_reputation
from sparta_lite.campaign.records import FoughtDuel, Judgment, bouts
from sparta_lite.campaign.reluctance import reluctance
from sparta_lite.campaign.reputations import Reputation, Tally, VerdictRow
from sparta_lite.campaign.run_record import digest_of_file
from sparta_lite.combat import Preference, Settlement, Standing, preferences, settle
from sparta_lite.combat.standing import judge_shares
from sparta_lite.files import write_json, write_lines


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
        if arena.config.algorithm == "sparta":
            settlement = settle(standing, cast, rules)
            found = preferences(cast, settlement, rules, arena.config.pairs.minimum_margin)
        else:
            settlement, found = settle_alone(arena.config, standing, cast)
        # Sampled rounds can score one answer in two ways; from such a pair there is nothing to learn.
        pairs = [pair for pair in found if pair is not None and _answers_differ(fought[pair.duel.index])]
        write_lines(
            arena.store.preferences(iteration),
            [_preference_row(arena, pair, fought[pair.duel.index]) for pair in pairs],
        )
        tally = _tally(arena, iteration, fought, settlement)
        weights = judge_shares(settlement.standing, rules.reading)
        record = Reputation(
            iteration=iteration,
            before=standing,
            after=settlement.standing,
            judge_weights=weights,
            tally=tally,
            verdicts=tuple(
                None if verdict is None else VerdictRow(verdict.scores, verdict.winner)
                for verdict in settlement.verdicts
            ),
            instruction_log_weights=learn_instructions(arena, iteration, settlement),
        )
        write_json(arena.store.reputation(iteration), record.to_json())
        written = (arena.store.preferences(iteration), arena.store.reputation(iteration))
        arena.store.record({path: digest_of_file(path) for path in written})
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
    _warn(arena, iteration, judgments)
    return settlement.standing, pairs


def standings(
    standing: Standing, tally: Mapping[str, Tally], weights: Mapping[str, float]
) -> dict[str, AdapterStanding]:
    return {
        name: AdapterStanding(rating.reputation, rating.deviation, **vars(tally[name]), weight=weights[name])
        for name, rating in standing.ratings.items()
    }


def _answers_differ(fought: FoughtDuel) -> bool:
    return fought.responses[0].ids != fought.responses[1].ids


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
) -> dict[str, Tally]:
    """Wins, losses and draws since the run began.

    A baseline's learner that faces itself neither wins nor loses, whichever of its answers is chosen.
    """
    before = read_reputation(arena.store, iteration - 1).tally if iteration else {}
    tally = {name: dict(vars(before.get(name, Tally(0, 0, 0)))) for name in before or arena.tribe}
    for each, verdict in zip(fought, settlement.verdicts, strict=True):
        if verdict is None or each.duel.fighters[0] == each.duel.fighters[1]:
            continue
        for side, name in enumerate(each.duel.fighters):
            outcome = "draws" if verdict.winner is None else "wins" if verdict.winner == side else "losses"
            tally[name][outcome] += 1
    return {name: Tally(**counts) for name, counts in tally.items()}


def _reasons(judgments: Sequence[Judgment]) -> str:
    """Why judgments failed, and why their rounds did; the most frequent reason first."""
    failures: Counter[str] = Counter(
        failure for each in judgments for failure in each.failures if failure is not None
    )
    rounds: Counter[str] = Counter()
    for each in judgments:
        for lost in each.unparsed:
            rounds.update(lost)
    said = _counts(failures)
    return f"{said}; of rounds: {_counts(rounds)}" if rounds else said


def _counts(reasons: Counter[str]) -> str:
    return ", ".join(f"{reason} {count:,}" for reason, count in reasons.most_common())


def _warn(arena: Arena, iteration: int, judgments: Sequence[Judgment]) -> None:
    of_all = f"of {len(judgments)} votes"
    if failed := sum(None in judgment.scores for judgment in judgments):
        why = f"were not cast, for a judgment failed ({_reasons(judgments)})"
        arena.listener(Warned(f"iteration {iteration + 1}: {failed} {of_all} {why}"))
    if iteration == 0 and (said := reluctance(arena.config.judge, judgments)):
        arena.listener(Warned(f"iteration 1: {said}"))
    if cut := sum(max(judgment.cut) > 0 for judgment in judgments):
        arena.listener(
            Warned(
                f"iteration {iteration + 1}: {cut} {of_all} go by an answer without its end, cut to fit; "
                "judge.max_tokens sets the limit"
            )
        )
