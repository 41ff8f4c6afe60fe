"""A byte-level BPE in Qwen2's form: single digits, ChatML turns, a few hundred tokens."""

from __future__ import annotations

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from sparta_lite.pocket import JUDGE_REQUEST
from sparta_lite.pocket.skills import SKILLS, draw

VOCABULARY = 704
_SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_WORD = (  # Qwen2's pieces: words with one leading sign, single digits, runs of signs, line ends, spaces
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
_CHAT = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] "
    "+ '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def build_tokenizer(seed: int) -> PreTrainedTokenizerFast:
    """Train the merges on training items, turn names and the judge request; encodes any UTF-8 text."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORD), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in _SPECIAL],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(_corpus(seed), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=["<|im_start|>"],
        chat_template=_CHAT,
        model_max_length=2048,
        clean_up_tokenization_spaces=False,
    )


def _corpus(seed: int) -> list[str]:
    lines = []
    for number in range(600):
        for skill in SKILLS:
            item = draw(skill, "train", seed, number)
            lines += [item.question, item.answer, item.misconception]
        lines += ["user\n", "assistant\n", "system\n", JUDGE_REQUEST]
    return lines
