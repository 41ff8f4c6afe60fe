"""No text that users or models wrote is ever read as the tokens that steer a conversation."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from sparta_lite.campaign.wording import JUDGE_REQUESTS
from sparta_lite.engine.chat import Chat, Layout

# As the tokenizers of Qwen2.5 and Qwen3 have them: some steer without being marked special.
MARKED = ["endoftext", "im_start", "im_end", "object_ref_start", "object_ref_end", "box_start", "box_end"]
MARKED += ["quad_start", "quad_end", "vision_start", "vision_end", "vision_pad", "image_pad", "video_pad"]
MARKED = [f"<|{name}|>" for name in MARKED]
UNMARKED = [f"<|{name}|>" for name in ("fim_prefix", "fim_middle", "fim_suffix", "fim_pad", "repo_name")]
UNMARKED += ["<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<think>", "</think>"]
SPACES = "    "  # an added token, too, in some tokenizers: how they write plain text
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}"
    "{% if m.tool_calls %}<tool_call></tool_call>{% endif %}"
    "{% if m.role == 'tool' %}<tool_response></tool_response>{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
LAYOUTS: list[Layout] = ["turns", "message"]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    """Bytes, and Qwen's added tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE(vocab={char: index for index, char in enumerate(alphabet)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens([AddedToken(token, normalized=False) for token in MARKED])
    core.add_tokens([AddedToken(token, normalized=False) for token in [*UNMARKED, SPACES]])
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=MARKED,
    )
    wrapped.chat_template = TEMPLATE
    return wrapped


def steering(tokenizer: Any, ids: tuple[int, ...]) -> list[str]:
    """The added tokens among ``ids`` that are not plain text."""
    names = tokenizer.convert_ids_to_tokens(list(ids))
    return [name for name in names if name in {*MARKED, *UNMARKED}]


PIECES = [
    *MARKED,
    *UNMARKED,
    "<",
    "|",
    ">",
    "<|",
    "|>",
    "im_",
    "think",
    "\n",
    "assistant",
    '{"score": 10}',
    "é",
    SPACES,
]
HOSTILE = st.lists(st.sampled_from(PIECES) | st.text(max_size=3), max_size=10).map("".join)


def test_the_tokenizer_itself_would_read_them(tokenizer: Any) -> None:
    """Else the tests below would show nothing."""
    for text in (*MARKED, *UNMARKED):
        assert steering(tokenizer, tuple(tokenizer(text)["input_ids"])) == [text]
    split = tokenizer("<|im_end|><think>", split_special_tokens=True)["input_ids"]
    assert steering(tokenizer, tuple(split)) == ["<think>"]


@pytest.mark.parametrize("layout", LAYOUTS)
@given(question=HOSTILE, answer=HOSTILE)
def test_no_prompt_holds_more_of_them_than_the_template_wrote(
    tokenizer: Any, layout: Layout, question: str, answer: str
) -> None:
    chat = Chat(tokenizer, "Be brief.", layout, JUDGE_REQUESTS[layout])
    honest, fought = chat.judge("hi", chat.text("ho"), 9000), chat.question("hi", 9000)
    judged, asked = chat.judge(question, chat.text(answer), 9000), chat.question(question, 9000)
    assert honest is not None
    assert judged is not None
    assert steering(tokenizer, judged.ids) == steering(tokenizer, honest.ids)
    assert steering(tokenizer, asked.ids) == steering(tokenizer, fought.ids)
    whole = tokenizer.decode(judged.ids, clean_up_tokenization_spaces=False)
    assert question in whole
    assert answer in whole
    assert question in tokenizer.decode(asked.ids, clean_up_tokenization_spaces=False)


@pytest.mark.parametrize("layout", LAYOUTS)
@given(tokens=st.lists(st.sampled_from(MARKED) | st.text(max_size=3), max_size=8))
def test_those_that_a_fighter_generated_are_dropped(
    tokenizer: Any, layout: Layout, tokens: list[str]
) -> None:
    chat = Chat(tokenizer, None, layout, JUDGE_REQUESTS[layout])
    generated = [
        each
        for token in tokens
        for each in (tokenizer(token)["input_ids"] if token in MARKED else chat.text(token))
    ]
    clean = [each for token in tokens if token not in MARKED for each in chat.text(token)]
    assert chat.judge("hi", generated, 9000) == chat.judge("hi", clean, 9000)


@given(text=st.text(max_size=20))
def test_text_without_them_is_tokenised_as_ever(tokenizer: Any, text: str) -> None:
    chat = Chat(tokenizer, None, "turns", "Score.")
    text = text.replace("<", "") + SPACES
    assert chat.text(text) == tokenizer(text)["input_ids"]
