#!/bin/sh
# trl 1.15.0, transformers 5.17.0, peft 0.21.2, datasets 4.8.5, torch 2.13.0, Python 3.11, 2026-11-28
#
# Question: what does DPOTrainer do with preferences whose prompt alone fills `max_length`, so that no token of an
# answer is left after truncation?
# Guess: it cuts prompts from the left to leave room for answers, or warns of so many rows without any.
# Seen: neither. Such rows are dropped when the trainer is made, and nothing says so but the label of a progress
# bar; with progress bars off, nothing at all:
#     6 preferences, 3 left; said: nothing
# Where none is left the trainer is still made, and training ends in torch's sampler:
#     ValueError: num_samples should be a positive integer value, but got num_samples=0
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet trl==1.15.0 transformers==5.17.0 peft==0.21.2 datasets==4.8.5 torch==2.13.0
HF_HOME="$folder/home" HF_HUB_OFFLINE=1 "$folder/venv/bin/python" - "$folder" <<'PYTHON'
import contextlib
import io
import sys
import warnings

import datasets
from peft import LoraConfig
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM
from trl import DPOConfig, DPOTrainer

datasets.disable_progress_bars()
letters = sorted(pre_tokenizers.ByteLevel.alphabet())
core = Tokenizer(models.BPE(vocab={letter: n for n, letter in enumerate([*letters, "<end>"])}, merges=[]))
core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<end>", pad_token="<end>")
sizes = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 1, "num_key_value_heads": 1}
config = Qwen2Config(vocab_size=257, num_hidden_layers=1, eos_token_id=256, pad_token_id=256, **sizes)
preferences = [{"prompt": "x" * n, "chosen": "yes", "rejected": "no"} for n in (10, 40, 63, 64, 70, 200)]


def trainer(rows):
    return DPOTrainer(
        Qwen2ForCausalLM(config),
        args=DPOConfig(sys.argv[1] + "/out", max_length=64, use_cpu=True, bf16=False, report_to="none", disable_tqdm=True),
        train_dataset=datasets.Dataset.from_list(rows),
        processing_class=tokenizer,
        peft_config=LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"]),
    )


said = io.StringIO()
with warnings.catch_warnings(record=True) as warned, contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
    warnings.simplefilter("always")
    left = len(trainer(preferences).train_dataset)
told = [each for each in (said.getvalue(), *(str(warning.message) for warning in warned)) if "trunc" in each or "drop" in each]
print(f"{len(preferences)} preferences, {left} left; said: {told or 'nothing'}")
assert (left, told) == (3, [])
nothing = trainer(preferences[3:])
assert len(nothing.train_dataset) == 0
try:
    nothing.train()
except ValueError as error:
    print(f"ValueError: {error}")
    assert "num_samples=0" in str(error)
else:
    raise AssertionError("it trained on nothing")
PYTHON
