"""A hybrid base in 4 bits: what is packed, what is left alone, and the numbers of the unpacked matrices."""

from __future__ import annotations

from pathlib import Path

import torch
from bitsandbytes.functional import dequantize_4bit
from bitsandbytes.nn import Linear4bit
from transformers import AutoModelForCausalLM

from sparta_lite.engine.base import load_base
from sparta_lite.engine.peft_io import load_bank, new_adapter
from sparta_lite.engine.sequences import WholeSequences
from sparta_lite.engine.shape import UNPACKED, read_shape, weight_bytes

from .families import family
from .models import save_model


def test_four_bits_leave_the_small_matrices_alone(base_path: Path, tmp_path: Path) -> None:
    kinds = ["linear_attention", "full_attention"]
    widths = {"hidden_size": 64, "intermediate_size": 128, "initializer_range": 0.1}
    config = family("qwen3_5_text", num_hidden_layers=2, layer_types=kinds, **widths)
    path = save_model(config, tmp_path, base_path)
    base = load_base(path, torch.device("cpu"), quantization="nf4")
    linears = {
        name: module
        for name, module in base.model.model.named_modules()
        if isinstance(module, torch.nn.Linear)
    }
    packed = {name.rpartition(".")[2] for name, each in linears.items() if isinstance(each, Linear4bit)}
    plain = {name.rpartition(".")[2] for name, each in linears.items() if not isinstance(each, Linear4bit)}
    assert packed >= {"in_proj_qkv", "in_proj_z", "out_proj", "q_proj", "down_proj"}
    assert plain == {"in_proj_a", "in_proj_b"} <= set(UNPACKED)
    shape = read_shape(path)
    assert {each.name.rpartition(".")[2] for each in shape.linears if not each.packs} == plain
    state = sum(each.inputs * each.outputs * 4 for each in shape.linears if not each.packs)
    assert weight_bytes(shape, True, 4) > state + shape.others * 4

    reference = AutoModelForCausalLM.from_pretrained(path).eval()
    with torch.no_grad():
        for name, each in linears.items():
            if isinstance(each, Linear4bit):
                weight = dequantize_4bit(each.weight.data, each.weight.quant_state)
                reference.model.get_submodule(name).weight.copy_(weight)
        bank = load_bank(base.decoder, [new_adapter("new", base.decoder, 2, 4.0, 0, str(path))])
        ids = torch.arange(80)[None]
        mixing = WholeSequences(base.decoder.mixers)
        hidden = base.decoder.hidden(ids, ids, mixing, bank.lora(["new"]))
        torch.testing.assert_close(base.decoder.logits(hidden), reference(ids).logits, rtol=1e-3, atol=1e-3)
