"""A PEFT model of one adapter around the resident base, and the way back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sparta_lite.engine.bank import Adapter, Bank
from sparta_lite.engine.peft_io import scaling

if TYPE_CHECKING:
    from transformers import TrainingArguments

Wrap = Callable[[Any, Adapter, bool], Any]
"""(base model, adapter, gradient checkpointing) -> a PEFT model whose adapter is called "default"."""


def wrap_with_peft(model: Any, adapter: Adapter, checkpointing: bool) -> Any:
    """PEFT's own modules in place of the base's linear layers, which they call."""
    from peft import LoraConfig, get_peft_model  # takes seconds, bitsandbytes with it

    config = LoraConfig(task_type="CAUSAL_LM", target_modules=list(adapter.targets), **scaling(adapter))
    return get_peft_model(model, config)


@contextmanager
def adapter_view(
    model: Any, tokenizer: Any, adapter: Adapter, checkpointing: bool, wrap: Wrap
) -> Iterator[Any]:
    """A PEFT model around ``model`` with the shape of ``adapter``; its numbers are not in it yet.

    The base's tensors are shared, never copied or merged. On leaving, base and tokenizer are as they
    were: trainers write into configurations, hang hooks on the embedding and replace ``forward``.
    """
    embedding = model.get_input_embeddings()
    live = [vars(model), vars(model.config), vars(model.generation_config), embedding._forward_hooks]
    before = [dict(each) for each in live]
    padding = tokenizer.pad_token, tokenizer.padding_side
    try:
        view = wrap(model, adapter, checkpointing)
        try:
            yield view
        finally:
            view.unload()
    finally:
        if getattr(model, "is_gradient_checkpointing", False):
            model.gradient_checkpointing_disable()
        for now, then in zip(live, before, strict=True):
            now.clear()
            now.update(then)
        tokenizer.pad_token, tokenizer.padding_side = padding
        model.requires_grad_(False).eval()


def on_one_device(arguments: TrainingArguments) -> None:
    """Keep a trainer of transformers from copying the base to every other GPU that it sees."""
    arguments._n_gpu = min(1, arguments.n_gpu)


def leaves(view: Any, bank: Bank, name: str) -> list[tuple[torch.nn.Parameter, Tensor]]:
    """The view's parameters of adapter ``name``, each with its tensor in ``bank``, a bank of one adapter."""
    targets = bank.adapters[0].targets
    return [
        (view.get_parameter(f"base_model.model.model.{module}.lora_{side}.{name}.weight"), tensor)
        for module, a, b in bank.modules(0)
        if module.split(".", 2)[2] in targets
        for side, tensor in (("A", a), ("B", b))
    ]


@torch.no_grad()
def load(view: Any, bank: Bank, name: str) -> None:
    """Give adapter ``name`` of the view the bank's numbers, in float32 whatever a trainer made of them."""
    for parameter, tensor in leaves(view, bank, name):
        parameter.data = tensor.float().clone(memory_format=torch.contiguous_format)


@torch.no_grad()
def store(view: Any, bank: Bank) -> None:
    """Give the bank the numbers of adapter "default"."""
    for parameter, tensor in leaves(view, bank, "default"):
        tensor.copy_(parameter)
