#!/bin/sh
# peft 0.21.2, transformers 5.17.0, torch 2.13.0, Python 3.11, 2026-11-28
#
# Question: two keys of a LoRA adapter's `alpha_pattern` match the same module. Does the module scale the same after
# `save_pretrained` and `from_pretrained`?
# Guess: yes; the mapping is saved and read as it is, and the same key wins.
# Seen: no. The first key that matches wins, and saving sorts the keys:
#     trained with: ['q_proj', 'layers.0.self_attn.q_proj'], scaling 0.5
#     read again:   ['layers.0.self_attn.q_proj', 'q_proj'], scaling 2.0
#     logits apart: 4.52
# Nothing warns. So a general key before a special one means something else in the file than in the model that
# was saved, and whoever reads the file has to go by its order.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.17.0 peft==0.21.2
HF_HOME="$folder/home" HF_HUB_OFFLINE=1 "$folder/venv/bin/python" - "$folder" <<'PYTHON'
import sys

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import Qwen2Config, Qwen2ForCausalLM

torch.manual_seed(0)
sizes = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1}
base = Qwen2ForCausalLM(Qwen2Config(**sizes, num_attention_heads=2, num_key_value_heads=2, initializer_range=0.3))
base.save_pretrained(f"{sys.argv[1]}/base")


def described(model):
    module = model.base_model.model.model.layers[0].self_attn.q_proj
    with torch.no_grad():
        logits = model.eval()(torch.arange(16)[None]).logits
    return list(model.peft_config["default"].alpha_pattern), module.scaling["default"], logits


alphas = {"q_proj": 2, "layers.0.self_attn.q_proj": 8}
config = LoraConfig(r=4, target_modules=["q_proj"], alpha_pattern=alphas, init_lora_weights=False)
trained = get_peft_model(base, config)
trained.save_pretrained(f"{sys.argv[1]}/adapter")
keys, scaling, logits = described(trained)
again = Qwen2ForCausalLM.from_pretrained(f"{sys.argv[1]}/base")
keys_read, scaling_read, logits_read = described(PeftModel.from_pretrained(again, f"{sys.argv[1]}/adapter"))
apart = float((logits - logits_read).abs().max())
print(f"trained with: {keys}, scaling {scaling}\nread again:   {keys_read}, scaling {scaling_read}\nlogits apart: {apart:.2f}")
assert keys == list(alphas) and keys_read == sorted(alphas)
assert (scaling, scaling_read) == (0.5, 2.0)
assert apart > 1
PYTHON
