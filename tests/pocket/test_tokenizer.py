from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from sparta_lite.pocket import JUDGE_REQUEST, SCORE_PREFIX, items
from sparta_lite.pocket.tokenizer import VOCABULARY, build_tokenizer

built = build_tokenizer(0)


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerFast:
    path: Path = tmp_path_factory.mktemp("tokenizer")
    built.save_pretrained(path)
    return AutoTokenizer.from_pretrained(path)


@given(text=st.text(st.characters(exclude_categories=["Cs"])))
@settings(deadline=None, max_examples=200)
def test_any_text_survives_the_round_trip(text: str) -> None:
    assert built.decode(built.encode(text, add_special_tokens=False), skip_special_tokens=False) == text


def test_a_saved_copy_encodes_alike_and_knows_its_turns(loaded: PreTrainedTokenizerFast) -> None:
    text = f"french: cat dog\n{JUDGE_REQUEST} 12 apples, été"
    assert loaded.encode(text) == built.encode(text)
    assert (loaded.eos_token, loaded.pad_token) == ("<|im_end|>", "<|endoftext|>")
    assert len(loaded) <= VOCABULARY
    assert VOCABULARY % 64 == 0


def test_digits_are_single_tokens() -> None:
    assert built.tokenize("3947") == ["3", "9", "4", "7"]
    assert built.tokenize(f"{SCORE_PREFIX}10}}")[-3:] == ["1", "0", "}"]


def test_chat_template_is_qwens_without_a_default_system_turn(loaded: PreTrainedTokenizerFast) -> None:
    chat = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]
    text = "<|im_start|>user\nQ<|im_end|>\n<|im_start|>assistant\nA<|im_end|>\n"
    assert loaded.apply_chat_template(chat, tokenize=False) == text
    assert loaded.apply_chat_template(chat[:1], tokenize=False, add_generation_prompt=True) == (
        "<|im_start|>user\nQ<|im_end|>\n<|im_start|>assistant\n"
    )


def test_prompts_are_short(loaded: PreTrainedTokenizerFast) -> None:
    for item in items("duel", 200):
        chat = [{"role": "user", "content": item.question}]
        assert len(loaded.apply_chat_template(chat, add_generation_prompt=True)["input_ids"]) <= 20
