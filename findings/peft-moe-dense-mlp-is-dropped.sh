#!/bin/sh
# peft 0.21.2, transformers 5.17.0, torch 2.13.0, Python 3.11, 2026-11-28
#
# Question: a mixture of experts has dense MLPs in some layers (Qwen3-MoE's `mlp_only_layers`, here layer 0). A LoRA on
# attention and on that dense MLP alone, named by its full path in `target_modules`, is read with `from_pretrained`.
# Does the model compute what its file says?
# Guess: yes; the names are those of existing linear layers, and no expert is named.
# Seen: no. Where a model has experts PEFT turns `gate_proj`, `up_proj` and `down_proj` at the end of any name into the experts'
# stacked parameters. The dense MLP's weights in the file are passed over, and new ones appear on every expert:
#     target_modules of the file: q_proj, layers.0.mlp.gate_proj, layers.0.mlp.up_proj, layers.0.mlp.down_proj
#     ... of the model:           q_proj; target_parameters: down_proj, gate_up_proj
#     apart from what the file says: 0.71; from the same without its MLP: 0.0
#     the same file with target_parameters gate_proj.weight, ...: apart by 0.0
# The warning that comes tells of missing keys of the experts, not of the ones that were passed over.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.17.0 peft==0.21.2
HF_HOME="$folder/home" HF_HUB_OFFLINE=1 "$folder/venv/bin/python" - "$folder" <<'PYTHON'
import json
import sys
import warnings

import torch
from peft import PeftModel
from safetensors.torch import save_file
from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

warnings.simplefilter("ignore")
folder = sys.argv[1]
ids = torch.arange(20)[None]
MLP = {"gate_proj": (32, 48), "up_proj": (32, 48), "down_proj": (48, 32)}


def model():
    torch.manual_seed(0)
    config = Qwen3MoeConfig(
        vocab_size=320,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        num_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=16,
        mlp_only_layers=[0],
    )
    return Qwen3MoeForCausalLM(config).eval()


def logits(made):
    with torch.no_grad():
        return made(ids).logits


torch.manual_seed(1)
shapes = {f"layers.{number}.self_attn.q_proj": (32, 64) for number in range(2)}
shapes |= {f"layers.0.mlp.{name}": shape for name, shape in MLP.items()}
updates = {name: (torch.randn(4, into), torch.randn(out, 4)) for name, (into, out) in shapes.items()}
tensors = {}
for name, sides in updates.items():
    for side, tensor in zip("AB", sides):
        tensors[f"base_model.model.model.{name}.lora_{side}.weight"] = tensor
save_file(tensors, f"{folder}/adapter_model.safetensors", metadata={"format": "pt"})


def by_hand(wanted):
    made = model()
    with torch.no_grad():
        for name, (a, b) in updates.items():
            if wanted(name):
                made.get_submodule(f"model.{name}").weight += 16 / 4 * b @ a
    return logits(made)


def by_peft(**targets):
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 4, "lora_alpha": 16, **targets}
    with open(f"{folder}/adapter_config.json", "w") as file:
        json.dump(config, file)
    return PeftModel.from_pretrained(model(), folder).eval()


named = ["q_proj", *(f"layers.0.mlp.{name}" for name in MLP)]
read = by_peft(target_modules=named)
kept = read.peft_config["default"]
whole, attention = by_hand(lambda name: True), by_hand(lambda name: "mlp" not in name)
apart, near = (float((logits(read) - each).abs().max()) for each in (whole, attention))
print(f"target_modules of the file: {', '.join(named)}")
modules, parameters = sorted(kept.target_modules), sorted(kept.target_parameters)
print(f"... of the model:           {', '.join(modules)}; target_parameters: {', '.join(parameters)}")
print(f"apart from what the file says: {apart:.2f}; from the same without its MLP: {near:.1f}")
assert (modules, parameters) == (["q_proj"], ["down_proj", "gate_up_proj"])
assert apart > 0.1 and near < 1e-4
other = by_peft(target_modules=["q_proj"], target_parameters=[f"{name}.weight" for name in MLP])
apart = float((logits(other) - whole).abs().max())
print(f"the same file with target_parameters gate_proj.weight, ...: apart by {apart:.1f}")
assert apart < 1e-4
PYTHON
