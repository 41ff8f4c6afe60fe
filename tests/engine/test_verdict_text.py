"""What judges write in sampled rounds: one whole score counts, anything else has failed."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparta_lite.engine.verdict_text import parse_score

TAKEN = [
    # as asked for
    ('{"score": 7}', 7),
    ('{"score": 10}', 10),
    ('{"score":1}', 1),
    ('{ "score" : 9 }', 9),
    ('{\n  "score": 3\n}', 3),
    # with more in the object
    ('{"score": 7, "reason": "ok"}', 7),
    ('{"reason": "clear, and short", "score": 7}', 7),
    ('{"verdict": {"score": 7, "why": ["a", "b"]}}', 7),
    ('{"score": 7, "reason": "it beats {\\"score\\": 3}"}', 7),
    ('{"score": 7, "reason": "the answer is cut o', 7),
    ('{"score": 7, "reason": "unescaped "quotes" inside"}', 7),
    # the number
    ('{"score": 8.0}', 8),
    ('{"score": 8.5}', 8.5),
    ('{"score": "8"}', 8),
    ('{"score": "8.5"}', 8.5),
    ('{"score": 8/10}', 8),
    ('{"score": "8 / 10"}', 8),
    ('{"score": "8 out of 10"}', 8),
    # the key
    ('{"Score": 8}', 8),
    ('{"SCORE": 8}', 8),
    ("{'score': 8}", 8),
    ("{'reason': 'fine', 'score': 8}", 8),
    ("{score: 8}", 8),
    ("{“score”: 8}", 8),
    ('{\\"score\\": 8}', 8),
    ('{"score": 8,}', 8),
    # around it
    ('Well. {"score": 4} because it is short.', 4),
    ('```json\n{"score": 6}\n```', 6),
    ("```\n{'score': 6}\n```\nIt is short.", 6),
    ('I reply with {"score": <1-10>}. Here: {"score": 7}', 7),
    ('I reply with {"score": n}. Here: {"score": 7}', 7),
    ('{"score": 7}\n{"score": 7}', 7),
    ('9/10 of it holds. {"score": 7}', 7),
    ('<think>{"score": 3} at first sight</think>{"score": 7}', 7),
    ('{"score": 7}\n\nUser: Another one.\n{"score": 3}', 7),
    # in words, with its scale
    ("8/10", 8),
    ("Score: 8/10", 8),
    ("**Score:** 8.5 / 10", 8.5),
    ("I would give it 8 out of 10.", 8),
]

FAILED = [
    # two scores
    '{"score": 2} or {"score": 8}',
    '{"score": 7, "score": 8}',
    '{"score": 7 or 8}',
    '{"score": "7 or 8"}',
    '{"score": "7-8"}',
    '{"score": [7, 8]}',
    "score: 7 or 8",
    "7/10, or rather 8/10",
    "8/10 for style, 6/10 for content",
    # none of 1 to 10
    '{"score": 0}',
    '{"score": 0.5}',
    '{"score": 11}',
    '{"score": 10.5}',
    '{"score": 100}',
    '{"score": -5}',
    '{"score": 70} I mean {"score": 7}',
    # another scale
    "80/100",
    '{"score": 80/100}',
    '{"score": "4/5"}',
    "4 out of 5",
    "8/10/2024",
    # no number
    '{"score": 07}',
    '{"score": 1e1}',
    '{"score": 7.}',
    '{"score": "seven"}',
    '{"score": null}',
    '{"score": true}',
    '{"score": }',
    '{"score": n}',
    # not seen to end, or not asked for
    '{"score": 7',
    '{"score": "7',
    '{"my_score": 7}',
    '{"scores": 7}',
    '{"rating": 7}',
    # on no scale
    "score: 7",
    "7",
    "",
    # only thought
    '<think>{"score": 7}</think>',
    '<think>{"score": 7}',
]


@pytest.mark.parametrize(("text", "value"), TAKEN)
def test_a_whole_score_counts_in_every_form(text: str, value: float) -> None:
    assert parse_score(text) == value


@pytest.mark.parametrize("text", FAILED)
def test_what_gives_no_one_score_has_failed(text: str) -> None:
    assert parse_score(text) is None


@given(st.integers(1, 10), st.integers(1, 10))
def test_a_second_score_of_another_value_fails(first: int, second: int) -> None:
    expected = first if first == second else None
    assert parse_score(f'{{"score": {first}}} and {{"score": {second}, "reason": "b"}}') == expected
    assert parse_score(f"{{'score': {first}}} and {{\"score\": {second}}}") == expected


@given(st.text(max_size=300))
def test_no_reply_breaks_it(text: str) -> None:
    found = parse_score(text)
    assert found is None or 1 <= found <= 10


@pytest.mark.parametrize(
    "text", ["{" * 9000, '{"a":' * 9000, "[" * 9000, '{"score": ' + "9" * 9000 + "}", "1/" * 9000]
)
def test_no_reply_takes_long(text: str) -> None:
    started = time.process_time()
    assert parse_score(text) is None
    assert time.process_time() - started < 5
