"""The duels of a run with their votes, their verdict and, where it is known, which answers are right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sparta_lite.campaign.reading import read_all_settled
from sparta_lite.campaign.records import FoughtDuel, Judgment
from sparta_lite.campaign.store import Store
from sparta_lite.errors import SpartaError
from sparta_lite.outcome.audit.statistics import Numbers
from sparta_lite.outcome.audit.truth import Truth


@dataclass(frozen=True)
class Ballot:
    """One duel as the run's files hold it."""

    iteration: int
    """From 1, as people are shown it."""
    fought: FoughtDuel
    votes: dict[str, Judgment]
    verdict: tuple[float, float] | None
    """The tribe's scores; None: there was no valid vote."""
    right: tuple[bool | None, bool | None]

    @property
    def differs(self) -> bool:
        """Whether there is anything to choose between."""
        return self.fought.responses[0].ids != self.fought.responses[1].ids


@dataclass(frozen=True)
class Votes:
    """What one judge, or the tribe, said in many duels: float64 arrays, NaN where there is nothing."""

    scores: Numbers
    """[duels, 2]"""
    others: Numbers
    """[duels, 2]: the mean scores of the duel's other judges; what is a tie to all of them is one exactly."""
    majority: Numbers
    """[duels]: 1 where more of the others prefer the first answer, -1 the second, 0 when as many do."""
    lengths: Numbers
    """[duels, 2]: tokens."""
    likelihoods: Numbers
    """[duels, 2]: log p(answer | question) under the judge, per token."""
    right: Numbers
    """[duels, 2]: 1 right, 0 wrong."""
    differs: Numbers
    """[duels]: 1 where the answers are not the same."""


def read_ballots(store: Store, truth: Truth) -> list[Ballot]:
    """Every duel of every iteration that has been judged.

    Raises:
        SpartaError: none has been, or a file is damaged.
    """
    ballots: list[Ballot] = []
    for number, settled in enumerate(read_all_settled(store), start=1):
        votes: dict[int, dict[str, Judgment]] = {}
        for judgment in settled.judgments:
            votes.setdefault(judgment.duel, {})[judgment.judge] = judgment
        for each, verdict in zip(settled.duels, settled.reputation.verdicts, strict=True):
            first, second = (truth.is_right(each.instruction, response.text) for response in each.responses)
            ballots.append(
                Ballot(
                    number,
                    each,
                    votes.get(each.duel.index, {}),
                    None if verdict is None else verdict.scores,
                    (first, second),
                )
            )
    if not ballots:
        raise SpartaError(f"{store.root}: no iteration has been judged yet; let the run go on with --resume")
    return ballots


def votes_of(judge: str, ballots: Sequence[Ballot]) -> Votes:
    """The valid votes of one judge: those with both scores."""
    cast = [ballot for ballot in ballots if judge in ballot.votes and is_valid(ballot.votes[judge])]
    others = [
        [vote.scores for name, vote in ballot.votes.items() if name != judge and is_valid(vote)]
        for ballot in cast
    ]
    preferences = [[_side(scores) for scores in panel] for panel in others]
    lengths = _lengths(cast)
    return Votes(
        scores=_pairs([ballot.votes[judge].scores for ballot in cast]),
        others=_pairs([_means(panel) for panel in others]),
        majority=np.array([np.sign(sum(sides)) if sides else np.nan for sides in preferences]),
        lengths=lengths,
        likelihoods=_pairs([ballot.votes[judge].logprobs for ballot in cast]) / np.maximum(lengths, 1),
        right=_pairs([ballot.right for ballot in cast]),
        differs=np.array([float(ballot.differs) for ballot in cast]),
    )


def verdicts_of(ballots: Sequence[Ballot]) -> Votes:
    """The tribe's verdicts, as if they were one judge's votes without others."""
    given = [(ballot, ballot.verdict) for ballot in ballots if ballot.verdict is not None]
    cast = [ballot for ballot, _ in given]
    unknown = np.full((len(cast), 2), np.nan)
    return Votes(
        scores=_pairs([verdict for _, verdict in given]),
        others=unknown,
        majority=np.full(len(cast), np.nan),
        lengths=_lengths(cast),
        likelihoods=unknown,
        right=_pairs([ballot.right for ballot in cast]),
        differs=np.array([float(ballot.differs) for ballot in cast]),
    )


def is_valid(judgment: Judgment) -> bool:
    """Whether a judgment is a vote."""
    return None not in judgment.scores


def _side(scores: tuple[float | None, float | None]) -> int:
    first, second = scores
    assert first is not None
    assert second is not None
    return (first > second) - (first < second)


def _means(panel: Sequence[tuple[float | None, float | None]]) -> tuple[float | None, float | None]:
    if not panel:
        return (None, None)
    first, second = _pairs(panel).mean(0).tolist()
    return (first, second)


def _pairs(rows: Sequence[tuple[float | None, float | None]]) -> Numbers:
    """[rows, 2], None as NaN."""
    return np.array(rows, dtype=np.float64).reshape(len(rows), 2)


def _lengths(ballots: Sequence[Ballot]) -> Numbers:
    return _pairs(
        [(len(first.ids), len(second.ids)) for first, second in (each.fought.responses for each in ballots)]
    )
