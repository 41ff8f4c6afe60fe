"""The tokenizer that a GGUF file describes, built from the file's metadata alone.

transformers 5.17 makes one by the model's architecture: it takes the beginning of a text for the end of a
turn, and cuts text into words in one way whatever the file says.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

from sparta_lite.engine.gguf_file import Gguf
from sparta_lite.errors import SpartaError, shown

_NORMAL, _CONTROL, _USER_DEFINED = 1, 3, 4
"""Of ``tokenizer.ggml.token_type``: text, a special token, text that stands whole."""
_SPECIAL = ("bos", "eos", "eot", "eom", "padding")
_MARK = re.compile(r"<[^<>\s]+>")
_OTHERWISE = "give the model in transformers' form"

_ENGLISH = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_WORD = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_SIGNS = r" ?[^\s\p{L}\p{N}]+[\r\n]*"
_SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_UPPER, _LOWER = r"\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}", r"\p{Ll}\p{Lm}\p{Lo}\p{M}"
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_LLAMA3 = rf"{_ENGLISH}|{_WORD}|\p{{N}}{{1,3}}|{_SIGNS}|{_SPACES}"
_QWEN2 = rf"{_ENGLISH}|{_WORD}|\p{{N}}|{_SIGNS}|{_SPACES}"
_TEKKEN = (
    rf"[^\r\n\p{{L}}\p{{N}}]?[{_UPPER}]*[{_LOWER}]+|[^\r\n\p{{L}}\p{{N}}]?[{_UPPER}]+[{_LOWER}]*"
    rf"|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_SPACES}"
)
_DIGITS = r"\p{N}"

_CUTS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("gpt-2", "phi-2", "olmo"), (_GPT2,)),
    **dict.fromkeys(("llama-bpe", "llama3", "llama-v3", "falcon3"), (_LLAMA3,)),
    **dict.fromkeys(("qwen2", "deepseek-r1-qwen"), (_QWEN2,)),
    **dict.fromkeys(("smollm", "starcoder", "refact", "command-r"), (_DIGITS, _GPT2)),
    "tekken": (_TEKKEN,),
}
"""``tokenizer.ggml.pre`` -> the expressions that cut text into words, one after the other."""
_WHOLE_WORDS = ("llama-bpe", "llama3", "llama-v3", "falcon3", "tekken")
"""Of them those that take a word that is a token as it is, whatever the merges would make of it."""
_COMPOSED = ("qwen2", "deepseek-r1-qwen")
"""Of them those that first compose characters (NFC)."""


def tokenizer_of(gguf: Gguf) -> PreTrainedTokenizerFast:
    """The tokenizer of a GGUF file, special tokens and chat template included.

    Raises:
        SpartaError: it is of a kind that is not known here, or its vocabulary is damaged.
    """
    tokens: list[str] = gguf.fields["tokenizer.ggml.tokens"]
    kinds = _kinds(gguf, tokens)
    model = gguf.fields.get("tokenizer.ggml.model")
    if model == "gpt2":
        tokenizer = _byte_level(gguf, tokens)
    elif model == "llama":
        tokenizer = _sentence_pieces(gguf, tokens, kinds)
    else:
        raise SpartaError(
            f"base: {gguf.path}: its tokenizer is of the kind {shown(model)}, which is not known here; "
            f"{_OTHERWISE}"
        )
    for number, kind in enumerate(kinds):
        if kind in (_CONTROL, _USER_DEFINED):
            special = kind == _CONTROL
            tokenizer.add_tokens([AddedToken(tokens[number], special=special, normalized=False)])
    _require_numbers(gguf, tokens, tokenizer)

    def text(name: str) -> str | None:
        number = gguf.token(name)
        return None if number is None else tokens[number]

    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=text("bos"),
        eos_token=text("eos"),
        pad_token=text("padding"),
        unk_token=text("unknown"),
        add_bos_token=bool(gguf.fields.get("tokenizer.ggml.add_bos_token", model == "llama")),
        add_eos_token=bool(gguf.fields.get("tokenizer.ggml.add_eos_token", False)),
        clean_up_tokenization_spaces=False,
        chat_template=gguf.fields["tokenizer.chat_template"],
    )


def _kinds(gguf: Gguf, tokens: Sequence[str]) -> list[int]:
    """Per token its kind; what the file names as an end, and what its template writes, is no text."""
    kinds = [int(kind) for kind in gguf.fields.get("tokenizer.ggml.token_type") or ()]
    written: set[str] = set()
    if len(kinds) != len(tokens):
        kinds = [_NORMAL] * len(tokens)
        written = set(_MARK.findall(gguf.fields["tokenizer.chat_template"]))
    named = {gguf.token(name) for name in _SPECIAL}
    return [
        _CONTROL if number in named or text in written else kind
        for number, (text, kind) in enumerate(zip(tokens, kinds, strict=True))
    ]


def _byte_level(gguf: Gguf, tokens: Sequence[str]) -> Tokenizer:
    """Bytes, merged within words: GPT-2's kind."""
    cut = gguf.fields.get("tokenizer.ggml.pre")
    if cut not in _CUTS:
        raise SpartaError(
            f"base: {gguf.path}: it cuts text into words in the way {shown(cut)} (tokenizer.ggml.pre), which "
            f"is not known here; {_OTHERWISE}"
        )
    merges = [tuple(merge.split(" ", 1)) for merge in gguf.fields.get("tokenizer.ggml.merges") or ()]
    vocabulary = {text: number for number, text in enumerate(tokens)}
    try:
        model = BPE(vocabulary, merges, ignore_merges=cut in _WHOLE_WORDS)
    except Exception as error:  # the library names the merge whose parts are no tokens
        raise SpartaError(
            f"base: {gguf.path}: its merges do not fit its vocabulary ({str(error)[:80]}); get it again"
        ) from error
    tokenizer = Tokenizer(model)
    if cut in _COMPOSED:
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            *(pre_tokenizers.Split(Regex(each), "isolated") for each in _CUTS[cut]),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _sentence_pieces(gguf: Gguf, tokens: Sequence[str], kinds: Sequence[int]) -> Tokenizer:
    """SentencePiece's BPE: of two neighbours those are merged first whose piece has the highest score."""
    from transformers.convert_slow_tokenizer import generate_merges

    scores = gguf.fields.get("tokenizer.ggml.scores")
    if not scores or len(scores) != len(tokens):
        raise SpartaError(f"base: {gguf.path}: its vocabulary lacks scores; {_OTHERWISE}")
    vocabulary = {text: number for number, text in enumerate(tokens)}
    pieces = {text: score for text, score, kind in zip(tokens, scores, kinds, strict=True) if kind == _NORMAL}
    skipped = [text for text in tokens if text not in pieces]
    unknown = gguf.token("unknown")
    tokenizer = Tokenizer(
        BPE(
            vocabulary,
            generate_merges(vocabulary, pieces, skipped),
            unk_token=None if unknown is None else tokens[unknown],
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    prefix = bool(gguf.fields.get("tokenizer.ggml.add_space_prefix", True))
    spaces = [normalizers.Replace(" ", "▁")]
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), *spaces] if prefix else spaces)
    steps: list[Any] = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)] if prefix else steps)
    return tokenizer


def _require_numbers(gguf: Gguf, tokens: Sequence[str], tokenizer: Tokenizer) -> None:
    vocabulary = tokenizer.get_vocab()
    moved = [text for number, text in enumerate(tokens) if vocabulary.get(text) != number]
    if moved:
        raise SpartaError(
            f"base: {gguf.path}: {len(moved)} of its tokens stand there twice, such as "
            f"{shown(moved[0], 30)}; {_OTHERWISE}"
        )
