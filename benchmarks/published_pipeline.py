"""One whole iteration on the pocket tribe, the published way and ours, in one process on one CPU thread.

    python benchmarks/published_pipeline.py --json published_pipeline.json

The published way goes model after model (published_way.py): a fighter answers through ``generate`` in static
batches, every judge scores each response by itself in sampled rounds of at most 256 tokens, TRL trains one
adapter after another. Ours are the phases of a campaign: one batch for all fighters, one forward pass for a
verdict, all adapters trained together. Rules, sampling, prompts, updates and order of the pairs are the same,
and judges begin with ``{"score": `` on both sides: that is how the pocket tribe learnt to judge.

Five rounds are what the published judges are made for; the main program that was published asks for one.
``iteration_one_round`` counts only that share of the rounds' time.

Each phase begins on both sides with what ours left, so that both do the same work, and they take turns. Left
out of the published side's time: loading a model for every fighter, judge and training (one resident PEFT
model serves all), tokenising pairs, building trainers, writing files. It also trains on 8 pairs an update
where the published program takes one, in one pass, and TRL's Triton kernel is plain torch. Our side's time
includes the files that it writes. Figures are CPU seconds of this process.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

import published_way
import torch
from published_way import Peer, Rounds, load_peer
from rich.console import Console
from rich.table import Table
from side_by_side import (
    Seconds,
    circumstances,
    command_line,
    deviation,
    one_thread,
    print_circumstances,
    require,
    require_near,
)

from sparta_lite.campaign.arena import Arena
from sparta_lite.campaign.config import load_config
from sparta_lite.campaign.duelling import fight, judge, match
from sparta_lite.campaign.inputs import load_inputs
from sparta_lite.campaign.journals import open_metrics
from sparta_lite.campaign.learning import learn
from sparta_lite.campaign.planning import planned
from sparta_lite.campaign.records import FoughtDuel, bouts
from sparta_lite.campaign.resident import choose
from sparta_lite.campaign.settling import settle_votes
from sparta_lite.campaign.store import Store
from sparta_lite.combat import Bout, Duel, Preference, begin
from sparta_lite.files import write_json
from sparta_lite.training.packing import TokenizedPair
from sparta_lite.training.phase import DpoSettings, batches

PHASES = ("generate", "judge", "settle", "train")
SETTINGS = (  # the published rules where the pocket preset departs from them; several updates from few pairs
    "reputation.kind=published-normal",
    "pairs.minimum_margin=0",
    "training.sft_weight=0",
    "training.batch=8",
    "evaluation.items=0",
)

Facts = dict[str, float]


@dataclass(frozen=True)
class Comparison:
    """CPU seconds per phase, one for every repeat, and what else was seen in the last one."""

    ours: dict[str, list[float]] = field(default_factory=lambda: {phase: [] for phase in PHASES})
    published: dict[str, list[float]] = field(default_factory=lambda: {phase: [] for phase in PHASES})
    facts: Facts = field(default_factory=dict)


@contextmanager
def clocked(spent: list[float]) -> Iterator[None]:
    start = time.process_time()
    yield
    spent.append(time.process_time() - start)


def per_phase(side: Mapping[str, list[float]]) -> Seconds:
    """Medians of every phase, and of whole iterations."""
    whole = [sum(phases) for phases in zip(*side.values(), strict=True)]
    return {name: statistics.median(values) for name, values in {**side, "iteration": whole}.items()}


def compare(sets: Sequence[str], rounds: int, repeats: int, directory: Path) -> Comparison:
    """Run both ways in turns, and require equality wherever there must be equality.

    Args:
        sets: settings of the run beside ``SETTINGS``, as ``--set`` takes them.
        rounds: sampled rounds of every published judge.
        repeats: iterations of each side, all from the same start.
        directory: for the files of our side.
    """
    arena = load_arena(directory, sets)
    config, tribe = arena.config, arena.tribe
    settings = DpoSettings(**config.training.model_dump(include={each.name for each in fields(DpoSettings)}))
    standing, start = begin(tribe, config.reputation.settings()), arena.bank.snapshot()
    duels, limit = match(arena, 0, standing), config.generation.max_new_tokens
    peer, result = load_peer(tribe), Comparison()
    require_same_answers(peer, anew(arena, directory / "greedy"), duels)
    torch.manual_seed(0)
    for repeat in range(repeats):
        run = anew(arena, directory / f"repeat-{repeat}")
        with clocked(result.ours["generate"]):
            fought = fight(run, 0, duels)
        with clocked(result.published["generate"]):
            answers = published_way.answer(peer, tribe, duels, limit, **published_way.SAMPLED)

        with clocked(result.ours["judge"]):
            judgments = judge(run, 0, fought)
        with clocked(result.published["judge"]):
            request, opening = config.judge.wording, arena.chat.score_tokens.prefix
            sampled = published_way.judge_in_rounds(peer, tribe, fought, request, opening, rounds)

        with clocked(result.ours["settle"]):
            settled, pairs = settle_votes(run, 0, standing, fought, judgments)
        with clocked(result.published["settle"]):
            cast = [(each.duel, sampled.votes[each.duel.index]) for each in fought]
            _, winners = published_way.settle(tribe, cast)
        votes, decided = bouts(fought, judgments), {pair.duel.index: pair.chosen for pair in pairs}
        reputations, same = published_way.settle(tribe, votes)
        apart = [abs(value - settled.reputations[name]) for name, value in reputations.items()]
        require_near(apart, 1e-9, "reputations from the same votes")
        require(decided == {index: same[index] for index in same if differ(fought[index])}, "pairs")
        if not pairs:
            sys.exit("error: no duel made a pair to learn from; give --duels more")

        tokens = [tokenized(run, fought[pair.duel.index], pair) for pair in pairs]
        updates = batches(len(pairs), settings.batch, config.seed, 0, 0)
        ordered = [tokens[index] for batch in updates for index in batch]
        trained = published_way.trainers(peer, tribe, ordered, settings, directory / "trl")
        with clocked(result.ours["train"]):
            learn(run, 0, fought, judgments, pairs)
        with clocked(result.published["train"]):
            for trainer in trained:
                trainer.train()
        shares = [deviation(run.bank, start, slot, each.model) for slot, each in enumerate(trained)]
        share = require_near(shares, 1e-3, "weights that our DPO and TRL's end with")
        run.bank.restore(start)
        result.facts.update(
            nearness(votes, sampled, decided, winners),
            weights_apart=share,
            pairs=len(pairs),
            updates=len(updates),
            answer_tokens=statistics.fmean(len(each.ids) for duel in fought for each in duel.responses),
            published_answer_tokens=statistics.fmean(map(len, answers.values())),
        )
    return result


def load_arena(directory: Path, sets: Sequence[str]) -> Arena:
    """The pocket tribe as a campaign holds it; nobody is told what happens."""
    config = load_config(None, [*SETTINGS, *sets], 0)
    choices = choose(config)
    config = planned(config, choices)[1]
    inputs = load_inputs(config, choices)
    store = Store(directory / "run")
    return Arena(
        config=config,
        store=store,
        listener=lambda _: None,
        base=inputs.resident.base,
        bank=inputs.resident.bank,
        adapter_configs=inputs.resident.adapter_configs,
        chat=inputs.resident.chat,
        trainer=choices.trainer,
        instructions=inputs.instructions.texts,
        tasks=(),
        metrics=open_metrics(store),
    )


def anew(arena: Arena, directory: Path) -> Arena:
    """The same arena with no iteration in its files."""
    store = Store(directory)
    return replace(arena, store=store, metrics=open_metrics(store))


def require_same_answers(peer: Peer, arena: Arena, duels: Sequence[tuple[Duel, str]]) -> None:
    greedy = arena.config.generation.model_copy(update={"temperature": 0.0})
    ours = fight(replace(arena, config=arena.config.model_copy(update={"generation": greedy})), 0, duels)
    theirs = published_way.answer(peer, arena.tribe, duels, greedy.max_new_tokens, **published_way.GREEDY)
    answers = {
        (each.duel.index, name): list(response.ids)
        for each in ours
        for name, response in zip(each.duel.fighters, each.responses, strict=True)
    }
    require(answers == theirs, "greedy answers")


def differ(fought: FoughtDuel) -> bool:
    """Two equal answers make no pair, however sampled rounds score them."""
    return fought.responses[0].ids != fought.responses[1].ids


def tokenized(arena: Arena, fought: FoughtDuel, pair: Preference) -> TokenizedPair:
    chosen, rejected = (fought.responses[side].ids for side in (pair.chosen, pair.rejected))
    return TokenizedPair(arena.question(fought.instruction).ids, chosen, rejected)


def nearness(
    votes: Sequence[Bout], sampled: Rounds, decided: Mapping[int, int], winners: Mapping[int, int]
) -> Facts:
    """How near the sampled rounds come to the expected scores, and how they read."""
    both = [
        (expected, mean)
        for duel, cast in votes
        for name, scores in cast.items()
        for expected, mean in zip(scores, sampled.votes[duel.index][name], strict=True)
        if expected is not None and mean is not None
    ]
    alike = [winners.get(index) == side for index, side in decided.items()]
    return {
        "score_correlation": statistics.correlation(*zip(*both, strict=True)),
        "duels_decided_alike": statistics.fmean(alike),
        "rounds_parsed": statistics.fmean(sampled.parsed),
        "judge_tokens": statistics.fmean(sampled.tokens),
        "judge_steps": statistics.fmean(sampled.steps),
    }


def print_phases(console: Console, title: str, ours: Seconds, published: Seconds) -> dict[str, float]:
    table = Table(title=title, title_justify="left", min_width=60)
    for column in ("phase", "published way", "ours", "times ours"):
        table.add_column(column, justify="left" if column == "phase" else "right")
    ratios = {phase: published[phase] / ours[phase] for phase in ours}
    for phase, ratio in ratios.items():
        row = (phase, f"{published[phase]:.3f}", f"{ours[phase]:.3f}", f"{ratio:.2f}")
        table.add_row(*row, end_section=phase == PHASES[-1])
    console.print(table)
    return ratios


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--duels", type=int, default=100, help="of the iteration")
    parser.add_argument("--rounds", type=int, default=5, help="of every published judge")
    parser.add_argument("--repeats", type=int, default=3, help="of both sides; the median counts")
    parser.add_argument("--quick", action="store_true", help="one repeat of 24 duels, 1 round: a smoke test")
    arguments = parser.parse_args()
    if min(arguments.duels, arguments.rounds, arguments.repeats) < 1:
        parser.error("--duels, --rounds and --repeats take 1 or more")
    given = (arguments.duels, arguments.rounds, arguments.repeats)
    duels, rounds, repeats = (24, 1, 1) if arguments.quick else given

    one_thread()
    console = Console()
    with tempfile.TemporaryDirectory() as directory:
        result = compare([f"duels={duels}"], rounds, repeats, Path(directory))
    ours, published, facts = per_phase(result.ours), per_phase(result.published), result.facts
    title = f"one iteration: 10 adapters, {duels} duels, judge rounds: {rounds}\n(CPU seconds)"
    ratios = print_phases(console, title, ours, published)
    spared = published["judge"] * (1 - 1 / rounds)
    ratios["iteration_one_round"] = (published["iteration"] - spared) / ours["iteration"]
    console.print(
        f"With one judge round the iteration takes {ratios['iteration_one_round']:.2f} times ours.\n"
        f"Same greedy answers; same reputations and {facts['pairs']} pairs from the same votes; weights "
        f"after {facts['updates']} updates apart by {facts['weights_apart']:.1e} of their movement.\n"
        f"Sampled answers have {facts['answer_tokens']:.1f} tokens, the published side's "
        f"{facts['published_answer_tokens']:.1f}. Judges go on for {facts['judge_tokens']:.1f} tokens, a "
        f"batch for {facts['judge_steps']:.1f} steps of at most {published_way.JUDGE_TOKENS}; "
        f"{facts['rounds_parsed']:.1%} of the replies parse.\n"
        f"Their means correlate with the expected scores by {facts['score_correlation']:.3f} and decide "
        f"{facts['duels_decided_alike']:.0%} of the pairs alike.",
        highlight=False,
    )
    found = circumstances()
    print_circumstances(console, found)
    if arguments.json:
        report = {"ratios": ratios, "cpu_seconds": {"ours": ours, "published": published}, "facts": facts}
        write_json(arguments.json, report | {"duels": duels, "rounds": rounds, "repeats": repeats} | found)


if __name__ == "__main__":
    main()
