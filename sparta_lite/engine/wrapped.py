"""The forward pass of any causal language model of transformers, with our attention and adapters.

``FusedDecoder`` computes four architectures on its own and faster; here transformers' own modules do the
work. Two seams are ours: attention goes through transformers' table of attention functions, and every
linear layer adds the adapters' updates in a hook.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as recompute
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from sparta_lite.engine.mixing import AttentionSpec, Mixers, Mixing
from sparta_lite.engine.sequences import WholeSequences
from sparta_lite.engine.sites import Lora, Site
from sparta_lite.errors import SpartaError
from sparta_lite.kernels.logprob import token_logprobs
from sparta_lite.kernels.lora import add_lora

_NAME = "sparta-lite"
_UNDERSTOOD = {
    "position_ids",
    "is_causal",
    "cache_position",
    "use_cache",
    "sliding_window",
    "output_attentions",
}


@dataclass(frozen=True)
class _Pass:
    """What the seams need to know of the forward pass that is under way."""

    mixing: Mixing
    lora: Lora | None


_under_way: ContextVar[_Pass | None] = ContextVar("_under_way", default=None)


@dataclass(frozen=True)
class WrappedLayer:
    sites: dict[str, Site]
    """Every linear module of the decoder layer by its name, each a site of its own."""


class WrappedDecoder:
    """A ``Decoder`` over a transformers model as it is."""

    def __init__(self, model: Any) -> None:
        """Take ``model`` over: its attention is set to ours, which outside of ``hidden`` is torch's.

        Raises:
            SpartaError: it computes something that would be lost here.
        """
        config = model.config
        layers = getattr(getattr(model, "model", None), "layers", None)
        head = getattr(model, "lm_head", None)
        if not isinstance(layers, nn.ModuleList) or not isinstance(head, nn.Linear):
            raise SpartaError(
                f"base: {config.model_type!r} has no `model.layers` and `lm_head` as usual; use another base"
            )
        self._model = model
        self._blocks = layers
        self.dtype: torch.dtype = model.get_input_embeddings().weight.dtype
        heads = config.num_attention_heads
        spec = AttentionSpec(
            getattr(config, "num_key_value_heads", None) or heads,
            getattr(config, "head_dim", None) or config.hidden_size // heads,
        )
        self.mixers: Mixers = [spec] * len(layers)
        self.embedding: Tensor = model.get_input_embeddings().weight
        self.head: Tensor = head.weight  # [vocabulary, hidden]
        self.layers = [WrappedLayer(_sites(layer)) for layer in layers]
        for number, layer in enumerate(layers):
            for name in self.layers[number].sites:
                layer.get_submodule(name).register_forward_hook(partial(_adapt, number, name))
        config._attn_implementation = _NAME
        self._require_equal()

    @property
    def device(self) -> torch.device:
        return self.head.device

    def hidden(
        self,
        ids: Tensor,
        positions: Tensor,
        mixing: Mixing,
        lora: Lora | None,
        keep: Tensor | None = None,
        checkpoint: bool = False,
    ) -> Tensor:
        """See ``Decoder``."""
        now = _Pass(mixing, lora)
        recomputing = self._recomputing(now) if checkpoint and torch.is_grad_enabled() else nullcontext()
        with _doing(now), recomputing:
            x: Tensor = self._model.model(
                input_ids=ids,
                position_ids=positions,
                # Four dimensions tell transformers to build no mask of its own; `mixing` has one.
                attention_mask=torch.ones(1, 1, 1, 1, device=ids.device),
                use_cache=False,
            ).last_hidden_state
        if keep is not None:
            x = x[torch.arange(len(keep), device=keep.device)[:, None], keep]
        return x

    def logits(self, hidden: Tensor) -> Tensor:
        """See ``Decoder``."""
        logits: Tensor = self._model.lm_head(hidden)
        return logits

    def logprobs(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """See ``Decoder``."""
        head = self._model.lm_head
        return token_logprobs(hidden.to(head.weight.dtype), head.weight, targets, bias=head.bias)

    @contextmanager
    def _recomputing(self, now: _Pass) -> Iterator[None]:
        """Decoder layers keep their input alone; what they compute again still goes through our seams."""
        for layer in self._blocks:
            layer.forward = partial(
                recompute, layer.forward, use_reentrant=False, context_fn=lambda: (nullcontext(), _doing(now))
            )
        try:
            yield
        finally:
            for layer in self._blocks:
                del layer.forward

    @torch.no_grad()
    def _require_equal(self) -> None:
        """Compare a few logits with the model's own: whatever else an architecture does would show."""
        ids = torch.arange(2, 10, device=self.device)[None] % self.embedding.shape[0]
        positions = torch.arange(8, device=self.device)[None]
        expected = self._model(input_ids=ids, use_cache=False).logits.float()
        found = self.logits(self.hidden(ids, positions, WholeSequences(self.mixers), None)).float()
        tolerance = 1e-4 if self.dtype == torch.float32 else 5e-2
        apart = (found - expected).norm() / expected.norm()
        if not apart <= tolerance:
            raise SpartaError(
                f"base: {self._model.config.model_type!r} computes its logits in a way that is not supported "
                f"(they are off by {float(apart):.1e}); use another base"
            )


def _sites(layer: nn.Module) -> dict[str, Site]:
    sites = {}
    for name, module in layer.named_modules():
        if isinstance(module, nn.Linear):  # bitsandbytes' 4-bit layers are such too
            sites[name] = Site((name,), module.in_features, (module.out_features,), (module,), None)
    return sites


def _adapt(number: int, name: str, module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
    """Add the adapters' updates to what a linear layer of layer ``number`` has computed."""
    now = _under_way.get()
    if now is None or now.lora is None or name not in now.lora[0][number]:
        return output
    layers, routing = now.lora
    site = layers[number][name]
    return add_lora([output], args[0], site.a, site.b, routing, site.gain)[0]


def _attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **others: Any,
) -> tuple[Tensor, None]:
    """One of transformers' attention functions: q [rows, heads, length, head_dim] -> [rows, length, ...]."""
    now = _under_way.get()
    if now is None:
        result: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **others
        )
        return result
    unknown = {name for name, value in others.items() if value is not None} - _UNDERSTOOD
    if unknown:
        raise SpartaError(
            f"base: attention with {', '.join(sorted(unknown))} is not supported; use another base"
        )
    if scaling is not None:  # `mixing` scales by 1 / sqrt(head_dim)
        query = query * (scaling * math.sqrt(query.shape[-1]))
    return now.mixing.attend(module.layer_idx, query, key, value).transpose(1, 2).contiguous(), None


@contextmanager
def _doing(now: _Pass) -> Iterator[None]:
    token = _under_way.set(now)
    try:
        yield
    finally:
        _under_way.reset(token)


AttentionInterface.register(_NAME, _attention)
AttentionMaskInterface.register(_NAME, sdpa_mask)
