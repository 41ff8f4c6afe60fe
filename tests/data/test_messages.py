"""What a conversation begins with, and what two answers have in common."""

from __future__ import annotations

from typing import Any

import pytest
from trl.data_utils import extract_prompt

from sparta_lite.data.detection import common_prompt
from sparta_lite.data.messages import Opening, is_conversation, opening_of, transcript
from sparta_lite.data.row import FaultError, Row


def said(*turns: str) -> list[dict[str, str]]:
    """``"u hi"``: the user says hi."""
    roles = {"s": "system", "u": "user", "a": "assistant", "t": "tool"}
    return [{"role": roles[turn[0]], "content": turn[2:]} for turn in turns]


@pytest.mark.parametrize(
    ("messages", "opening"),
    [
        (said("u hi"), Opening("hi", False, False)),
        (said("u hi", "a ho"), Opening("hi", False, False)),
        (said("s be brief", "u hi"), Opening("hi", True, False)),
        (said("s  ", "u hi"), Opening("hi", False, False)),
        (said("u one", "a two", "u three"), Opening("one", False, True)),
        (said("u one", "a two", "u three", "a four"), Opening("one", False, True)),
        (said("u a text", "u and a question"), Opening("a text\n\nand a question", False, False)),
        (said("a hello, what is it?", "u hi"), Opening("hi", False, True)),
        (said("u hi", "t 7", "a ho"), Opening("hi", False, False)),
    ],
)
def test_the_users_first_turn_is_what_is_asked(messages: Any, opening: Opening) -> None:
    assert opening_of(messages) == opening


def test_a_conversation_says_who_speaks() -> None:
    assert is_conversation(said("u hi"))
    assert not any(
        map(is_conversation, ([], ["hi"], "hi", None, [{"content": "hi"}], [{"role": 3}], {"role": "user"}))
    )


PAIRS: list[tuple[Any, Any]] = [
    ("The sky is blue.", "The sky is green."),
    ("Q: 2 + 2?\nA: 4", "Q: 2 + 2?\nA: five"),
    (said("u hi", "a ho"), said("u hi", "a hum")),
    (said("s x", "u hi", "a ho", "u and", "a y"), said("s x", "u hi", "a ho", "u and", "a z")),
]


@pytest.mark.parametrize(("chosen", "rejected"), PAIRS)
def test_a_prompt_in_both_answers_is_the_one_that_trl_finds(chosen: Any, rejected: Any) -> None:
    found = extract_prompt({"chosen": chosen, "rejected": rejected})["prompt"]
    expected = found if isinstance(found, str) else opening_of(found).text
    assert common_prompt(Row("row 1", {"chosen": chosen, "rejected": rejected})) == expected


@pytest.mark.parametrize(
    ("chosen", "rejected", "prompt"),
    [
        ("The sky is blue.", "The sky is black.", "The sky is"),  # where TRL's ends in "bl"
        ("Name a fruit.", "Name a fruit. Fig.", "Name a fruit."),
        ("Same.", "Same.", "Same."),
        ("\n\nHuman: hi\n\nAssistant: ho", "\n\nHuman: hi\n\nAssistant: hum", "hi"),
        ("\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant: d", "\n\nHuman: a\n\nAssistant: x", "a"),
        (said("u hi", "a ho"), said("u hi", "a ho"), "hi"),
    ],
)
def test_a_prompt_ends_with_a_word_and_is_a_users(chosen: Any, rejected: Any, prompt: str) -> None:
    assert common_prompt(Row("row 1", {"chosen": chosen, "rejected": rejected})) == prompt


@pytest.mark.parametrize(
    ("chosen", "rejected", "reason"),
    [
        ("Blue.", "Black.", "no common beginning"),
        (said("u hi"), said("u ho"), "no common beginning"),
        (said("a hi", "u x"), said("a hi", "u y"), "no user's turn"),
        (None, "x", "neither text nor messages in column 'chosen'"),
        (said("u hi"), 3, "neither text nor messages in column 'rejected'"),
    ],
)
def test_answers_without_a_common_prompt_are_at_fault(chosen: Any, rejected: Any, reason: str) -> None:
    with pytest.raises(FaultError, match=reason):
        common_prompt(Row("row 1", {"chosen": chosen, "rejected": rejected}))


def test_a_transcript_is_one_from_its_first_word_on() -> None:
    assert transcript("\n\nHuman: hi \n\nAssistant:") == (("user", "hi"),)
    assert transcript("Human: a\nb\n\nAssistant: c") == (("user", "a\nb"), ("assistant", "c"))
    assert transcript("He said:\n\nHuman: hi") is None
    assert transcript("\n\nAssistant: hi") is None
    assert transcript("Human: hi") is None
    assert transcript("hi") is None
