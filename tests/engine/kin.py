"""Ours and transformers' own, side by side, with the same two adapters."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from torch.nn import Linear
from transformers import AutoModelForCausalLM, PreTrainedConfig

from sparta_lite.engine.bank import Bank
from sparta_lite.engine.base import Base, load_base
from sparta_lite.engine.peft_io import load_bank, read_adapter

from .models import save_model

RANKS = {4: "four", 8: "eight"}


@dataclass(frozen=True)
class Kin:
    """One tiny model: ours with two adapters in a bank, and transformers' own with the same two in PEFT."""

    base: Base
    bank: Bank
    peft: PeftModel

    @contextmanager
    def under(self, adapter: str | None) -> Iterator[Any]:
        """Transformers' model as ``adapter`` has it; None is the bare base."""
        if adapter is None:
            with self.peft.disable_adapter():
                yield self.peft
        else:
            self.peft.set_adapter(adapter)
            yield self.peft

    def logits(self, adapter: str | None, ids: Sequence[int]) -> Tensor:
        """Of one sequence alone, [length, vocabulary]."""
        with self.under(adapter) as model:
            logits: Tensor = model(torch.tensor([ids])).logits[0]
        return logits


def make(settings: PreTrainedConfig, path: Path, tokenizer_from: Path) -> Kin:
    """A model of this configuration and two adapters that PEFT has put on all its linear layers, or, where
    there are experts, which PEFT takes for such, on those whose names have no part in an expert."""
    save_model(settings, path, tokenizer_from)
    model: Any = AutoModelForCausalLM.from_pretrained(path, attn_implementation="eager")
    targets: str | list[str] = "all-linear"
    if any(name.endswith(".experts") for name, _ in model.named_modules()):
        leaves = {name.rpartition(".")[2] for name, each in model.named_modules() if isinstance(each, Linear)}
        targets = sorted(leaves - {"gate_proj", "up_proj", "down_proj", "lm_head"})
    for rank, name in RANKS.items():
        lora = LoraConfig(task_type="CAUSAL_LM", r=rank, lora_alpha=16, target_modules=targets)
        if isinstance(model, PeftModel):
            model.add_adapter(name, lora)
        else:
            model = get_peft_model(model, lora, adapter_name=name)
    with torch.random.fork_rng():
        torch.manual_seed(2)
        for key, parameter in model.named_parameters():
            if "lora_" in key:
                torch.nn.init.normal_(parameter, std=0.1)
    model.eval().save_pretrained(path / "adapters")
    base = load_base(path, torch.device("cpu"))
    files = [read_adapter(name, path / "adapters" / name) for name in RANKS.values()]
    return Kin(base, load_bank(base.decoder, files), model)


Kins = Callable[[str], Kin]
"""The tiny model of a family, or of one of the odd shapes, made when it is first asked for."""
