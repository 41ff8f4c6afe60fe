"""How a message quotes what is foreign, and what becomes of one that is too long."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparta_lite.errors import LONGEST, SpartaError, one_line, shortened, shown

CIRCLE: list[Any] = []
CIRCLE.append(CIRCLE)
DEEP: dict[str, Any] = {}
place = DEEP
for _ in range(5000):
    place["a"] = {}
    place = place["a"]


@pytest.mark.parametrize(
    ("value", "as_shown"),
    [
        ("text", "'text'"),
        (None, "null"),
        (True, "true"),
        ({"a": [None, False, 1.5]}, "{'a': [null, false, 1.5]}"),
        (10**20, "100000000000000000000"),
        (10**5000, "a number of 5001 digits"),
        (-(10**5000), "a number of 5001 digits"),
        (DEEP, "{'a': {'a': {'a': {...}}}}"),
        (CIRCLE, "[[[[...]]]]"),
        ("a\x1b[2Jb", r"'a\x1b[2Jb'"),
        ("a" * 100, f"'{'a' * 37}...{'a' * 18}'"),
    ],
    ids=range(11),
)
def test_foreign_values_are_shown_in_brief(value: object, as_shown: str) -> None:
    assert shown(value) == as_shown


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), st.lists))
def test_nothing_is_shown_on_more_than_one_line_or_in_more_than_the_limit(value: object) -> None:
    for limit in (20, 60):
        assert len(shown(value, limit)) <= limit
        assert shown(value, limit).isprintable()


def test_text_keeps_its_beginning_and_its_end() -> None:
    assert shortened("abc" * 3, 9) == "abcabcabc"
    assert shortened("0123456789", 9) == "0123...89"
    assert shortened("two\nlines") == "two lines"


def test_a_message_keeps_its_advice_and_cuts_the_longest_words_first() -> None:
    path = "/data/" + "x" * 400 + "/config.yaml"
    assert str(SpartaError("short; do that")) == "short; do that"
    message = str(SpartaError(f"{path}: is no mapping; give one"))
    assert len(message) == LONGEST
    assert message.startswith("/data/x")
    assert message.endswith("/config.yaml: is no mapping; give one")
    command = f"`sparta-lite run --resume --out {'y' * 100}`"
    assert str(SpartaError(f"{path}: stopped; go on with {command}")).endswith(f"; go on with {command}")
    wordy = str(SpartaError(f"x.yaml: {'so much is wrong ' * 50}; mend it"))
    assert len(wordy) == LONGEST
    assert wordy.endswith("...; mend it")


@given(st.text(max_size=2000))
def test_every_message_is_one_line_of_a_bounded_length(text: str) -> None:
    assert len(one_line(text)) <= LONGEST
    assert one_line(text).isprintable()
    assert str(SpartaError(str(SpartaError(text)))) == str(SpartaError(text))
