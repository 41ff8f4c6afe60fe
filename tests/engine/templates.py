"""Chat templates in the manner of well-known families, in words of our own, and a tokenizer for each."""

from __future__ import annotations

from dataclasses import dataclass

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

_ASKED = "{% if add_generation_prompt %}"


@dataclass(frozen=True)
class Family:
    template: str
    special: tuple[str, ...]
    """Tokens that the vocabulary has; the first is what the model names as its end."""
    end: str
    """What ends an answer; empty: nothing does."""
    last: str
    """What the template writes behind the last answer."""


CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    + _ASKED
    + "<|im_start|>assistant\n{% endif %}"
)
_CHATML_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_THINKING = (
    "{% set place = namespace(user=0) %}"
    "{% for m in messages if m.role == 'user' %}{% set place.user = loop.index0 %}{% endfor %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' and not loop.last %}{{ m.content.split('</think>')[-1] | trim }}"
    "{% elif m.role == 'assistant' %}<think>\n\n</think>\n\n{{ m.content }}"
    "{% else %}{{ m.content }}{% endif %}<|im_end|>\n{% endfor %}"
    + _ASKED
    + "<|im_start|>assistant\n{% if enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
_LLAMA_3 = (
    "{{ bos_token }}{% if messages[0].role != 'system' %}<|start_header_id|>system<|end_header_id|>\n\n"
    "Today: {{ strftime_now('%d %b %Y') }}<|eot_id|>{% endif %}"
    "{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n{{ m.content | trim }}"
    "<|eot_id|>{% endfor %}" + _ASKED + "<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
_GEMMA = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('no system turn') }}{% endif %}"
    "{% for m in messages %}<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n"
    "{{ m.content | trim }}<end_of_turn>\n{% endfor %}" + _ASKED + "<start_of_turn>model\n{% endif %}"
)
_MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
    "{% elif m.role == 'assistant' %} {{ m.content }}{{ eos_token }}"
    "{% else %}{{ raise_exception('user and assistant alone') }}{% endif %}{% endfor %}"
)
_PHI_3 = (
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}"
    + _ASKED
    + "<|assistant|>\n{% else %}{{ eos_token }}{% endif %}"
)
_AT_THE_END_ALONE = (
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}{% if loop.last and m.role == 'assistant' %}"
    "{{ eos_token }}{% endif %}\n{% endfor %}" + _ASKED + "<|assistant|>\n{% endif %}"
)
_BETWEEN_ALONE = (
    "{% for m in messages %}{% if m.role == 'user' %}{{ '' if loop.first else eos_token }}Q: "
    "{{ m.content }}\n{% else %}A: {{ m.content }}{% endif %}{% endfor %}" + _ASKED + "A: {% endif %}"
)
_NEXT_ROLE = (
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}{% endfor %}"
    + _ASKED
    + "<|assistant|>\n{% endif %}"
)
_CHANNELS = (
    "{% for m in messages %}<|start|>{{ m.role }}{% if m.role == 'assistant' %}<|channel|>final{% endif %}"
    "<|message|>{{ m.content }}{% if loop.last and m.role == 'assistant' %}<|return|>{% else %}<|end|>"
    "{% endif %}{% endfor %}" + _ASKED + "<|start|>assistant<|channel|>final<|message|>{% endif %}"
)
_GENERATION = (
    "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}<|assistant|>{{ m.content }}</s>"
    "{% endgeneration %}{% else %}<|user|>{{ m.content | tojson }}</s>{% endif %}{% endfor %}"
)
_PLAIN = "{% for m in messages %}### {{ m.role }}\n{{ m.content }}\n### end\n{% endfor %}"
_NONE = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n\n{% endfor %}" + _ASKED + "assistant: {% endif %}"
)
_TEXT_TOKENS = ("</s>", "<s>")

FAMILIES = {
    "qwen-2.5": Family(CHATML, ("<|im_end|>", "<|im_start|>", "<|endoftext|>"), "<|im_end|>", "<|im_end|>\n"),
    "chatml-over-a-base": Family(CHATML, _CHATML_TOKENS, "<|im_end|>", "<|im_end|>\n"),
    "default-system": Family(
        "{% if messages[0].role != 'system' %}<|im_start|>system\nBe kind.<|im_end|>\n{% endif %}" + CHATML,
        _CHATML_TOKENS,
        "<|im_end|>",
        "<|im_end|>\n",
    ),
    "qwen-3": Family(_THINKING, _CHATML_TOKENS, "<|im_end|>", "<|im_end|>\n"),
    "llama-3": Family(
        _LLAMA_3,
        ("<|end_of_text|>", "<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        "<|eot_id|>",
        "<|eot_id|>",
    ),
    "gemma": Family(
        _GEMMA, ("<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>"), "<end_of_turn>", "<end_of_turn>\n"
    ),
    "mistral": Family(_MISTRAL, _TEXT_TOKENS, "</s>", "</s>"),
    "llama-2": Family(_MISTRAL.replace("{{ eos_token }}", " {{ eos_token }}"), _TEXT_TOKENS, "</s>", " </s>"),
    "phi-3": Family(
        _PHI_3,
        ("<|endoftext|>", "<|user|>", "<|assistant|>", "<|end|>"),
        "<|end|>",
        "<|end|>\n<|endoftext|>",
    ),
    "at-the-end-alone": Family(_AT_THE_END_ALONE, ("</s>", "<|user|>", "<|assistant|>"), "</s>", "</s>\n"),
    "between-alone": Family(_BETWEEN_ALONE, _TEXT_TOKENS, "</s>", ""),
    "next-role": Family(_NEXT_ROLE, ("<|endoftext|>", "<|user|>", "<|assistant|>"), "<|user|>", ""),
    "channels": Family(
        _CHANNELS,
        ("<|endoftext|>", "<|start|>", "<|channel|>", "<|message|>", "<|end|>", "<|return|>"),
        "<|return|>",
        "<|return|>",
    ),
    "generation-marks": Family(_GENERATION, ("</s>", "<|user|>", "<|assistant|>"), "</s>", "</s>"),
    "several-tokens": Family(CHATML, ("</s>",), "<|im_end|>", "<|im_end|>\n"),
    "plain-text": Family(_PLAIN, ("</s>",), "\n### end", "\n### end\n"),
    "none": Family(_NONE, ("</s>",), "", "\n\n"),
}


def tokenizer_of(family: Family, marked: bool = True) -> PreTrainedTokenizerFast:
    """Bytes, and the family's tokens; ``marked``: all as special, else those alone that the model names."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE(vocab={char: index for index, char in enumerate(alphabet)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.add_tokens([AddedToken(each, special=marked, normalized=False) for each in family.special])
    begin = next((each for each in family.special if each in ("<s>", "<bos>", "<|begin_of_text|>")), None)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token=family.special[0], **({"bos_token": begin} if begin else {})
    )
    tokenizer.chat_template = family.template
    return tokenizer
