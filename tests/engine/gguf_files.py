"""Models of transformers written as GGUF files, as llama.cpp's converter lays them out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from gguf import (
    MODEL_ARCH,
    MODEL_ARCH_NAMES,
    GGMLQuantizationType,
    GGUFWriter,
    RopeScalingType,
    TokenType,
    get_tensor_name_map,
    quants,
)
from tokenizers import pre_tokenizers
from transformers import AutoModelForCausalLM

from tests.conftest import CHAT

ARCHITECTURES = {"llama": MODEL_ARCH.LLAMA, "qwen2": MODEL_ARCH.QWEN2, "qwen3": MODEL_ARCH.QWEN3}
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
FIELDS: dict[str, int | str | None] = {
    "pre": "qwen2",
    "bos_token_id": 0,
    "eos_token_id": 2,
    "padding_token_id": 0,
    "types": 1,
}
"""What a file says of its tokenizer; ``types``: whether it says which tokens are special."""
MERGES = ["Ġ t", "h e", "Ġt he"]


def write_gguf(
    model_path: Path,
    out: Path,
    *,
    quantized: GGMLQuantizationType = GGMLQuantizationType.F32,
    template: str | None = CHAT,
    rope: dict[str, Any] | None = None,
    divisors: np.ndarray | None = None,
    without: str = "",
    **fields: int | str | None,
) -> Path:
    """The model in ``model_path`` as a GGUF file whose end of turn is ``<|im_end|>``.

    Args:
        model_path: of an architecture in ``ARCHITECTURES``, with 320 embeddings.
        out: the file.
        quantized: the form of its matrices.
        template: its chat template; None: it has none.
        rope: ``type``, ``factor`` and ``length`` of scaled rotary positions.
        divisors: float32 [head_dim / 2], llama.cpp's ``rope_freqs``.
        without: the name of a tensor that is left out.
        fields: of the tokenizer, where they are to be others; None: the file has none.
    """
    model = AutoModelForCausalLM.from_pretrained(model_path)
    config = model.config
    architecture = ARCHITECTURES[config.model_type]
    writer = GGUFWriter(out, MODEL_ARCH_NAMES[architecture])
    writer.add_name("tiny")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    if getattr(config, "head_dim", None):
        writer.add_key_length(config.head_dim)
    if config.model_type == "llama":
        writer.add_rope_dimension_count(config.head_dim)
    if rope:
        writer.add_rope_scaling_type(RopeScalingType(rope["type"]))
        writer.add_rope_scaling_factor(rope["factor"])
        writer.add_rope_scaling_orig_ctx_len(rope["length"])
    _add_tokenizer(writer, config.vocab_size, template, FIELDS | fields)
    names = get_tensor_name_map(architecture, config.num_hidden_layers)
    for name, tensor in model.state_dict().items():
        stem, _, suffix = name.rpartition(".")
        if stem == "lm_head" and config.tie_word_embeddings:
            continue
        data = tensor.float().numpy()
        if config.model_type == "llama" and stem.endswith(("q_proj", "k_proj")):
            queries = stem.endswith("q_proj")
            data = _interleave(data, config.num_attention_heads if queries else config.num_key_value_heads)
        target = f"{names.get_name(stem)}.{suffix}"
        if target == without:
            continue
        if data.ndim == 2 and quantized is not GGMLQuantizationType.F32:
            writer.add_tensor(target, quants.quantize(data, quantized), raw_dtype=quantized)
        else:
            writer.add_tensor(target, data)
    if divisors is not None:
        writer.add_tensor("rope_freqs.weight", divisors.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return out


def _add_tokenizer(
    writer: GGUFWriter, size: int, template: str | None, fields: dict[str, int | str | None]
) -> None:
    tokens = sorted(pre_tokenizers.ByteLevel.alphabet()) + [merge.replace(" ", "") for merge in MERGES]
    unused = [f"[PAD{number}]" for number in range(size - len(tokens) - len(SPECIAL))]
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([*SPECIAL, *tokens, *unused])
    if fields.pop("types"):
        writer.add_token_types(
            [TokenType.CONTROL] * 3 + [TokenType.NORMAL] * len(tokens) + [TokenType.UNUSED] * len(unused)
        )
    writer.add_token_merges(MERGES)
    for name, value in fields.items():
        if isinstance(value, str):
            writer.add_string(f"tokenizer.ggml.{name}", value)
        elif value is not None:
            writer.add_uint32(f"tokenizer.ggml.{name}", value)
    if template is not None:
        writer.add_chat_template(template)


def _interleave(weight: np.ndarray, heads: int) -> np.ndarray:
    """Rows in the order in which llama.cpp's llama rotates them: [heads * head_dim, in]."""
    rows = weight.reshape(heads, 2, -1, weight.shape[-1]).swapaxes(1, 2)
    return np.ascontiguousarray(rows.reshape(weight.shape))
