"""What a base with the delta rule is asked beside the others: forked beginnings, and memory."""

from __future__ import annotations

import random
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from side_by_side import Seconds, medians, require_near
from tiny_tribe import HYBRID, NAMES, Shape, Tribe, make_tribe
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sparta_lite.engine import score
from sparta_lite.engine.chat import Chat
from sparta_lite.engine.decode import Prompt, generate
from sparta_lite.engine.packing import Row
from sparta_lite.engine.score import expected_scores
from sparta_lite.kernels.sampling import Sampling

DUELS, SHARED, OWN = 12, 200, 100
SEQUENCES, LENGTH = 64, 512
_PROMPT = 64


def forked_judging(tribe: Tribe, repeats: int, clock: Callable[[], float]) -> tuple[Seconds, float]:
    """One judge reads both answers of each duel: behind their beginning, computed once, or each by itself."""
    dice = random.Random(5)
    tokens = Chat(tribe.base.tokenizer, None, "turns", "").score_tokens
    own = OWN - len(tokens.prefix) - 1

    def text(length: int) -> tuple[int, ...]:
        return tuple(dice.randrange(256) for _ in range(length))

    questions = [text(SHARED) for _ in range(DUELS)]
    prompts = [Prompt(NAMES[0], question + text(own)) for question in questions for _ in range(2)]

    def judge() -> list[float]:
        scores = expected_scores(tribe.base, tribe.bank, prompts, tokens, 0.0, 4096)
        return [each.value for each in scores if each.value is not None]

    def apart() -> list[float]:
        with _sharing_nothing():
            return judge()

    differences = [abs(one - other) for one, other in zip(judge(), apart(), strict=True)]
    far = require_near(differences, 1e-4, "expected scores behind a forked beginning and by themselves")
    return medians({"ours, forked": judge, "ours, each by itself": apart}, repeats, clock), far


@contextmanager
def _sharing_nothing() -> Iterator[None]:
    def single(_: object, sequences: Sequence[tuple[str | None, tuple[int, ...]]], most: int) -> Any:
        return [([number], Row((), (ids,))) for number, (_, ids) in enumerate(sequences)]

    plain = vars(score)["share"]
    vars(score)["share"] = single
    try:
        yield
    finally:
        vars(score)["share"] = plain


def memory(path: Path, tribe: Tribe) -> dict[str, int]:
    """Bytes at the peak of generation, beyond what stands there before it, of the tribe and of one with
    attention in every layer."""
    kinds = ["full_attention"] * HYBRID["num_hidden_layers"]
    full: Shape = {**HYBRID, "layer_types": kinds}
    return {"hybrid": _peak(tribe), "attention in every layer": _peak(make_tribe(path, shape=full))}


def _peak(tribe: Tribe) -> int:
    dice = random.Random(6)
    prompts = [
        Prompt(NAMES[number % len(NAMES)], tuple(dice.randrange(256) for _ in range(_PROMPT)))
        for number in range(SEQUENCES)
    ]
    base = replace(tribe.base, stops=frozenset())
    with Allocated() as allocated:
        generate(base, tribe.bank, prompts, Sampling(temperature=0), LENGTH - _PROMPT, SEQUENCES)
    peak: int = allocated.peak
    return peak


class Allocated(TorchDispatchMode):
    """Bytes of the storages that operations inside it make and that are alive, and their peak."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now: int = 0
        self.peak: int = 0
        self._sizes: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {
            each.untyped_storage()._cdata for each in tree_leaves((args, kwargs)) if torch.is_tensor(each)
        }
        out = func(*args, **(kwargs or {}))
        for each in tree_leaves(out):
            if not torch.is_tensor(each):
                continue
            storage = each.untyped_storage()
            if storage._cdata not in given and storage._cdata not in self._sizes:
                self._sizes[storage._cdata] = storage.nbytes()
                self.now += storage.nbytes()
                self.peak = max(self.peak, self.now)
                weakref.finalize(storage, self._gone, storage._cdata)
        return out

    def _gone(self, key: int) -> None:
        self.now -= self._sizes.pop(key)
