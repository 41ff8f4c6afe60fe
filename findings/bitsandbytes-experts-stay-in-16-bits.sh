#!/bin/sh
# bitsandbytes 0.50.2, transformers 5.17.0, accelerate 1.15.0, torch 2.13.0, Python 3.11, 2026-11-28
#
# Question: how much of a mixture of experts does `BitsAndBytesConfig(load_in_4bit=True)` hold in 4 bits?
# Guess: all linear layers but the head, as ever: the experts above all, which are most of the model.
# Seen: attention alone. transformers 5 stacks the experts into parameters that are no linear layers, and bitsandbytes' integration
# replaces linear layers. Nothing warns:
#     qwen3_moe: experts bfloat16, attention uint8; 99 % of the bytes that bf16 takes
#     gpt_oss:   experts bfloat16, attention uint8; 99 % ...
#     mixtral:   experts bfloat16, attention uint8; 99 % ...
# (of weights in proportions of Qwen3-30B-A3B: experts 95 % and more of the layers). A card of 24 GB, enough for 30 billion parameters
# in 4 bits, is far from enough for what is loaded.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.17.0 accelerate==1.15.0 bitsandbytes==0.50.2
HF_HOME="$folder/home" HF_HUB_OFFLINE=1 "$folder/venv/bin/python" - "$folder" <<'PYTHON'
import sys
import warnings

import torch
from transformers import (
    AutoModelForCausalLM,
    BitsAndBytesConfig,
    GptOssConfig,
    MixtralConfig,
    Qwen3MoeConfig,
)

sizes = {
    "vocab_size": 320,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "num_experts_per_tok": 2,
    "pad_token_id": 0,
}
models = {
    "qwen3_moe": Qwen3MoeConfig(**sizes, num_experts=64, moe_intermediate_size=64),
    "gpt_oss": GptOssConfig(**sizes, num_local_experts=64, intermediate_size=64),
    "mixtral": MixtralConfig(**sizes, num_local_experts=64, intermediate_size=64),
}
four_bit = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16)
for name, config in models.items():
    place = f"{sys.argv[1]}/{name}"
    AutoModelForCausalLM.from_config(config).save_pretrained(place)
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        asked = {"dtype": torch.bfloat16, "device_map": {"": "cpu"}}
        plain = AutoModelForCausalLM.from_pretrained(place, **asked)
        packed = AutoModelForCausalLM.from_pretrained(place, quantization_config=four_bit, **asked)
    assert not [each for each in heard if "expert" in str(each.message).lower()]
    layer = packed.model.layers[1]
    experts = {each.dtype for key, each in layer.mlp.experts.named_parameters() if not key.endswith("bias")}
    attention = layer.self_attn.q_proj.weight.dtype
    whole, left = (sum(each.nbytes for each in model.parameters()) for model in (plain, packed))
    kinds = [str(each).removeprefix("torch.") for each in (*experts, attention)]
    print(f"{name}: experts {kinds[0]}, attention {kinds[1]}; {100 * left / whole:.0f} % of the bytes that bf16 takes")
    assert kinds == ["bfloat16", "uint8"]
    assert left > 0.9 * whole
PYTHON
