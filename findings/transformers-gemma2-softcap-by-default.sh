#!/bin/sh
# transformers 5.17.0, torch 2.13.0, Python 3.11, 2026-11-28
#
# Question: Gemma 2's configuration caps the scores of its attention (`attn_logit_softcapping`, 50 in every published
# checkpoint). Does the model that `from_pretrained` gives without further arguments cap them?
# Guess: yes, or it takes an attention that can (as gpt-oss, whose sinks torch's attention has not, takes `eager`), or it warns.
# Seen: no. It takes `sdpa`, where the argument is passed along and dropped; nothing warns. The same weights, all of whose
# scores are far below the cap in one model and around it in the other:
#     attention by default: sdpa; gpt-oss: eager
#     cap 50: logits of sdpa and eager apart by 0.0003
#     cap 2: logits of sdpa and eager apart by 0.17
#     sdpa with a cap of 2 equals eager without a cap: True
# So figures of a Gemma 2 in transformers depend on an argument that nobody gave: compare with `attn_implementation="eager"`.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.17.0
HF_HOME="$folder/home" HF_HUB_OFFLINE=1 "$folder/venv/bin/python" - "$folder" <<'PYTHON'
import logging
import sys
import warnings

import torch
from transformers import AutoModelForCausalLM, Gemma2Config, GptOssConfig
from transformers.utils import logging as notes

folder = sys.argv[1]
sizes = {
    "vocab_size": 320,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "initializer_range": 0.2,
    "pad_token_id": 0,
}
ids = torch.arange(5, 25)[None]
said = []


class Keep(logging.Handler):
    def emit(self, record):
        said.append(record.getMessage())


notes.get_logger("transformers").addHandler(Keep())


def logits(cap, attention):
    torch.manual_seed(0)
    place = f"{folder}/{cap}"
    AutoModelForCausalLM.from_config(Gemma2Config(**sizes, attn_logit_softcapping=cap)).save_pretrained(place)
    said.clear()
    with warnings.catch_warnings(record=True) as heard, torch.no_grad():
        warnings.simplefilter("always")
        chosen = {} if attention is None else {"attn_implementation": attention}
        model = AutoModelForCausalLM.from_pretrained(place, **chosen)
        found = model(ids).logits
    told = [text for text in [*said, *(str(each.message) for each in heard)] if "cap" in text.lower()]
    assert not told, told
    return model.config._attn_implementation, found


sinks = AutoModelForCausalLM.from_config(GptOssConfig(**sizes, num_local_experts=4, num_experts_per_tok=2))
(name, plain), (_, free) = logits(None, None), logits(None, "eager")
print(f"attention by default: {name}; gpt-oss: {sinks.config._attn_implementation}")
assert (name, sinks.config._attn_implementation) == ("sdpa", "eager")
for cap, least in ((50.0, 1e-4), (2.0, 0.1)):
    found, expected = logits(cap, None)[1], logits(cap, "eager")[1]
    apart = float((found - expected).abs().max())
    print(f"cap {cap:g}: logits of sdpa and eager apart by {apart:.2g}")
    assert apart > least
    same = torch.allclose(found, free, atol=1e-5)
    assert same
print(f"sdpa with a cap of 2 equals eager without a cap: {same}")
assert torch.allclose(plain, free, atol=1e-5)
PYTHON
