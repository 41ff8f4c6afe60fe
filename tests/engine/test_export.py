"""Adapters merged and in llama.cpp's form, with PEFT, gguf's reader and the rotation itself as references."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from gguf import GGUFReader
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    MistralConfig,
    PhiConfig,
    PreTrainedConfig,
    Qwen3Config,
)
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from sparta_lite.engine.gguf_lora import write_gguf_lora
from sparta_lite.engine.merging import merge_adapter
from sparta_lite.errors import SpartaError

from .models import SIZES, save_model

IDS = torch.tensor([[72, 101, 108, 108, 111, 10, 33]])
GGUF = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
"""The two projects' names for the same layers."""


def random_adapter(base: Path, path: Path, **settings: Any) -> Path:
    config = LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=6, target_modules="all-linear", **settings)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.1
    model.save_pretrained(path)
    return path


def deltas(base: Path, adapter: Path) -> dict[str, Tensor]:
    """What PEFT's merge adds to every weight."""
    before = AutoModelForCausalLM.from_pretrained(base).state_dict()
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter)
    merged = model.merge_and_unload().state_dict()
    changes = {name: merged[name] - before[name] for name in before}
    return {
        name.removeprefix("model.").removesuffix(".weight"): change
        for name, change in changes.items()
        if change.any()
    }


def read_gguf(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Fields, and what llama.cpp adds to every weight: alpha / rank * B A."""
    reader = GGUFReader(path)
    fields = {name: field.contents() for name, field in reader.fields.items() if "." in name}
    tensors = {tensor.name: torch.tensor(tensor.data) for tensor in reader.tensors}
    products = {}
    for name in {name.rpartition(".")[0] for name in tensors}:
        a, b = tensors[f"{name}.lora_a"], tensors[f"{name}.lora_b"]
        products[name] = fields["adapter.lora.alpha"] / b.shape[1] * b @ a
    return fields, products


@pytest.mark.parametrize("name", ["ada", "ben", "cyd"])
def test_a_gguf_adapter_of_qwen2_adds_what_peft_adds(
    base_path: Path, adapter_paths: dict[str, Path], tmp_path: Path, name: str
) -> None:
    write_gguf_lora(str(base_path), name, adapter_paths[name], tmp_path / "a.gguf")
    fields, products = read_gguf(tmp_path / "a.gguf")
    assert fields["general.architecture"] == "qwen2"
    assert (fields["general.type"], fields["adapter.type"]) == ("adapter", "lora")
    expected = {}
    for module, change in deltas(base_path, adapter_paths[name]).items():
        _, layer, inner = module.split(".", 2)
        expected[f"blk.{layer}.{GGUF[inner]}.weight"] = change
    assert products.keys() == expected.keys()
    for key, change in expected.items():
        torch.testing.assert_close(products[key], change, rtol=0, atol=1e-6)


def rotate_neighbours(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions as llama.cpp's llama architecture has them. x: [heads, length, head_dim]."""
    even, odd = x[..., 0::2], x[..., 1::2]
    half = x.shape[-1] // 2
    cos, sin = cos[..., :half], sin[..., :half]
    return torch.stack((even * cos - odd * sin, odd * cos + even * sin), dim=-1).flatten(-2)


LLAMAS: dict[str, PreTrainedConfig] = {
    "llama": LlamaConfig(**SIZES, head_dim=8),
    "mistral": MistralConfig(**SIZES, head_dim=8, sliding_window=None),
}


@pytest.mark.parametrize("kind", LLAMAS)
def test_queries_and_keys_of_llamas_attend_alike_under_llama_cpps_rotation(
    base_path: Path, tmp_path: Path, kind: str
) -> None:
    config = LLAMAS[kind]
    base = save_model(config, tmp_path / "base", base_path)
    adapter = random_adapter(base, tmp_path / "adapter")
    write_gguf_lora(str(base), "ada", adapter, tmp_path / "a.gguf")
    fields, products = read_gguf(tmp_path / "a.gguf")
    assert fields["general.architecture"] == "llama"
    changes = deltas(base, adapter)
    for module in ("self_attn.v_proj", "self_attn.o_proj", "mlp.down_proj"):
        key = f"blk.1.{GGUF[module]}.weight"
        torch.testing.assert_close(products[key], changes[f"layers.1.{module}"], rtol=0, atol=1e-6)

    x, length = torch.randn(5, 32, generator=torch.Generator().manual_seed(1)), 5
    rotary = AutoModelForCausalLM.from_config(config).model.rotary_emb
    cos, sin = rotary(x[None], torch.arange(length)[None])
    ours = {}
    for side, name in (("q", "attn_q"), ("k", "attn_k")):
        flat = x @ products[f"blk.0.{name}.weight"].T
        ours[side] = rotate_neighbours(flat.unflatten(-1, (-1, 8)).transpose(0, 1), cos[0], sin[0])
    q, k = (
        (x @ changes[f"layers.0.self_attn.{side}_proj"].T).unflatten(-1, (-1, 8)).transpose(0, 1)[None]
        for side in "qk"
    )
    q, k = apply_rotary_pos_emb(q, k, cos, sin)
    reference = q[0] @ k[0].repeat_interleave(2, dim=0).mT
    torch.testing.assert_close(
        ours["q"] @ ours["k"].repeat_interleave(2, dim=0).mT, reference, rtol=1e-4, atol=1e-5
    )


def test_qwen3_and_rank_stabilised_scaling_have_their_form(base_path: Path, tmp_path: Path) -> None:
    base = save_model(Qwen3Config(**SIZES, head_dim=8), tmp_path / "base", base_path)
    adapter = random_adapter(base, tmp_path / "adapter", use_rslora=True)
    write_gguf_lora(str(base), "ada", adapter, tmp_path / "a.gguf")
    fields, products = read_gguf(tmp_path / "a.gguf")
    assert fields["general.architecture"] == "qwen3"
    change = deltas(base, adapter)["layers.0.self_attn.k_proj"]
    torch.testing.assert_close(products["blk.0.attn_k.weight"], change, rtol=0, atol=1e-6)


def test_an_architecture_without_a_known_form_is_refused(base_path: Path, tmp_path: Path) -> None:
    base = save_model(PhiConfig(**SIZES), tmp_path / "base", base_path)
    adapter = random_adapter(base, tmp_path / "adapter")
    with pytest.raises(SpartaError, match="no GGUF form is known for 'phi', only for qwen2, qwen3, llama"):
        write_gguf_lora(str(base), "ada", adapter, tmp_path / "a.gguf")


@pytest.mark.parametrize(
    ("name", "dtype"), [("ada", torch.float32), ("ada", torch.bfloat16), ("cyd", torch.float32)], ids=str
)
def test_a_merged_model_speaks_as_peft_does_in_the_stored_dtype(
    base_path: Path, adapter_paths: dict[str, Path], tmp_path: Path, name: str, dtype: torch.dtype
) -> None:
    base = tmp_path / "base"
    shutil.copytree(base_path, base)
    AutoModelForCausalLM.from_pretrained(base_path, dtype=dtype).save_pretrained(base)
    merge_adapter(str(base), adapter_paths[name], tmp_path / "merged")
    assert not list((tmp_path / "merged").glob("adapter*"))
    stored = load_file(tmp_path / "merged" / "model.safetensors")
    assert {weight.dtype for weight in stored.values()} == {dtype}
    with torch.no_grad():
        merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32)(IDS).logits
        model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        bare = model(IDS).logits
        expected = PeftModel.from_pretrained(model, adapter_paths[name])(IDS).logits
    # Rounding merged weights to bf16 moves every weight by up to 2**-9 of itself.
    near = 1e-4 if dtype == torch.float32 else 0.1 * float((expected - bare).abs().max())
    assert (merged - expected).abs().max() < near
    assert (merged - bare).abs().max() > 0.5 * (expected - bare).abs().max()
    tokenizers = [AutoTokenizer.from_pretrained(path) for path in (base, tmp_path / "merged")]
    assert tokenizers[0].chat_template == tokenizers[1].chat_template
    assert tokenizers[0]("hi there")["input_ids"] == tokenizers[1]("hi there")["input_ids"]


