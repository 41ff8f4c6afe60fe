#!/bin/sh
# transformers 5.17.0, peft 0.21.2, torch 2.13.0, Python 3.11, 2026-11-28
#
# Question: an adapter is merged into its base and the model saved into the adapter's own directory, so that config.json and
# model.safetensors stand beside adapter_config.json. What does `AutoModelForCausalLM.from_pretrained` make of it?
# Guess: the merged model. The directory holds a complete one, and no adapter was asked for.
# Seen: the adapter is put on the merged weights once more, where peft is installed, without a word:
#     from the adapter's directory: {'default'} is on it, logits 3.9 from the merged model's
#     from a directory of its own:  no adapter, logits equal
# `config=`, `use_safetensors=` and `adapter_kwargs=` do not keep it from that; only a directory without
# adapter_config.json does.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.17.0 peft==0.21.2
HF_HOME="$folder/home" HF_HUB_OFFLINE=1 "$folder/venv/bin/python" - "$folder" <<'PYTHON'
import sys

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM, Qwen2Config, Qwen2ForCausalLM

torch.manual_seed(0)
sizes = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1}
base = Qwen2ForCausalLM(Qwen2Config(**sizes, num_attention_heads=2, num_key_value_heads=2, initializer_range=0.3))
model = get_peft_model(base, LoraConfig(target_modules="all-linear", init_lora_weights=False))
beside, alone = f"{sys.argv[1]}/adapter", f"{sys.argv[1]}/alone"
model.save_pretrained(beside)
merged = model.merge_and_unload().eval()
for place in (beside, alone):
    merged.save_pretrained(place)


def logits(model):
    with torch.no_grad():
        return model.eval()(torch.arange(16)[None]).logits


expected = logits(merged)
for how in ({}, {"config": AutoConfig.from_pretrained(beside)}, {"use_safetensors": True}, {"adapter_kwargs": {}}):
    found = AutoModelForCausalLM.from_pretrained(beside, **how)
    apart = float((logits(found) - expected).abs().max())
    assert set(found.peft_config) == {"default"} and apart > 1
print(f"from the adapter's directory: {set(found.peft_config)} is on it, logits {apart:.1f} from the merged model's")
found = AutoModelForCausalLM.from_pretrained(alone)
assert not getattr(found, "_hf_peft_config_loaded", False) and torch.equal(logits(found), expected)
print("from a directory of its own:  no adapter, logits equal")
PYTHON
