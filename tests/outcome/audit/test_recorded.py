"""Hand-made votes whose figures are known."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from sparta_lite.campaign.config import load_config
from sparta_lite.campaign.intervals import wilson
from sparta_lite.campaign.records import FoughtDuel, Judgment
from sparta_lite.campaign.store import Store
from sparta_lite.combat import Duel
from sparta_lite.data.tasks import load_task_instructions
from sparta_lite.engine.response import Response
from sparta_lite.errors import SpartaError
from sparta_lite.files import write_json, write_lines
from sparta_lite.outcome.audit.ballots import Ballot, read_ballots
from sparta_lite.outcome.audit.recorded import flat, judge_figures, reasons, tribe_figures
from sparta_lite.outcome.audit.truth import Truth, find_truth
from sparta_lite.pocket import items

from ...run_files import reputation, run_record

KNOWN = Truth(lambda instruction, text: text == "right")


def response(text: str, tokens: int) -> Response:
    return Response(tuple(range(tokens)), text, "end-of-turn", -1.0)


def vote(index: int, judge: str, scores: Any, logprobs: Any = (None, None), **changes: Any) -> Judgment:
    fields = {"failures": (None, None), "mass": (1.0, 1.0), "cut": (0, 0)} | changes
    return Judgment(index, judge, scores, logprobs=logprobs, **fields)


def ballot(
    index: int, votes: list[Judgment], right: Any = (None, None), lengths: tuple[int, int] = (4, 5)
) -> Ballot:
    answers = tuple(
        response("right" if good else "wrong", length) for good, length in zip(right, lengths, strict=True)
    )
    fought = FoughtDuel(Duel(index, index, ("a", "b")), f"question {index}", (answers[0], answers[1]))
    cast = {each.judge: each for each in votes}
    return Ballot(1, fought, cast, (votes[0].scores[0] or 1.0, votes[0].scores[1] or 1.0), right)


def test_failed_votes_are_counted_by_their_reason_and_never_scored() -> None:
    lost = [
        vote(0, "c", (None, 9.0), failures=("too long", None)),
        vote(1, "c", (1.0, None), failures=(None, "no score")),
        vote(2, "c", (None, None), failures=("no score", "too long")),
        *(vote(index, "c", (8.0, 2.0), cut=(0, index % 2)) for index in range(3, 8)),
    ]
    numbers = flat(judge_figures("c", [ballot(each.duel, [each]) for each in lost], KNOWN))
    assert (numbers["failed"], numbers["failed_too_long"], numbers["failed_no_score"]) == (
        3 / 8,
        1 / 8,
        2 / 8,
    )
    assert (numbers["failed_not_finite"], numbers["cut"]) == (0, 3 / 8)
    assert (numbers["failed_low"], numbers["failed_high"]) == wilson(3, 8)


def test_how_likely_a_judge_begins_and_why_its_rounds_failed() -> None:
    prefixes = [-1.0, -2.0, -3.0, -4.0, -5.0, -6.0, -7.0, -8.0]
    votes = [
        vote(
            index,
            "c",
            (8.0, 2.0),
            prefix=(prefixes[2 * index], prefixes[2 * index + 1]),
            unparsed=({"no score": 2}, {"cut off": 1, "no score": 1}) if index else ({}, {}),
        )
        for index in range(4)
    ]
    found = judge_figures("c", [ballot(each.duel, [each]) for each in votes], KNOWN)
    assert found["prefix"].value == pytest.approx(math.exp(-5))  # the lower of the two in the middle
    assert found["prefix"].interval is not None
    assert found["prefix"].interval[0] <= math.exp(-5) <= found["prefix"].interval[1]
    assert (found["rounds_no_score"].value, found["rounds_cut_off"].value) == (9 / 12, 3 / 12)
    alone = judge_figures("c", [ballot(3, votes[3:])], KNOWN)["prefix"]
    assert (alone.value, alone.interval) == (pytest.approx(math.exp(-8)), None)
    of_old = judge_figures("c", [ballot(0, [vote(0, "c", (8.0, 2.0))])], KNOWN)
    assert "earlier version" in reasons(of_old)["prefix"]
    assert not [name for name in of_old if name.startswith("rounds_")]


def test_agreement_is_with_the_majority_of_the_others_alone() -> None:
    # c is for the first in all; of d, e and f two, one, one (a tie with a failure) and none are.
    sides = [(1, 1, 0), (1, 0, 0), (1, 0, None), (0, 0, 0)]
    ballots = []
    for index, panel in enumerate(sides):
        votes = [vote(index, "c", (7.0, 3.0))]
        for judge, side in zip("def", panel, strict=True):
            scores = (None, None) if side is None else (6.0, 2.0) if side else (2.0, 6.0)
            votes.append(
                vote(index, judge, scores, failures=("no score",) * 2 if side is None else (None, None))
            )
        ballots.append(ballot(index, votes))
    figures = judge_figures("c", ballots, KNOWN)
    assert figures["agreement"].value == 1 / 3  # the tie is left out
    assert figures["agreement"].interval == wilson(1, 3)


def test_a_judge_that_counts_tokens_is_found_out() -> None:
    ballots = []
    for index in range(12):
        lengths = (3 + index % 5, 12 - index % 4)
        long = vote(index, "c", (lengths[0] / 2, lengths[1] / 2))
        other = vote(index, "d", (float(index % 3), float(index % 2)))
        ballots.append(ballot(index, [long, other], lengths=lengths))
    counting, other = (judge_figures(name, ballots, KNOWN) for name in "cd")
    for name in ("length_correlation", "length_within", "length_partial"):
        assert counting[name].value == pytest.approx(1)
    for name in ("length_correlation", "length_within"):
        assert other[name].value is not None
        assert abs(other[name].value) < 0.9
    # The others of d are c alone, whose scores are the lengths.
    assert "apart from what is held fast" in reasons(other)["length_partial"]


def test_likelihood_is_per_token_and_within_a_duel() -> None:
    ballots = []
    for index in range(12):
        per_token = (-0.25 * (index % 5), -0.5 * (index % 4))  # exact in binary: ties stay ties
        logprobs = (per_token[0] * 4, per_token[1] * 64)
        fond = vote(index, "c", tuple(index + 3 * each for each in per_token), logprobs)
        blind = vote(index, "d", (float(index % 3), float(index * index % 5)))
        ballots.append(ballot(index, [fond, blind], lengths=(4, 64)))
    fond, blind = (judge_figures(name, ballots, KNOWN) for name in "cd")
    assert fond["likelihood_within"].value == pytest.approx(1)
    assert fond["likelihood_partial"].value == pytest.approx(1)
    assert "no log-probabilities" in reasons(blind)["likelihood_within"]
    assert flat(blind)["likelihood_within"] is None


def test_truth_is_what_decides_pairs() -> None:
    right = [(True, False), (False, True), (True, False), (True, True), (True, False)]
    scores = [(8.0, 2.0), (8.0, 2.0), (5.0, 5.0), (8.0, 2.0), (9.0, 1.0)]
    ballots = [
        ballot(index, [vote(index, "c", given)], truth)
        for index, (given, truth) in enumerate(zip(scores, right, strict=True))
    ]
    for figures in (judge_figures("c", ballots, KNOWN), tribe_figures(ballots, KNOWN)):
        assert figures["pair_accuracy"].value == (1 + 0 + 0.5 + 1) / 4
        good, bad = (8, 2, 5, 8, 2, 9), (2, 8, 5, 1)
        above = [(a > b) + 0.5 * (a == b) for a in good for b in bad]
        assert figures["auc"].value == pytest.approx(sum(above) / len(above))
    unknown = judge_figures("c", ballots, Truth(lambda *_: None, "no answers"))
    assert reasons(unknown)["auc"] == "no answers"
    assert unknown["auc"].value is None


def test_a_runs_files_become_ballots(tmp_path: Path) -> None:
    store = Store(tmp_path)
    question = items("duel", 1)[0]
    fought = FoughtDuel(
        Duel(0, 3, ("a", "b")), question.question, (response(question.answer, 3), response("?", 2))
    )
    judged = [vote(0, "c", (8.0, 2.0), (-1.0, None)), vote(0, "d", (None, 2.0), failures=("no score", None))]
    write_json(store.run, run_record())
    empty = reputation(1, dict.fromkeys("abcd", 100.0))
    for number, verdict in enumerate([{"scores": [8.0, 2.0], "winner": 0}, None]):
        write_lines(store.duels(number), [fought.to_row()])
        write_lines(store.judgments(number), [each.to_row() for each in judged])
        record = reputation(number, dict.fromkeys("abcd", 100.0))
        write_json(store.reputation(number), {**record, "verdicts": [verdict]})
    ballots = read_ballots(store, find_truth(load_config(None)))
    assert [each.iteration for each in ballots] == [1, 2]
    assert [each.verdict for each in ballots] == [(8.0, 2.0), None]
    assert ballots[0].right == (True, False)
    assert ballots[1].votes == {"c": judged[0], "d": judged[1]}
    assert flat(tribe_figures(ballots, KNOWN))["without_verdict"] == 0.5
    write_json(store.reputation(1), empty)
    with pytest.raises(SpartaError, match="0 verdicts for 1 duels"):
        read_ballots(store, KNOWN)
    with pytest.raises(SpartaError, match="no iteration has been judged yet"):
        read_ballots(Store(tmp_path / "none"), KNOWN)


def test_a_tasks_own_answers_are_the_truth(tmp_path: Path) -> None:
    path = tmp_path / "gsm8k.jsonl"
    write_lines(
        path, [{"question": f"Ann has {n} eggs. How many?", "answer": f"#### {n}"} for n in range(30)]
    )
    truth = find_truth(load_config(None, ["data.task=gsm8k", f"data.path={path}"]))
    instruction = load_task_instructions("gsm8k", str(path)).texts[0]
    eggs = instruction.split("Ann has ")[1].split()[0]
    assert truth.missing is None
    assert truth.is_right(instruction, f"The answer is {eggs}.") is True
    assert truth.is_right(instruction, "The answer is 99.") is False
    assert truth.is_right(instruction, "No idea.") is False
    assert truth.is_right("Another question?", "The answer is 1.") is None


def test_without_answers_the_reason_is_said(tmp_path: Path) -> None:
    path = tmp_path / "own.jsonl"
    write_lines(path, [{"text": "Sing."}, {"text": "Dance."}])
    own = find_truth(load_config(None, [f"data.path={path}", "data.column=text"]))
    judged = find_truth(load_config(None, ["data.task=alpaca", f"data.path={path}"]))
    gone = find_truth(load_config(None, ["data.task=gsm8k", f"data.path={tmp_path / 'gone.jsonl'}"]))
    assert own.missing == "the source of the instructions holds no answers that are read"
    assert judged.missing == "answers to alpaca are judged, none is known to be right"
    assert "gone.jsonl" in (gone.missing or "")
    assert own.is_right("Sing.", "La.") is None
