"""A base in 4 bits held as what these stand for: its matrices unpacked once, not in every pass.

Layers in NF4 unpack a matrix whenever many tokens are multiplied with it, to the very values that are made
here. From then on they are ordinary linear layers, over the values of 4 bits.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

_MARKS = ("hf_quantizer", "quantization_method", "is_quantized", "is_loaded_in_4bit", "quantization_config")
"""By which PEFT and trainers tell a model in 4 bits; ``dequantize`` of transformers leaves one of them."""


@torch.no_grad()
def unpack_matrices(model: Any, dtype: torch.dtype) -> None:
    """Put an ordinary linear layer in place of each of bitsandbytes' 4-bit layers.

    One at a time, so that no matrix but the one at hand is held twice. ``dequantize`` of transformers does
    not do: it goes on calling the model one in 4 bits, and serves none that another loader has made.

    Args:
        model: in which every 4-bit layer is frozen.
        dtype: of the new weights; a 4-bit layer that computes in it rounds to it in every pass.
    """
    from bitsandbytes.functional import dequantize_4bit
    from bitsandbytes.nn import Linear4bit

    packed = [name for name, module in model.named_modules() if isinstance(module, Linear4bit)]
    for name in packed:
        module = model.get_submodule(name)
        with torch.device("meta"):
            plain = nn.Linear(module.in_features, module.out_features, bias=False)
        values = dequantize_4bit(module.weight.data, module.weight.quant_state).to(dtype)
        plain.weight = nn.Parameter(values, requires_grad=False)
        plain.bias = module.bias
        model.set_submodule(name, plain)
    for holder in (vars(model), vars(model.config)):
        for name in _MARKS:
            holder.pop(name, None)
