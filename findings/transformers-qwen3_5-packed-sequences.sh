#!/bin/sh
# transformers 5.17.0, torch 2.13.0 without flash-linear-attention, Python 3.11, 2026-11-28
#
# Question: two sequences stand in one row, with position ids that start again, and with `cu_seq_lens_q` and `_k`, as
# transformers' padding-free collator gives them. Does each give its own logits, as it does in a Qwen3?
# Guess: yes, or an error: the model takes the arguments.
# Seen: a Qwen3 keeps them apart, a Qwen3.5 does not, without a word:
#     qwen3:   the second sequence apart by 0.0000
#     qwen3_5: the second sequence apart by 0.0585
# Without flash-linear-attention the fallbacks take `cu_seqlens` among their further arguments and do not look at it: state and
# convolution run over the border. So packed training of such a model learns from its neighbours' texts.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.17.0
HF_HOME="$folder/home" HF_HUB_OFFLINE=1 "$folder/venv/bin/python" - <<'PYTHON'
import torch
from transformers import AutoModelForCausalLM, Qwen3_5TextConfig, Qwen3Config

linear = {"linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 16, "linear_value_head_dim": 16}
sizes = {"vocab_size": 96, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 4, "head_dim": 16}
heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
configs = {
    "qwen3": Qwen3Config(**sizes, **heads),
    "qwen3_5": Qwen3_5TextConfig(**sizes, **heads, **linear),
}
apart = {}
for name, config in configs.items():
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    one, two = torch.randint(96, (1, 9)), torch.randint(96, (1, 14))
    borders = torch.tensor([0, 9, 23], dtype=torch.int32)
    with torch.no_grad():
        packed = model(
            torch.cat([one, two], 1),
            position_ids=torch.cat([torch.arange(9), torch.arange(14)])[None],
            cu_seq_lens_q=borders,
            cu_seq_lens_k=borders,
            max_length_q=14,
            max_length_k=14,
            use_cache=False,
        ).logits[:, 9:]
        apart[name] = float((packed - model(two).logits).abs().max())
    print(f"{name + ':':8} the second sequence apart by {apart[name]:.4f}")
assert apart["qwen3"] < 1e-4
assert apart["qwen3_5"] > 1e-2
PYTHON
