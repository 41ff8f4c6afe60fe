#!/bin/sh
# transformers 5.17.0, torch 2.13.0 without flash-linear-attention, Python 3.11, 2026-11-28
#
# Question: the gated delta rule of Qwen3.5 casts its inputs to float32 first, in both of its forms. Is its state as
# exact under `torch.autocast("cpu", torch.bfloat16)`, as a trainer with `bf16=True` runs it?
# Guess: yes, that is what the casts are for; tensors in, tensors out in float32.
# Seen: of the form for one token, not of the one for several, whose products autocast takes in bf16 all the same:
#     several tokens:                  state off by 3e-07
#     several tokens, under autocast:  state off by 4e-03
#     token by token, under autocast:  state off by 0e+00
# The results are float32 nevertheless, and nothing warns. So under autocast the two forms differ by ten thousand times what they
# differ by otherwise: what was generated and what is trained on it are not the same model. A guard is autocast(enabled=False).
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.17.0
HF_HOME="$folder/home" HF_HUB_OFFLINE=1 "$folder/venv/bin/python" - <<'PYTHON'
from contextlib import nullcontext

import torch
from transformers.models.qwen3_5 import modeling_qwen3_5 as qwen

dice = torch.Generator().manual_seed(0)
q, k, v = (torch.randn(1, 512, 2, 64, generator=dice) for _ in range(3))
decay, beta = -0.02 * torch.rand(1, 512, 2, generator=dice), torch.rand(1, 512, 2, generator=dice)


def state(rule, autocast):
    with torch.autocast("cpu", torch.bfloat16) if autocast else nullcontext():
        _, found = rule(q, k, v, g=decay, beta=beta, output_final_state=True, use_qk_l2norm_in_kernel=True)
    assert found.dtype == torch.float32
    return found


several, single = qwen.torch_chunk_gated_delta_rule, qwen.torch_recurrent_gated_delta_rule
exact = state(single, False)
off = [
    float((state(rule, autocast) - exact).norm() / exact.norm())
    for rule, autocast in ((several, False), (several, True), (single, True))
]
print(f"several tokens:                  state off by {off[0]:.0e}")
print(f"several tokens, under autocast:  state off by {off[1]:.0e}")
print(f"token by token, under autocast:  state off by {off[2]:.0e}")
assert off[0] < 1e-5
assert off[1] > 1e-3
assert off[2] < 1e-5
PYTHON
