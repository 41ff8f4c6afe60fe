"""Duels of a run judged anew by its adapters: in the other layout, and with answers that try to buy votes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sparta_lite.campaign.arena import judge_limit
from sparta_lite.campaign.resident import Resident
from sparta_lite.campaign.settings import Config
from sparta_lite.combat import Verdict, Votes, aggregate
from sparta_lite.engine.chat import Chat
from sparta_lite.engine.decode import Progress, Prompt
from sparta_lite.engine.score import expected_scores
from sparta_lite.kernels.sampling import Sampling
from sparta_lite.outcome.audit.ballots import Ballot
from sparta_lite.randomness import generator

Answer = tuple[int, ...]
Scores = Mapping[str, float | None]
"""Judge -> its score of one answer; None: that judgment failed."""


@dataclass(frozen=True)
class Court:
    """The tribe as it sits in judgment, loaded once."""

    config: Config
    resident: Resident
    tribe: tuple[str, ...]
    weights: Mapping[str, float]
    """What the verdicts weigh the judges by: their shares after the run's last iteration."""

    def judges(self, ballot: Ballot) -> tuple[str, ...]:
        return tuple(name for name in self.tribe if name not in ballot.fought.duel.fighters)

    def verdict(self, first: Scores, second: Scores) -> Verdict | None:
        """Of two answers to one question; None without a judge that has scored both."""
        votes: Votes = {judge: (first[judge], second[judge]) for judge in first}
        return aggregate(votes, self.weights)

    def scores(
        self, chat: Chat, papers: Sequence[tuple[Ballot, Answer]], progress: Progress | None = None
    ) -> list[Scores]:
        """What every judge of a paper's duel gives an answer to its instruction, from one forward pass.

        Args:
            chat: how the judges are asked.
            papers: a duel, and tokens as one of its fighters might have answered with.
            progress: told after every pass.
        """
        limit = judge_limit(self.config, self.resident.base.context, chat.score_tokens)
        read = [chat.judge(ballot.fought.instruction, answer, limit) for ballot, answer in papers]
        prompts = [
            Prompt(judge, paper.ids)
            for (ballot, _), paper in zip(papers, read, strict=True)
            if paper is not None
            for judge in self.judges(ballot)
        ]
        given = iter(
            expected_scores(
                self.resident.base,
                self.resident.bank,
                prompts,
                chat.score_tokens,
                self.config.judge.minimum_mass,
                self.config.sizes.batch_tokens,
                progress,
                sampling=Sampling(*self.config.judge.in_one_pass),
                minimum_prefix=self.config.judge.least_prefix,
            )
        )
        return [
            {judge: None if paper is None else next(given).value for judge in self.judges(ballot)}
            for (ballot, _), paper in zip(papers, read, strict=True)
        ]


def sample(ballots: Sequence[Ballot], count: int, seed: int) -> list[Ballot]:
    """At most ``count`` duels from the whole run whose answers differ, the same ones every time."""
    worth = [ballot for ballot in ballots if ballot.differs]
    chosen = generator("audit", seed).sample(range(len(worth)), min(count, len(worth)))
    return [worth[index] for index in sorted(chosen)]
