#!/bin/sh
# peft 0.21.2, transformers 5.17.0, torch 2.13.0, Python 3.11, 2026-11-28
#
# Question: a checkpoint of `Qwen3_5ForConditionalGeneration` loads by that class, or its language model alone by
# AutoModelForCausalLM. Does an adapter that was trained on the one load on the other?
# Guess: yes, as the checkpoint itself does, whose keys transformers renames; or an error.
# Seen: nothing of it is loaded, either way, and the model is given back as if it were adapted:
#     trained on the whole, loaded on the language model: logits moved by 0.0; keys warned of: 30
#     trained on the language model, loaded on the whole: logits moved by 0.0; keys warned of: 30
# There is a warning of missing keys, no error; B is zero where nothing was loaded, so that the adapted model answers
# as the bare base. The one names `language_model.layers`, the other `layers`: rename the keys.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.17.0 peft==0.21.2
HF_HOME="$folder/home" HF_HUB_OFFLINE=1 "$folder/venv/bin/python" - "$folder" <<'PYTHON'
import sys
import warnings

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, Qwen3_5Config, Qwen3_5ForConditionalGeneration

torch.manual_seed(0)
linear = {"linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 16, "linear_value_head_dim": 16}
sizes = {"vocab_size": 96, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 4, "head_dim": 16}
text = {**sizes, **linear, "num_attention_heads": 4, "num_key_value_heads": 2}
vision = {"depth": 1, "hidden_size": 32, "intermediate_size": 32, "num_heads": 2, "out_hidden_size": 64}
special = {f"{each}_token_id": 90 + n for n, each in enumerate(("image", "video", "vision_start", "vision_end"))}
path = f"{sys.argv[1]}/base"
Qwen3_5ForConditionalGeneration(Qwen3_5Config(text_config=text, vision_config=vision, **special)).save_pretrained(path)
classes = {"the whole": Qwen3_5ForConditionalGeneration, "the language model": AutoModelForCausalLM}
for number, cls in enumerate(classes.values()):
    lora = LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["gate_proj", "up_proj", "down_proj", "out_proj"])
    model = get_peft_model(cls.from_pretrained(path), lora)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter)
    model.save_pretrained(f"{sys.argv[1]}/{number}")
ids = torch.arange(20)[None]
for number, (trained, loaded) in enumerate((list(classes), list(classes)[::-1])):
    base = classes[loaded].from_pretrained(path).eval()
    with torch.no_grad(), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        before = base(input_ids=ids).logits
        adapted = PeftModel.from_pretrained(base, f"{sys.argv[1]}/{number}").eval()
        moved = float((adapted(input_ids=ids).logits - before).abs().max())
    told = [str(each.message) for each in caught if "missing adapter keys" in str(each.message)]
    keys = sum(each.count("lora_") for each in told)
    print(f"trained on {trained}, loaded on {loaded}: logits moved by {moved}; keys warned of: {keys}")
    assert moved == 0
    assert told
PYTHON