def test_nothing_is_merged_into_four_bits(
    base_path: Path, adapter_paths: dict[str, Path], tmp_path: Path
) -> None:
    base = tmp_path / "base"
    shutil.copytree(base_path, base)
    config = json.loads((base / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    (base / "config.json").write_text(json.dumps(config))
    with pytest.raises(SpartaError, match=r"stored in 4 bits, and nothing is merged into those; .* --base"):
        merge_adapter(str(base), adapter_paths["ada"], tmp_path / "merged")


def test_an_adapter_of_another_base_is_not_merged(
    base_path: Path, adapter_paths: dict[str, Path], tmp_path: Path
) -> None:
    wide = save_model(LLAMAS["llama"], tmp_path / "wide", base_path)
    with pytest.raises(SpartaError, match="cannot take the adapter"):
        merge_adapter(str(wide), adapter_paths["ada"], tmp_path / "merged")
    shallow = AutoConfig.from_pretrained(base_path, num_hidden_layers=1)
    shallow.layer_types = shallow.layer_types[:1]
    base = save_model(shallow, tmp_path / "shallow", base_path)
    with pytest.raises(SpartaError, match=r"the base has no layers\.1\."):
        merge_adapter(str(base), adapter_paths["ada"], tmp_path / "merged")
    assert not (tmp_path / "merged").exists()
