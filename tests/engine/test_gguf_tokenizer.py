"""The tokenizer of a GGUF file: how it cuts text into words, against transformers', and what it merges."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from tokenizers import pre_tokenizers
from transformers.convert_slow_tokenizer import Qwen2Converter, TikTokenConverter

from sparta_lite.engine.gguf_file import Gguf
from sparta_lite.engine.gguf_tokenizer import tokenizer_of
from sparta_lite.errors import SpartaError

BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())
TEXTS = [
    "Tom's 12 apples, 1234.5 kg (or more)!",
    "a  12\n\n 7\t\tend  ",
    'I\'LL say: "naïve"\r\n\r\n  x=10² e\u0301',
    "日本語 テスト,!?...\n\n\n// CamelCaseHTML _under_",
    "   ",
    "",
]


def gguf(**fields: Any) -> Gguf:
    found = {
        "model": "gpt2",
        "pre": "qwen2",
        "tokens": ["<|end|>", *BYTES],
        "token_type": [3, *[1] * len(BYTES)],
        "merges": [],
        "eos_token_id": 0,
    } | fields
    facts = {f"tokenizer.ggml.{key}": value for key, value in found.items() if value is not None}
    return Gguf(Path("m.gguf"), {"tokenizer.chat_template": "{{ messages }}<|end|>"} | facts, {})


def reference(cut: str) -> Any:
    if cut == "llama-bpe":
        pattern = TikTokenConverter().pattern
    elif cut == "qwen2":
        vocabulary = {char: number for number, char in enumerate([*BYTES, "ab"])}
        return Qwen2Converter(None).converted(vocabulary, [("a", "b")]).pre_tokenizer
    steps = {
        "gpt-2": [pre_tokenizers.ByteLevel(add_prefix_space=False)],
        "smollm": [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(False)],
    }.get(cut)
    if steps is None:
        from tokenizers import Regex

        cutting = pre_tokenizers.Split(Regex(pattern), "isolated")
        steps = [cutting, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    return pre_tokenizers.Sequence(steps)


@pytest.mark.parametrize("cut", ["llama-bpe", "qwen2", "gpt-2", "smollm"])
def test_words_are_cut_as_transformers_cuts_them(cut: str) -> None:
    ours, theirs = tokenizer_of(gguf(pre=cut)).backend_tokenizer.pre_tokenizer, reference(cut)
    for text in TEXTS:
        words = [word for word, _ in ours.pre_tokenize_str(text)]
        # ² is no digit to `Digits`; in the published regular expression it is one.
        if cut != "smollm" or "²" not in text:
            assert words == [word for word, _ in theirs.pre_tokenize_str(text)]


def test_words_of_tekken_end_where_capitals_begin() -> None:
    tokenizer = tokenizer_of(gguf(pre="tekken")).backend_tokenizer
    words = [word for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str("CamelCase is 12")]
    assert words == ["Camel", "Case", "Ġis", "Ġ", "1", "2"]


def test_a_word_that_is_a_token_is_taken_whole_where_the_tokenizer_does_so() -> None:
    tokens = ["<|end|>", *BYTES, "ab", "bc", "abc"]
    fields = {"tokens": tokens, "token_type": None, "merges": ["b c", "a b"]}
    whole = tokenizer_of(gguf(pre="llama-bpe", **fields))
    assert whole.tokenize("abc") == ["abc"]
    assert tokenizer_of(gguf(pre="qwen2", **fields)).tokenize("abc") == ["a", "bc"]


def test_special_tokens_are_the_files_and_no_others() -> None:
    tokens = ["<|end|>", *BYTES, "<think>", "<|turn|>"]
    kinds = [1, *[1] * len(BYTES), 4, 3]
    tokenizer = tokenizer_of(gguf(tokens=tokens, token_type=kinds, eot_token_id=0, eos_token_id=None))
    assert (tokenizer.eos_token, tokenizer.bos_token, tokenizer.pad_token) == (None, None, None)
    assert tokenizer.tokenize("<think><|turn|>a<|end|>") == ["<think>", "<|turn|>", "a", "<|end|>"]
    ids = tokenizer("<think><|turn|>a<|end|>")["input_ids"]
    assert tokenizer.decode(ids, skip_special_tokens=True) == "<think>a"
    # Text is text: no space in front of a comma gets lost.
    assert tokenizer.decode(tokenizer("a , b . c")["input_ids"]) == "a , b . c"


def test_a_beginning_is_added_where_the_file_says_so() -> None:
    assert tokenizer_of(gguf(bos_token_id=0, add_bos_token=True))("a")["input_ids"][0] == 0
    assert len(tokenizer_of(gguf(bos_token_id=0, add_bos_token=False))("a")["input_ids"]) == 1


PIECES = {"▁": -9.0, "▁a": -2.0, "ab": -1.0, "abc": -5.0, "▁ab": -4.0, "bc": -3.0, "cc": -0.5, "a": -10.0}
PIECES |= {"b": -11.0, "c": -12.0, "</s>": 0.0, "<": -13.0, "/": -14.0, "s": -15.0, ">": -16.0}


def merged(text: str) -> list[str]:
    """SentencePiece's rule itself: merge the best pair of neighbours until none is a piece."""
    parts = list(text.replace(" ", "▁"))
    while True:
        found = [(one + two, at) for at, (one, two) in enumerate(pairwise(parts))]
        pairs = [(PIECES[piece], -at) for piece, at in found if piece in PIECES and piece != "</s>"]
        if not pairs:
            return parts
        at = -max(pairs)[1]
        parts[at : at + 2] = [parts[at] + parts[at + 1]]


@pytest.mark.parametrize("prefix", [True, False])
def test_pieces_are_merged_by_their_scores(prefix: bool) -> None:
    tokens = ["<unk>", *PIECES, "<0x0A>"]
    kinds = [2, *(3 if piece == "</s>" else 1 for piece in PIECES), 6]
    fields = gguf(
        model="llama",
        pre=None,
        tokens=tokens,
        scores=[0.0, *PIECES.values(), 0.0],
        token_type=kinds,
        merges=None,
        unknown_token_id=0,
        eos_token_id=tokens.index("</s>"),
        add_bos_token=False,
        add_space_prefix=prefix,
    )
    tokenizer = tokenizer_of(fields)
    for text in ("abc ab", "aabcc b", "ccc ab abc"):
        assert tokenizer.tokenize(text) == merged(" " + text if prefix else text)
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert tokenizer.tokenize("b\n")[-1] == "<0x0A>"


def test_what_is_not_known_is_refused() -> None:
    for fields, message in (
        ({"model": "bert"}, "of the kind 'bert'"),
        ({"pre": "default"}, "in the way 'default'"),
        ({"tokens": ["<|end|>", *BYTES, "!"], "token_type": None}, "1 of its tokens stand there twice"),
        ({"merges": ["a zz"]}, "its merges do not fit its vocabulary"),
        ({"model": "llama"}, "lacks scores"),
    ):
        with pytest.raises(SpartaError, match=message):
            tokenizer_of(gguf(**fields))
