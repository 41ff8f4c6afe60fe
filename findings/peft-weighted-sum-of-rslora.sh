#!/bin/sh
# peft 0.21.2, transformers 5.17.0, torch 2.13.0, Python 3.11, 2026-11-28
#
# Question: `add_weighted_adapter([one, two], [1, 1], combination_type="cat")` stacks the factors of two LoRA adapters.
# Is what it adds to a weight the sum of what both add, for rank-stabilised adapters (`use_rslora`) as for others?
# Guess: yes; stacking is exact, and the scales of both are taken into the factors.
# Seen: only without `use_rslora`. With it the sum is sqrt(rank of the sum) times too large, 2.83 for 4 + 4:
#     use_rslora=False: sum / (one + two) = 1.000
#     use_rslora=True:  sum / (one + two) = 2.828
# The new adapter has alpha = rank so that its scale be 1, but inherits `use_rslora`, under which that is
# sqrt(rank). The saved file says the same: it is as wrong wherever it is read.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.17.0 peft==0.21.2
HF_HOME="$folder/home" HF_HUB_OFFLINE=1 "$folder/venv/bin/python" <<'PYTHON'
import torch
from peft import LoraConfig, get_peft_model
from transformers import Qwen2Config, Qwen2ForCausalLM

torch.manual_seed(0)
sizes = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1}
ratios = {}
for rslora in (False, True):
    base = Qwen2ForCausalLM(Qwen2Config(**sizes, num_attention_heads=2, num_key_value_heads=2))
    config = LoraConfig(r=4, lora_alpha=4, use_rslora=rslora, target_modules=["q_proj"], init_lora_weights=False)
    model = get_peft_model(base, config, adapter_name="one")
    model.add_adapter("two", config)
    model.add_weighted_adapter(["one", "two"], [1.0, 1.0], "sum", combination_type="cat")
    module = model.base_model.model.model.layers[0].self_attn.q_proj
    one, two, both = (module.get_delta_weight(name).detach() for name in ("one", "two", "sum"))
    ratio = float((both * (one + two)).sum() / (one + two).square().sum())
    assert torch.allclose(both, ratio * (one + two), atol=1e-5)  # right but for its size
    print(f"use_rslora={rslora}: sum / (one + two) = {ratio:.3f}")
    ratios[rslora] = ratio
assert abs(ratios[False] - 1) < 1e-3
assert abs(ratios[True] - 8**0.5) < 1e-3
PYTHON
