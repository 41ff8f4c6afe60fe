"""Thinking, in templates that open the block themselves: judges never do, fighters where they may."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoTokenizer

from sparta_lite.engine.chat import Chat, Layout

# As Qwen3.5 has it, in other words: the answer's turn begins inside the block, which is closed at once where
# no thinking is wanted. Large models open it unless they are told not to, small ones when they are told to.
OPENED = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n<think>\n' }}"
    "{% if CLOSED %}{{ '\n</think>\n\n' }}{% endif %}{% endif %}"
)
TEMPLATES = {
    "thinks unless told not to": "enable_thinking is defined and not enable_thinking",
    "thinks when told to": "not (enable_thinking is defined and enable_thinking)",
}
CLOSED, OPEN = "assistant\n<think>\n\n</think>\n\n", "assistant\n<think>\n"


@pytest.mark.parametrize("thinking", [False, True])
@pytest.mark.parametrize("layout", ["turns", "message"])
@pytest.mark.parametrize("template", TEMPLATES)
def test_a_judge_never_thinks_and_a_fighter_where_it_may(
    base_path: Path, template: str, layout: Layout, thinking: bool
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(base_path)
    tokenizer.chat_template = OPENED.replace("CLOSED", TEMPLATES[template])
    request = "Rate {question} and {response}." if layout == "message" else "Rate it."
    chat = Chat(tokenizer, None, layout, request, thinking)
    judge = chat.judge("2+2?", chat.text("4"), 400)
    assert judge is not None
    assert tokenizer.decode(judge.ids).endswith(CLOSED)
    assert tokenizer.decode(chat.question("2+2?", 400).ids).endswith(OPEN if thinking else CLOSED)
