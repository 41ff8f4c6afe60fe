"""Work that shrinks until it fits into memory."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch

from sparta_lite.errors import SpartaError
from sparta_lite.kernels.choice import is_out_of_memory as is_out_of_memory

OnShrink = Callable[[str, int, int], None]
"""Called with (phase, the size that did not fit, the smaller one that is tried next). Sizes are rows in
``generation``, tokens in ``scoring`` and pairs in ``training``."""

_Result = TypeVar("_Result")


def shrink_to_fit(
    attempt: Callable[[int], _Result],
    size: int,
    *,
    least: int = 1,
    phase: str,
    advice: str,
    on_shrink: OnShrink | None,
) -> tuple[_Result, int]:
    """``attempt(size)``, again with half the size whenever memory runs out.

    Args:
        attempt: must leave nothing behind when it fails. It is begun anew, not gone on with.
        size: of the batch that it works in.
        least: the size of a batch of one.
        phase: what is going on, for messages.
        advice: what did not fit in the end and what to lower.
        on_shrink: told of every new size.

    Returns:
        The result, and the size that it was got with.

    Raises:
        SpartaError: not even the least size fits.
    """
    while True:
        try:
            return attempt(size), size
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        # Only here is the error gone, whose traceback held every tensor of the attempt.
        gc.collect()
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()
        if size <= least:
            raise SpartaError(f"{phase}: out of memory: {advice}")
        smaller = max(size // 2, least)
        if on_shrink is not None:
            on_shrink(phase, size, smaller)
        size = smaller


@contextmanager
def in_one_piece(*, phase: str, advice: str) -> Iterator[None]:
    """One line for an out-of-memory error in work that no smaller batch makes smaller.

    Raises:
        SpartaError: memory ran out.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise SpartaError(f"{phase}: out of memory: {advice}") from error
