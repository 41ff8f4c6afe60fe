"""The forward pass of any causal language model of transformers, with our attention and adapters.

``FusedDecoder`` computes some architectures on its own and faster; here transformers' own modules do the
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
from transformers.masking_utils import sdpa_mask

from sparta_lite.engine import observed
from sparta_lite.engine.cache import Cache, Prefill, Step
from sparta_lite.engine.mixing import Mixers, Mixing, attention_spec
from sparta_lite.engine.observed import some_tokens
from sparta_lite.engine.sequences import WholeSequences
from sparta_lite.engine.sites import Lora, Site
from sparta_lite.engine.support import WOULD_DO
from sparta_lite.errors import SpartaError
from sparta_lite.kernels.logprob import token_logprobs
from sparta_lite.kernels.lora import add_lora

_NAME = "sparta-lite"
_FEW = 8  # tokens of a pass through all layers, or behind a window
_LONG = 1024  # tokens of the widest window behind which results are compared, not masks alone


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
                f"base: {config.model_type!r} has no `model.layers` and `lm_head` as usual; use another "
                f"base, such as {WOULD_DO}"
            )
        self._model = model
        self._blocks = layers
        self.dtype: torch.dtype = model.get_input_embeddings().weight.dtype
        self.embedding: Tensor = model.get_input_embeddings().weight
        self.head: Tensor = head.weight  # [vocabulary, hidden]
        self.layers = [WrappedLayer(_sites(layer)) for layer in layers]
        for number, layer in enumerate(layers):
            for name in self.layers[number].sites:
                layer.get_submodule(name).register_forward_hook(partial(_adapt, number, name))
        config._attn_implementation = _NAME
        self._logits = observed.logits_of(config)
        self._sparse = any(name.endswith(".experts") for name, _ in model.named_modules())
        self.mixers: Mixers = observed.observe(model)
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
        return self._logits(self._model.lm_head(hidden))

    def logprobs(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """See ``Decoder``."""
        head, scale = self._model.lm_head, self._logits.scale
        hidden, bias = hidden.to(head.weight.dtype), head.bias
        if scale != 1:
            hidden, bias = hidden * scale, None if bias is None else bias * scale
        return token_logprobs(hidden, head.weight, targets, bias=bias, softcap=self._logits.softcap)

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
        """Compare with the model's own logits over a few tokens, and with its states behind its windows, in
        one pass and token by token: whatever else an architecture does would show.

        Longer sequences go through no more layers than it takes to have one of every window.
        """
        ids = some_tokens(self._model, _FEW)
        expected = self._model(input_ids=ids, use_cache=False).logits
        self._require_near(self.logits(self._states(ids)), expected)
        self._require_near(self.logits(self._newest(ids)), expected[:, -2:])
        windows = [attention_spec(mixer).window for mixer in self.mixers]
        for window in {each for each in windows if each and each <= _LONG}:
            ids = some_tokens(self._model, window + _FEW)
            with self._first_layers(1 + max(map(windows.index, set(windows)))):
                expected = self._model.model(input_ids=ids, use_cache=False).last_hidden_state
                self._require_near(self._states(ids)[:, window:], expected[:, window:])
                self._require_near(self._newest(ids), expected[:, -2:])

    def _states(self, ids: Tensor) -> Tensor:
        """Of one sequence in one pass, [1, length, hidden]."""
        positions = torch.arange(ids.shape[1], device=ids.device)[None]
        return self.hidden(ids, positions, WholeSequences(self.mixers), None)

    def _newest(self, ids: Tensor) -> Tensor:
        """Of its last two tokens, one by one behind what is cached of those before them, [1, 2, hidden]."""
        length = ids.shape[1]
        cache, positions = Cache(self, 1, length), torch.arange(length, device=ids.device)[None]
        first, prompt = torch.zeros(1, dtype=torch.int64, device=ids.device), length - 2
        prefill = Prefill(cache, first, first + prompt)
        self.hidden(ids[:, :prompt], positions[:, :prompt], prefill, None)
        states = []
        for at in range(prompt, length):
            newest = positions[:, at : at + 1]
            states.append(self.hidden(ids[:, at : at + 1], newest, Step(cache, newest[0], at + 1), None))
        return torch.cat(states, dim=1)

    @contextmanager
    def _first_layers(self, count: int) -> Iterator[None]:
        self._model.model.layers = self._blocks[:count]
        try:
            yield
        finally:
            self._model.model.layers = self._blocks

    def _require_near(self, found: Tensor, expected: Tensor) -> None:
        """Both [1, length, ...]."""
        found, expected = found[0].float(), expected[0].float()
        each = (found - expected).norm(dim=-1) / expected.norm(dim=-1)
        apart = each.median() if self._sparse else each.max()  # rounding can send one to another expert
        if not apart <= (1e-4 if self.dtype == torch.float32 else 5e-2):
            raise SpartaError(
                f"base: {self._model.config.model_type!r} computes its logits in a way that is not supported "
                f"(they are off by {float(apart):.1e}); use another base, such as {WOULD_DO}"
            )


def _sites(layer: nn.Module) -> dict[str, Site]:
    sites = {}
    for name, module in layer.named_modules():
        # Bitsandbytes' 4-bit layers are linear, too; to one of many experts not all tokens go.
        if isinstance(module, nn.Linear) and "experts" not in name.split("."):
            sites[name] = Site((name,), module.in_features, (module.out_features,), (module,), None)
    return sites


def _adapt(number: int, name: str, module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
    """Add the adapters' updates to what a linear layer of layer ``number`` has computed."""
    now = _under_way.get()
    if now is None or now.lora is None or name not in now.lora[0][number]:
        return output
    layers, routing = now.lora
    site, x = layers[number][name], args[0]
    rows = len(routing.slots)
    if x.ndim == 2:  # experts that all tokens go to may get them one after another, [rows * length, in]
        x = x.view(rows, -1, x.shape[-1])
    (adapted,) = add_lora([output.view(*x.shape[:2], -1)], x, site.a, site.b, routing, site.gain)
    return adapted.view(output.shape)


def _attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **others: Any,
) -> tuple[Tensor, Any]:
    """One of transformers' attention functions: q [rows, heads, length, head_dim] -> [rows, length, ...]."""
    now = _under_way.get()
    if now is None:
        return observed.attention(
            module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **others
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
