#!/bin/sh
# transformers 5.17.0, tokenizers 0.23.3, gguf 0.19.0, Python 3.11, 2026-11-28
#
# Question: a GGUF file says in its metadata which token ends a turn (`tokenizer.ggml.eos_token_id`), which begins a text, and how text
# is cut into words before it is merged (`tokenizer.ggml.pre`: llama-bpe, smollm, gpt-2, ...). Does the tokenizer that
# `AutoTokenizer.from_pretrained(folder, gguf_file=...)` makes do what the file says?
# Guess: yes; both stand in the file so that nobody has to know the model.
# Seen: neither. The architecture decides. Of `llama` the end is what the file calls the beginning, of `qwen2` it is <|endoftext|>
# whatever the file names, and there is no beginning; and every byte-level tokenizer of `llama` cuts words as GPT-2 does:
#     llama: file says begin <|im_start|>, end <|im_end|>; tokenizer: begin <|im_start|>, end <|im_start|>
#     qwen2: file says begin <|endoftext|>, end <|im_end|>; tokenizer: begin None, end <|endoftext|>
#     llama, pre smollm:    'a  12' -> ['a', 'Ġ', 'Ġ', '1', '2'], with digits cut first ['a', 'ĠĠ', '1', '2']
#     llama, pre llama-bpe: '(hello' -> ['(', 'hello'], by Llama 3's expression ['(hello']
# Answers of SmolLM2 and Qwen2.5 then never end where their template ends them, and prompts of SmolLM and Llama 3 hold other tokens
# than those that they were trained on. Nothing warns.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.17.0 tokenizers==0.23.3 gguf==0.19.0
HF_HOME="$folder/home" HF_HUB_OFFLINE=1 TRANSFORMERS_VERBOSITY=error "$folder/venv/bin/python" - "$folder" <<'PYTHON'
import sys
from pathlib import Path

from gguf import GGUFWriter, TokenType
from tokenizers import Regex, pre_tokenizers
from transformers import AutoTokenizer

folder = Path(sys.argv[1])
special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
letters = sorted(pre_tokenizers.ByteLevel.alphabet())
merges = ["Ġ Ġ", "h e", "l l", "he ll", "hell o", "( hello"]


def tokenizer(architecture: str, cut: str, begin: int, end: int):
    file = folder / f"{architecture}-{cut}.gguf"
    writer = GGUFWriter(file, architecture)
    writer.add_name("tiny")
    writer.add_block_count(1)
    writer.add_context_length(64)
    writer.add_embedding_length(16)
    writer.add_feed_forward_length(16)
    writer.add_head_count(1)
    writer.add_head_count_kv(1)
    writer.add_layer_norm_rms_eps(1e-6)
    tokens = [*special, *letters, *(merge.replace(" ", "") for merge in merges)]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(cut)
    writer.add_token_list(tokens)
    writer.add_token_types([TokenType.CONTROL] * 3 + [TokenType.NORMAL] * (len(tokens) - 3))
    writer.add_token_merges(merges)
    writer.add_bos_token_id(begin)
    writer.add_eos_token_id(end)
    writer.add_unk_token_id(0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return AutoTokenizer.from_pretrained(folder, gguf_file=file.name)


def says(architecture: str, begin: int, made) -> None:
    print(
        f"{architecture}: file says begin {special[begin]}, end {special[2]}; "
        f"tokenizer: begin {made.bos_token}, end {made.eos_token}"
    )


smol, qwen = tokenizer("llama", "smollm", 1, 2), tokenizer("qwen2", "qwen2", 0, 2)
says("llama", 1, smol)
says("qwen2", 0, qwen)
assert (smol.eos_token, qwen.eos_token) == ("<|im_start|>", "<|endoftext|>")

found = smol.tokenize("a  12")
words = pre_tokenizers.Sequence(
    [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
)
smol.backend_tokenizer.pre_tokenizer = words
print(f"llama, pre smollm:    'a  12' -> {found}, with digits cut first {smol.tokenize('a  12')}")
assert found != smol.tokenize("a  12")

llama = tokenizer("llama", "llama-bpe", 1, 2)
found = llama.tokenize("(hello")
llama3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
llama.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
    [pre_tokenizers.Split(Regex(llama3), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
)
print(f"llama, pre llama-bpe: '(hello' -> {found}, by Llama 3's expression {llama.tokenize('(hello')}")
assert found != llama.tokenize("(hello")
PYTHON
