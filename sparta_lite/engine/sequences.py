"""Mixing over whole sequences: nothing was before them, and nothing is kept of them."""

from __future__ import annotations

import torch
from torch import Tensor

from sparta_lite.engine.attention import additive, causal, masked
from sparta_lite.engine.delta import Fork, run
from sparta_lite.engine.mixing import Mixers, delta_spec


class WholeSequences:
    """A ``Mixing`` of rows that are padded on the right."""

    def __init__(self, mixers: Mixers, mask: Tensor | None = None, fork: Fork | None = None) -> None:
        """
        Args:
            mixers: of the decoder.
            mask: bool [rows, 1, length, length], where full attention may look; None: at everything before.
            fork: how the delta rule takes the rows apart; None: each is one sequence.
        """
        self.mixers, self.mask, self.fork = mixers, mask, fork
        self._numbers: dict[torch.dtype, Tensor] = {}  # what the queries come in shows in the first layer

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """See ``Mixing``."""
        if self.mask is None:
            return causal(q, k, v)
        if q.dtype not in self._numbers:
            self._numbers[q.dtype] = additive(self.mask, q.dtype)
        return masked(q, k, v, self._numbers[q.dtype])

    def delta(self, layer: int, qkv: Tensor, decay: Tensor, beta: Tensor) -> Tensor:
        """See ``Mixing``."""
        spec = delta_spec(self.mixers[layer])
        if self.fork is not None:
            return self.fork.run(spec, qkv, decay, beta)
        return run(spec, qkv, decay, beta)[0]
