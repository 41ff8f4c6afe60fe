"""What judges write in sampled rounds: the table of forms in docs/judging.md, and any text at all."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparta_lite.engine.verdict_text import Unparsed, Verdict, read_verdict

PAGE = Path(__file__).parents[2] / "docs" / "judging.md"
ROW = re.compile(r"\| (`+) ?(?P<reply>.+?) ?\1 \| (?P<says>[\w. ]+?) \|")


def forms(heading: str) -> list[tuple[str, str]]:
    """The replies below a heading, each with what its row says."""
    section = PAGE.read_text(encoding="utf-8").split(f"## {heading}\n")[1].split("\n## ")[0]
    found = []
    for line in section.split("\n"):
        if line.startswith("| `"):
            row = ROW.fullmatch(line)
            assert row is not None, line
            found.append((row["reply"].replace(r"\|", "|").replace("⏎", "\n"), row["says"]))
    return found


TAKEN, FAILED = forms("Replies that give a score"), forms("Replies that give none")


@pytest.mark.parametrize(("reply", "score"), TAKEN)
def test_a_score_counts_in_every_form_of_the_table(reply: str, score: str) -> None:
    assert read_verdict(reply) == Verdict(float(score))


@pytest.mark.parametrize(("reply", "reason"), FAILED)
def test_what_gives_no_one_score_has_failed_for_the_reason_in_the_table(reply: str, reason: str) -> None:
    assert read_verdict(reply) == Verdict(None, reason)  # type: ignore[arg-type]


def test_the_table_has_every_reason_and_no_form_twice() -> None:
    assert {reason for _, reason in FAILED} == set(get_args(Unparsed))
    replies = [reply for reply, _ in TAKEN + FAILED]
    assert len(replies) == len(set(replies)) > 120


@pytest.mark.parametrize(
    "form",
    ['{{"score": {}}}', '{{"Score": "{}"}}', "{}/10", "**{}** out of 10", '```json\n{{"score": {}}}\n```'],
)
def test_every_whole_and_half_score_is_read_in_the_usual_forms(form: str) -> None:
    for halves in range(2, 21):
        assert read_verdict(f"I think so. {form.format(f'{halves / 2:g}')}").score == halves / 2
    for wrong in ("0", "10.5", "11", "99"):
        assert read_verdict(form.format(wrong)) == Verdict(None, "out of range")


@given(st.integers(1, 10), st.integers(1, 10))
def test_a_second_score_of_another_value_fails(first: int, second: int) -> None:
    expected = Verdict(first) if first == second else Verdict(None, "several scores")
    assert read_verdict(f'{{"score": {first}}} and {{"score": {second}, "reason": "b"}}') == expected
    assert read_verdict(f"{{'score': {first}}} and {{\"score\": {second}}}") == expected
    assert read_verdict(f"{first}/10 or {second} out of 10") == expected


@given(st.text(max_size=300))
def test_no_reply_breaks_it(text: str) -> None:
    found = read_verdict(text)
    assert (found.score is None) != (found.unparsed is None)
    assert found.score is None or 1 <= found.score <= 10


@pytest.mark.parametrize(
    "text", ["", "{" * 9000, '{"a":' * 9000, "[" * 9000, "\n" * 9000, "* " * 9000, "1/" * 9000]
)
def test_no_reply_takes_long(text: str) -> None:
    started = time.process_time()
    assert read_verdict(text) == Verdict(None, "no score")
    assert time.process_time() - started < 5


@pytest.mark.parametrize(
    "text", ['{"score": ' + "9" * 9000 + "}", '"score": ' * 9000, "8 - " * 9000, "score " * 9000]
)
def test_nor_do_long_beginnings_of_a_score(text: str) -> None:
    started = time.process_time()
    assert read_verdict(text).score is None
    assert time.process_time() - started < 5
