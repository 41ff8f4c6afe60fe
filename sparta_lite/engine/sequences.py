"""Mixing over whole sequences: nothing was before them, and nothing is kept of them."""

from __future__ import annotations

import torch
from torch import Tensor

from sparta_lite.engine.attention import additive, causal, masked, needs_no_mask, spelt_out
from sparta_lite.engine.delta import Fork, run
from sparta_lite.engine.mixing import Mixers, attention_spec, delta_spec
from sparta_lite.kernels.elementwise import Rotary, rotate_both


class WholeSequences:
    """A ``Mixing`` of rows that are padded on the right."""

    def __init__(
        self,
        mixers: Mixers,
        mask: Tensor | None = None,
        positions: Tensor | None = None,
        fork: Fork | None = None,
    ) -> None:
        """
        Args:
            mixers: of the decoder.
            mask: bool [rows, 1, length, length], where full attention may look; None: at everything before.
            positions: int64 [rows, length], of every token in its sequence, which windows are counted in;
                None: sequences begin with their rows.
            fork: how the delta rule takes the rows apart; None: each is one sequence.
        """
        self.mixers, self.mask, self.positions, self.fork = mixers, mask, positions, fork
        # One for every kind of window; what the queries come in shows in the first layer.
        self._masks: dict[tuple[int | None, torch.dtype], Tensor] = {}

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, rotary: Rotary | None = None) -> Tensor:
        """See ``Mixing``."""
        if rotary is not None:
            q, k = rotate_both(q, k, rotary)
        spec = attention_spec(self.mixers[layer])
        if self.mask is None and needs_no_mask(q, spec):
            return causal(q, k, v, spec.window, spec.softcap)
        mask = self._additive(spec.window, q)
        if spec.softcap is None and spec.sinks is None:
            return masked(q, k, v, mask)
        return spelt_out(q, k, v, mask, spec.softcap, spec.sinks)

    def _additive(self, window: int | None, q: Tensor) -> Tensor:
        """The mask of layers with this window, [rows or 1, 1, length, length]."""
        key = window, q.dtype
        if key not in self._masks:
            self._masks[key] = additive(self._mask(window, q.shape[2], q.device), q.dtype)
        return self._masks[key]

    def _mask(self, window: int | None, length: int, device: torch.device) -> Tensor:
        if self.mask is None:
            earlier = torch.ones(1, 1, length, length, dtype=torch.bool, device=device).tril()
            return earlier if window is None else earlier.triu(1 - window)
        if window is None or self.positions is None:
            return self.mask
        near = self.positions[:, :, None] < self.positions[:, None] + window  # [rows, length, length]
        return self.mask & near[:, None]

    def delta(self, layer: int, qkv: Tensor, decay: Tensor, beta: Tensor) -> Tensor:
        """See ``Mixing``."""
        spec = delta_spec(self.mixers[layer])
        if self.fork is not None:
            return self.fork.run(spec, qkv, decay, beta)
        return run(spec, qkv, decay, beta)[0]
