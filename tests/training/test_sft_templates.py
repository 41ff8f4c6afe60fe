"""What an adapter learns to end its answers with, over templates of the families that people bring."""

from __future__ import annotations

import dataclasses
from datetime import datetime

import pytest

from sparta_lite.engine.base import Base
from sparta_lite.engine.chat import Chat
from sparta_lite.engine.ending import Ending, learn_ending
from sparta_lite.engine.template import Template, TurnsError
from sparta_lite.errors import SpartaError
from sparta_lite.training.sft import tokenize

from ..engine.templates import FAMILIES, Family, tokenizer_of

DATE = datetime(2024, 2, 29)
ONCE = (("user", "2+2?"), ("assistant", "4"))
TWICE = (*ONCE, ("user", "Sure?"), ("assistant", "Yes"))
WITHOUT_A_PROMPT = ("mistral", "llama-2", "generation-marks", "several-tokens", "plain-text")
"""Their generation prompt is not what stands before an answer in a conversation, or there is none."""


def over(base: Base, family: Family, ending: Ending | None = None) -> Base:
    tokenizer = tokenizer_of(family)
    ending = ending or learn_ending(Template(tokenizer))
    stops = {tokenizer.eos_token_id} | ({ending.token} if ending.token is not None else set())
    return dataclasses.replace(base, tokenizer=tokenizer, ending=ending, stops=frozenset(stops))


def learned(base: Base, labels: tuple[int, ...]) -> str:
    text: str = base.tokenizer.decode([label for label in labels if label >= 0])
    return text


@pytest.mark.parametrize("name", [name for name in FAMILIES if name != "none"])
def test_an_answer_is_learned_with_the_end_that_the_template_writes(base: Base, name: str) -> None:
    family = FAMILIES[name]
    base = over(base, family)
    lesson = tokenize(base, ONCE, 900, DATE)
    assert lesson is not None
    space = " " if name == "llama-2" else ""
    assert learned(base, lesson.labels) == f"4{space}{family.end}"
    written = Template(base.tokenizer, DATE).render(ONCE)
    text = base.tokenizer.decode(lesson.ids)
    if family.last.startswith(family.end) or space:
        assert text == written
    else:  # the template leaves the last answer open
        assert text == written + family.end


@pytest.mark.parametrize("name", ["qwen-2.5", "qwen-3", "llama-3", "gemma", "mistral", "phi-3", "plain-text"])
def test_every_answer_of_a_conversation_has_its_end(base: Base, name: str) -> None:
    family = FAMILIES[name]
    base = over(base, family)
    lesson = tokenize(base, TWICE, 900, DATE)
    assert lesson is not None
    assert learned(base, lesson.labels) == f"4{family.end}Yes{family.end}"
    assert base.tokenizer.decode(lesson.ids) == Template(base.tokenizer, DATE).render(TWICE)


@pytest.mark.parametrize("name", [name for name in FAMILIES if name not in WITHOUT_A_PROMPT])
def test_a_lesson_begins_as_generation_does(base: Base, name: str) -> None:
    base = over(base, FAMILIES[name], Ending(text="\n") if name == "none" else None)
    prompt = Chat(base.tokenizer, None, "turns", "", date=DATE).question("2+2?", 900).ids
    lesson = tokenize(base, ONCE, 900, DATE)
    assert lesson is not None
    assert lesson.ids[: len(prompt)] == prompt
    assert set(lesson.labels[: len(prompt)]) == {-100}


def test_a_template_that_ends_nothing_teaches_nobody_to_stop(base: Base) -> None:
    with pytest.raises(
        SpartaError, match="writes no end-of-turn token behind an answer, so no adapter could"
    ):
        tokenize(over(base, FAMILIES["none"]), ONCE, 900)


def test_turns_that_the_template_refuses_are_told_apart(base: Base) -> None:
    with pytest.raises(TurnsError, match=r"refuses the turns system, user, assistant \(no system turn\)"):
        tokenize(over(base, FAMILIES["gemma"]), (("system", "Be brief."), *ONCE), 900)


def test_a_template_that_leaves_a_message_out_is_told_apart(base: Base) -> None:
    family = FAMILIES["qwen-2.5"]
    deaf = dataclasses.replace(
        family,
        template=family.template.replace(
            "{% for m in messages %}", "{% for m in messages if m.role != 'tool' %}"
        ),
    )
    with pytest.raises(TurnsError, match="leaves out one of the turns user, assistant, tool, assistant"):
        tokenize(over(base, deaf), (*ONCE, ("tool", "4"), ("assistant", "4!")), 900)


def test_the_date_is_the_one_that_is_given(base: Base) -> None:
    base = over(base, FAMILIES["llama-3"])
    lesson = tokenize(base, ONCE, 900, DATE)
    assert lesson is not None
    assert "Today: 29 Feb 2024<|eot_id|>" in base.tokenizer.decode(lesson.ids)
