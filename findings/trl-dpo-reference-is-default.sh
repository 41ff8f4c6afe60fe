#!/bin/sh
# trl 1.15.0, transformers 5.17.0, peft 0.21.2, datasets 4.8.5, torch 2.13.0, Python 3.11, 2026-11-28
#
# Question: DPOTrainer gets a PeftModel of two adapters, of which the second is the active one that will be trained.
# Which of them becomes its reference?
# Guess: a copy of the active one, so that training starts at a margin of 0.
# Seen: a copy of the one that is named "default", which is not trained at all; nothing says so:
#     trained: second; the reference equals: default
# So the second adapter would be pulled towards another adapter. One that goes on training has to be named "default",
# or the weights of "ref" have to be overwritten once the trainer is made.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet trl==1.15.0 transformers==5.17.0 peft==0.21.2 datasets==4.8.5 torch==2.13.0
HF_HOME="$folder/home" HF_HUB_OFFLINE=1 "$folder/venv/bin/python" - "$folder" <<'PYTHON'
import sys

import datasets
import torch
from peft import LoraConfig, get_peft_model
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
lora = LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["q_proj"], init_lora_weights=False)  # none is zero
model = get_peft_model(Qwen2ForCausalLM(config), lora)
model.add_adapter("second", lora)
model.set_adapter("second")
trainer = DPOTrainer(
    model,
    args=DPOConfig(sys.argv[1] + "/out", use_cpu=True, bf16=False, report_to="none", disable_tqdm=True),
    train_dataset=datasets.Dataset.from_list([{"prompt": "2+2?", "chosen": "4", "rejected": "5"}]),
    processing_class=tokenizer,
)
weights = dict(trainer.model.named_parameters())
name = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.{}.weight"
trained = [each for each in ("default", "second") if weights[name.format(each)].requires_grad]
equal = [each for each in ("default", "second") if torch.equal(weights[name.format(each)], weights[name.format("ref")])]
print(f"trained: {', '.join(trained)}; the reference equals: {', '.join(equal)}")
assert (trained, equal) == (["second"], ["default"])
PYTHON
