"""A tribe of random weights, made from a fixed seed: the same base and adapters in our engine and in PEFT."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from sparta_lite.engine.bank import Bank
from sparta_lite.engine.base import Base, load_base
from sparta_lite.engine.peft_io import load_bank, read_adapter

NAMES = [f"adapter-{number}" for number in range(10)]
LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
PAD, END = 257, 256

Shape = dict[str, Any]
TINY: Shape = {
    "vocab_size": 512,
    "hidden_size": 256,
    "intermediate_size": 704,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
HYBRID: Shape = {  # TINY, three layers in four with the gated delta rule, in the proportions of Qwen3.5-9B
    **TINY,
    "head_dim": 64,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 64,
    "linear_value_head_dim": 64,
}
WIDE: Shape = {  # for a GPU; vLLM takes adapters only on more than 32,000 tokens
    "vocab_size": 32768,
    "hidden_size": 1024,
    "intermediate_size": 2816,
    "num_hidden_layers": 16,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
}


@dataclass(frozen=True)
class Tribe:
    """The same base and adapters twice: in our engine and in PEFT."""

    path: Path
    base: Base
    bank: Bank
    peft: Any
    hybrid: bool
    """Whether layers have the gated delta rule, which transformers' continuous batching does not know."""


def make_tribe(path: Path, device: str = "cpu", shape: Shape = TINY) -> Tribe:
    """Ten adapters of rank 8 on all linear layers, random weights, fp32.

    Args:
        path: a folder for it.
        device: where it stays.
        shape: of a Qwen2 or, where it says how long linear heads are, of a Qwen3.5.
    """
    save_tokenizer(path)
    hybrid = "linear_key_head_dim" in shape
    config = (transformers.Qwen3_5TextConfig if hybrid else transformers.Qwen2Config)(
        **shape,
        max_position_embeddings=1024,
        eos_token_id=END,
        pad_token_id=PAD,
        tie_word_embeddings=True,
        initializer_range=0.1,  # wide enough that greedy answers do not run into loops
    )
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(path)
    for name in NAMES:
        settings = LoraConfig(task_type="CAUSAL_LM", r=8, lora_alpha=16, target_modules="all-linear")
        model = get_peft_model(AutoModelForCausalLM.from_pretrained(path), settings)
        for key, parameter in model.named_parameters():
            if "lora_" in key:
                torch.nn.init.normal_(parameter, std=0.05)
        model.save_pretrained(path / name)

    base = load_base(path, torch.device(device))
    bank = load_bank(base.decoder, [read_adapter(name, path / name) for name in NAMES])
    reference = AutoModelForCausalLM.from_pretrained(path)
    peft = PeftModel.from_pretrained(reference, path / NAMES[0], adapter_name=NAMES[0])
    for name in NAMES[1:]:
        peft.load_adapter(path / name, adapter_name=name)
    return Tribe(path, base, bank, peft.to(device).eval(), hybrid)


def save_tokenizer(path: Path) -> None:
    """Bytes as tokens, and the two special tokens that Qwen's answers need."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE(vocab={char: index for index, char in enumerate(alphabet)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )
    tokenizer.chat_template = "{% for m in messages %}{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    tokenizer.save_pretrained(path)
