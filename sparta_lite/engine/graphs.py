"""Work that a GPU repeats, recorded once as a CUDA graph and then launched as a whole."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

from sparta_lite.engine.memory import is_out_of_memory

Work = Callable[[], Tensor]


class Graphs:
    """Recordings of work that reads and writes the same tensors every time.

    The first time that work is done it runs as it is, which compiles its kernels; the second time it is
    recorded. Recordings share their memory: a result holds until the next work of any of them.
    """

    def __init__(self) -> None:
        self._recorded: dict[Hashable, tuple[Callable[[], None], Tensor]] = {}
        self._seen: set[Hashable] = set()
        self._pool = torch.cuda.graph_pool_handle() if torch.cuda.is_available() else None
        self.usable = True
        """False from the first recording on that failed."""

    def run(self, name: Hashable, work: Work) -> Tensor:
        """Do ``work``, or what was recorded under ``name`` instead.

        Raises:
            torch.OutOfMemoryError: there is no memory left to record in.
        """
        if name not in self._seen or not self.usable:
            self._seen.add(name)
            return work()
        if name not in self._recorded:
            try:
                self._recorded[name] = _record(work, self._pool)
            except Exception as error:  # whatever a driver makes of work that it cannot record
                if any(map(is_out_of_memory, _chain(error))):
                    raise torch.OutOfMemoryError(str(error)) from error
                self.usable = False
                self._recorded.clear()
                said = (str(error).strip() or type(error).__name__).splitlines()[0]
                warnings.warn(f"generation runs without CUDA graphs, recording failed: {said}", stacklevel=2)
                return work()
        replay, result = self._recorded[name]
        replay()
        return result

    def close(self) -> None:
        """Forget what is recorded; its memory goes back to the device."""
        self._recorded.clear()
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()


def _record(work: Work, pool: Any) -> tuple[Callable[[], None], Tensor]:
    """What repeats ``work``, and where its result will stand; nothing is done yet."""
    graph, before = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
    try:
        # What other threads ask of the card meanwhile is no part of it.
        with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
            result = work()
    except BaseException:
        # Where the driver cannot even end the recording torch stays on its stream, and its allocator, which
        # still takes it to be under way, refuses to give any memory back.
        torch.cuda.set_stream(before)
        with suppress(RuntimeError):  # the recording was ended after all
            torch._C._cuda_endAllocateToPool(before.device_index, pool)
            torch._C._cuda_releasePool(before.device_index, pool)
        raise
    return graph.replay, result


def _chain(error: BaseException | None) -> list[BaseException]:
    """An error and those that it came from: ending a recording that failed raises one more."""
    found: list[BaseException] = []
    while error is not None and error not in found:
        found.append(error)
        error = error.__cause__ or error.__context__
    return found
