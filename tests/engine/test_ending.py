"""What ends an answer, over templates of the families that people bring."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from sparta_lite.engine.bank import Bank
from sparta_lite.engine.base import Base
from sparta_lite.engine.chat import Chat
from sparta_lite.engine.decode import Prompt, generate
from sparta_lite.engine.ending import Ending, learn_ending, name_ending, notices, stops
from sparta_lite.engine.template import Template
from sparta_lite.errors import SpartaError
from sparta_lite.kernels.sampling import Sampling

from .templates import FAMILIES, Family, tokenizer_of

GREEDY = Sampling(temperature=0)


def model_of(tokenizer: Any, *named: int) -> Any:
    """What a model says of its end; nothing, but for what its tokenizer does."""
    ends = SimpleNamespace(eos_token_id=list(named) or None)
    return SimpleNamespace(generation_config=ends, config=SimpleNamespace(eos_token_id=None))


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> Family:
    return FAMILIES[request.param]


@pytest.mark.parametrize("marked", [True, False], ids=["special", "unmarked"])
def test_the_end_of_an_answer_is_learned_from_the_template(family: Family, marked: bool) -> None:
    tokenizer = tokenizer_of(family, marked)
    ending = learn_ending(Template(tokenizer))
    if family.end in family.special:
        assert tokenizer.convert_ids_to_tokens(ending.token) == family.end
        assert ending.text == ""
    else:
        assert ending == Ending(text=family.end)


def test_what_the_model_names_ends_an_answer_too(family: Family) -> None:
    tokenizer = tokenizer_of(family)
    ending = learn_ending(Template(tokenizer))
    found = stops(model_of(tokenizer, 7), tokenizer, ending)
    named = {7, tokenizer.eos_token_id}
    assert found == named | ({ending.token} if ending.token is not None else set())


def test_an_end_that_is_not_marked_special_is_no_text(family: Family) -> None:
    tokenizer = tokenizer_of(family, marked=False)
    ending = learn_ending(Template(tokenizer))
    before = tokenizer.get_vocab()
    stops(model_of(tokenizer), tokenizer, ending)
    assert tokenizer.get_vocab() == before
    if ending.token is not None:
        assert tokenizer.decode([ending.token], skip_special_tokens=True) == ""
        assert ending.token not in Chat(tokenizer, None, "turns", "").plain([1, ending.token])
        assert tokenizer(family.end)["input_ids"] == [ending.token]


def test_where_template_and_model_differ_it_is_said(family: Family) -> None:
    tokenizer = tokenizer_of(family)
    ending = learn_ending(Template(tokenizer))
    found = notices(model_of(tokenizer), tokenizer, ending)
    if family.end == family.special[0]:
        assert found == ()
        return
    [notice] = found
    assert len(notice) <= 300
    if family.end in family.special:
        assert f"ends an answer with {family.end}, the model names {family.special[0]}" in notice
    elif family.end:
        assert f"ends an answer with the text {family.end.strip()!r}" in notice
    else:
        assert "writes no end of turn" in notice


def test_a_base_that_names_nothing_needs_a_template_that_does() -> None:
    for name in ("none", "gemma"):
        tokenizer = tokenizer_of(FAMILIES[name])
        tokenizer.eos_token = None
        ending = learn_ending(Template(tokenizer))
        if name == "gemma":
            assert stops(model_of(tokenizer), tokenizer, ending) == {ending.token}
            assert "the model names nothing" in notices(model_of(tokenizer), tokenizer, ending)[0]
        else:
            with pytest.raises(SpartaError, match="writes no end of turn behind an answer, and neither"):
                stops(model_of(tokenizer), tokenizer, ending)


def test_a_merged_model_ends_where_the_template_does() -> None:
    tokenizer = tokenizer_of(FAMILIES["chatml-over-a-base"])
    model = model_of(tokenizer)
    name_ending(model, tokenizer)
    named = tokenizer.convert_ids_to_tokens(model.generation_config.eos_token_id)
    assert named == ["<|im_end|>", "<|endoftext|>"]
    tokenizer = tokenizer_of(FAMILIES["qwen-2.5"])
    model = model_of(tokenizer)
    name_ending(model, tokenizer)
    assert model.generation_config.eos_token_id is None


@pytest.mark.parametrize("name", ["several-tokens", "plain-text"])
def test_a_judge_reads_no_end_of_turn_that_is_plain_text(name: str) -> None:
    tokenizer = tokenizer_of(FAMILIES[name])
    ending = learn_ending(Template(tokenizer))
    chat = Chat(tokenizer, None, "turns", "Score.", ending=ending)
    answer = chat.text("It is 4.")
    ended = [*answer, *ending.ids(chat.template)]
    assert chat.plain(ended) == chat.plain(answer) == answer
    assert chat.judge("2+2?", ended, 900) == chat.judge("2+2?", answer, 900)


def test_an_end_that_shares_a_token_with_the_answer_is_cut_as_text() -> None:
    """As a model writes it that was trained on answer and end tokenised together."""
    tokenizer = tokenizer_of(FAMILIES["plain-text"])
    tokenizer.add_tokens([".\n"])
    chat = Chat(tokenizer, None, "turns", "Score.", ending=learn_ending(Template(tokenizer)))
    together = tokenizer("It is 4.\n### end")["input_ids"]
    assert tokenizer.convert_ids_to_tokens(together[7]) == ".\n"
    assert chat.plain(together) == chat.text("It is 4.")


def test_generation_ends_where_an_end_of_several_tokens_stands(base: Base, bank: Bank) -> None:
    prompts = [Prompt(None, tuple(range(40, 60))), Prompt("ada", tuple(range(60, 75)))]
    endless = replace(base, stops=frozenset())
    whole = [
        tuple(each.ids) for each in generate(endless, bank, prompts, GREEDY, 40, 2)
    ]  # the tiny base never ends by itself
    decode = base.tokenizer.decode
    end = decode(whole[0][10:13])
    assert len(end.encode()) >= 3
    found = generate(replace(endless, ending=Ending(text=end)), bank, prompts, GREEDY, 40, 2)
    first = next(length for length in range(1, 41) if end in decode(whole[0][:length]))
    assert first <= 13
    assert found[0].ids == whole[0][:first]
    assert found[0].stop == "end-of-turn"
    assert found[0].text == decode(whole[0]).partition(end)[0]
    if end not in decode(whole[1]):
        assert (found[1].ids, found[1].stop) == (whole[1], "length")


def test_the_stops_of_a_base_are_those_of_its_template(base: Base) -> None:
    assert base.ending == Ending(token=base.tokenizer.eos_token_id)
    assert base.notices == ()
