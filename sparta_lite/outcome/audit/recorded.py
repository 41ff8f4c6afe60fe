"""What a run's files alone say of its judges, and of the tribe that judges with one voice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import get_args

import numpy as np

from sparta_lite.campaign.records import Judgment
from sparta_lite.engine.response import Failure
from sparta_lite.outcome.audit.ballots import Ballot, Votes, is_valid, verdicts_of, votes_of
from sparta_lite.outcome.audit.statistics import (
    Estimate,
    Numbers,
    area,
    decided_rightly,
    difference_correlation,
    mean,
    median,
    nothing,
    preferred,
    rank_correlation,
    share,
)
from sparta_lite.outcome.audit.truth import Truth

Figures = dict[str, Estimate]


def judge_figures(judge: str, ballots: Sequence[Ballot], truth: Truth) -> Figures:
    """How often a judge failed, how it agrees with the others, what its scores go with, whether it is right.

    ``failed``, the shares named after a reason, and ``cut`` (an answer without its end) are of the votes that
    it was asked for; ``rounds_*``, why sampled rounds gave no score, of the rounds that gave none. ``prefix``
    is the median probability with which it writes by itself what is forced on it. ``agreement`` is with the
    majority of a duel's other judges, ``rank_correlation`` of an answer's score with their mean. ``length_*``
    are correlations with the tokens of an answer, ``likelihood_*`` with its log-probability per token under
    the judge: over answers, ``_within`` a duel (differences of its two answers, which rules the question
    out), and ``_partial``, within a duel where the other judges' mean difference is alike.
    """
    votes = votes_of(judge, ballots)
    given = [ballot.votes[judge] for ballot in ballots if judge in ballot.votes]
    return {
        **_failures(given),
        **_unparsed(given),
        "prefix": _prefix(given),
        **_agreement(votes),
        **_leanings(votes),
        **_likelihood(votes),
        **truth_figures(votes, truth),
    }


def tribe_figures(ballots: Sequence[Ballot], truth: Truth) -> Figures:
    """The same of the verdicts, as far as it makes sense."""
    votes = verdicts_of(ballots)
    figures = {
        "without_verdict": share(len(ballots) - len(votes.scores), len(ballots), "duels"),
        **_leanings(votes),
        **truth_figures(votes, truth),
    }
    del figures["length_partial"]  # there is no one else to hold fast
    return figures


def truth_figures(votes: Votes, truth: Truth) -> Figures:
    """``pair_accuracy``: of the duels with one right answer, how often it is scored higher, half for a tie.

    ``auc``: the chance that any right answer is scored above any wrong one.
    """
    if truth.missing is not None:
        return dict.fromkeys(("pair_accuracy", "auc"), nothing(truth.missing))
    return {
        "pair_accuracy": mean(decided_rightly(votes.scores, votes.right)),
        "auc": area(votes.scores, votes.right),
    }


def _failures(judgments: Sequence[Judgment]) -> Figures:
    asked = len(judgments)
    reasons = Counter(
        next(reason for reason in judgment.failures if reason is not None)
        for judgment in judgments
        if not is_valid(judgment)
    )
    return {
        "failed": share(sum(reasons.values()), asked, "votes"),
        **{
            f"failed_{reason.replace(' ', '_')}": share(reasons[reason], asked, "votes")
            for reason in get_args(Failure)
        },
        "cut": share(sum(max(judgment.cut) > 0 for judgment in judgments), asked, "votes"),
    }


def _unparsed(judgments: Sequence[Judgment]) -> Figures:
    lost: Counter[str] = Counter()
    for judgment in judgments:
        for rounds in judgment.unparsed:
            lost.update(rounds)
    return {
        f"rounds_{reason.replace(' ', '_')}": share(count, lost.total(), "rounds")
        for reason, count in sorted(lost.items())
    }


def _prefix(judgments: Sequence[Judgment]) -> Estimate:
    known = np.array([judgment.prefix for judgment in judgments], dtype=np.float64).reshape(-1, 2)
    if np.isnan(known).all():
        return nothing("nothing was forced on the judges, or an earlier version asked them")
    return median(np.exp(known))


def _agreement(votes: Votes) -> Figures:
    own = preferred(votes.scores)
    decided = (np.abs(own) == 1) & (np.abs(votes.majority) == 1)
    alike = int((own == votes.majority)[decided].sum())
    return {
        "agreement": share(
            alike, int(decided.sum()), "duels in which both the judge and the others prefer one"
        ),
        "rank_correlation": rank_correlation(votes.scores, votes.others),
    }


def _leanings(votes: Votes) -> Figures:
    scores, lengths, others = (
        _difference(values, votes.differs) for values in (votes.scores, votes.lengths, votes.others)
    )
    return {
        "length_correlation": rank_correlation(votes.scores, votes.lengths),
        "length_within": difference_correlation(scores, lengths),
        "length_partial": difference_correlation(scores, lengths, others),
    }


def _likelihood(votes: Votes) -> Figures:
    if np.isnan(votes.likelihoods).all():
        unknown = nothing("the run kept no log-probabilities of the answers under the judge")
        return dict.fromkeys(("likelihood_within", "likelihood_partial"), unknown)
    scores, likelihoods, others = (
        _difference(values, votes.differs) for values in (votes.scores, votes.likelihoods, votes.others)
    )
    return {
        "likelihood_within": difference_correlation(scores, likelihoods),
        "likelihood_partial": difference_correlation(scores, likelihoods, others),
    }


def _difference(values: Numbers, differs: Numbers) -> Numbers:
    """[duels]: the first answer's value less the second's; NaN where the answers are the same."""
    return np.where(differs == 1, values[:, 0] - values[:, 1], np.nan)


def flat(figures: Mapping[str, Estimate]) -> dict[str, float | None]:
    """``name``, ``name_low`` and ``name_high`` of every figure; None where there is none."""
    numbers: dict[str, float | None] = {}
    for name, estimate in figures.items():
        low, high = estimate.interval or (None, None)
        numbers |= {name: estimate.value, f"{name}_low": low, f"{name}_high": high}
    return numbers


def reasons(figures: Mapping[str, Estimate]) -> dict[str, str]:
    """Why figures are missing."""
    return {name: estimate.missing for name, estimate in figures.items() if estimate.missing is not None}
