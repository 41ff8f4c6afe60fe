#!/bin/sh
# transformers 5.17.0, torch 2.13.0, Python 3.11, 2026-11-28
#
# Question: a Qwen3.5 reads a prompt that is padded on the right, with its attention mask, and the cache is kept. Is
# the cache that of the prompt alone?
# Guess: yes as far as the prompt reaches: the logits of its tokens are right, and the mask says what is padding.
# Seen: the logits are right and the recurrent state is not. It has gone on decaying over the padding:
#     logits of the prompt's last token, apart: 7e-08
#     recurrent state, of the norm that it should have: 0.00 apart: 1.00
#     convolution's state: zeros: True
# The mask sets hidden states to zero, and a token of zeros still decays by softplus(dt_bias). Nothing warns. So a batch that
# is prefilled with right padding and continued row by row goes on from states of nothing; padding on the left is exact.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.17.0
HF_HOME="$folder/home" HF_HUB_OFFLINE=1 "$folder/venv/bin/python" - <<'PYTHON'
import torch
from transformers import Qwen3_5ForCausalLM, Qwen3_5TextConfig

torch.manual_seed(0)
linear = {"linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 16, "linear_value_head_dim": 16}
sizes = {"vocab_size": 96, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 4, "head_dim": 16}
config = Qwen3_5TextConfig(**sizes, **linear, num_attention_heads=4, num_key_value_heads=2)
model = Qwen3_5ForCausalLM(config).eval()
prompt, padding = torch.randint(1, 96, (1, 12)), torch.zeros(1, 30, dtype=torch.int64)
padded = torch.cat([prompt, padding], 1)
mask = (torch.arange(42) < 12).long()[None]
with torch.no_grad():
    alone = model(prompt, use_cache=True)
    right = model(padded, attention_mask=mask, use_cache=True)
    left = model(padded.roll(30, 1), attention_mask=mask.roll(30, 1), use_cache=True)


def states(output):
    first = output.past_key_values.layers[0]
    return first.recurrent_states[0], first.conv_states[0]


apart = float((right.logits[:, 11] - alone.logits[:, 11]).abs().max())
state, expected = states(right)[0], states(alone)[0]
norm, far = float(state.norm() / expected.norm()), float((state - expected).norm() / expected.norm())
zeros = not states(right)[1].any()
print(f"logits of the prompt's last token, apart: {apart:.0e}")
print(f"recurrent state, of the norm that it should have: {norm:.2f} apart: {far:.2f}")
print(f"convolution's state: zeros: {zeros}")
assert apart < 1e-5
assert far > 0.9
assert zeros
assert torch.allclose(states(left)[0], expected, atol=1e-5)
PYTHON
