"""How the steps of ``first_minutes.py`` measure: clocks, replays, rates and profiles, on a card or a CPU."""

from __future__ import annotations

import statistics
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from card_base import make_bank, make_base
from counting import Model, Work, model_of, moved, operations
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sparta_lite.engine.bank import Bank
from sparta_lite.engine.base import Base
from sparta_lite.engine.shape import Shape, read_shape

Found = dict[str, Any]
"""What a step found, for JSON."""


@dataclass(frozen=True)
class Sizes:
    """What the steps are asked, by the card's memory."""

    shape: str
    rows: tuple[int, ...]
    """Decoded at once."""
    prompt: int
    steps: int
    """Timed, of decoding."""
    nf4_tokens: tuple[int, ...]
    judged: int
    """Tokens in a pass of judging."""
    question: int
    answer: int
    pairs: int
    """In an update; there are three, of which the first one compiles."""
    caps: tuple[int, ...]
    """Bytes that the plan is tried with."""
    duels: int
    new_tokens: int
    rank: int = 16
    adapters: int = 10


@dataclass
class Card:
    """Where the steps run, and what stays in memory from one to the next."""

    device: torch.device
    dtype: torch.dtype
    sizes: Sizes
    folder: Path
    """For the base's description and whatever a step writes."""
    unpack: bool = False
    """Hold the base's values unpacked from their 4 bits."""
    _base: tuple[bool, Base] | None = None
    _bank: Bank | None = None

    @property
    def on_gpu(self) -> bool:
        return self.device.type == "cuda"

    @property
    def base(self) -> Base:
        """Made when a step first asks for it, or asks for it in another form."""
        if self._base is None or self._base[0] != self.unpack:
            self.release()
            self._base = self.unpack, make_base(self.folder, self.device, self.dtype, self.unpack)
        return self._base[1]

    @property
    def bank(self) -> Bank:
        base = self.base
        if self._bank is None:
            self._bank = make_bank(base, self.sizes.adapters, self.sizes.rank)
        return self._bank

    def release(self, base: bool = True) -> None:
        """Give the memory of the bank back and, unless told otherwise, that of the base."""
        self._bank = None
        self._base = None if base else self._base
        self.empty()

    def empty(self) -> None:
        if self.on_gpu:
            torch.cuda.empty_cache()

    @cached_property
    def shape(self) -> Shape:
        return read_shape(self.folder)

    @property
    def model(self) -> Model:
        """For counting."""
        return model_of(self.base, self.shape, self.sizes.rank)

    @cached_property
    def rates(self) -> tuple[float, float]:
        """Operations a second of the best square product, and bytes a second of a copy, read and written."""
        size, bytes_ = (8192, 1 << 30) if self.on_gpu else (256, 1 << 22)
        square = torch.randn(size, size, device=self.device).to(self.dtype)
        source = torch.ones(bytes_, dtype=torch.uint8, device=self.device)
        into = torch.empty_like(source)
        product = self.best(lambda: square @ square)
        return 2 * size**3 / product, 2 * bytes_ / self.best(lambda: into.copy_(source))

    def clock(self) -> float:
        """Seconds, once the device has done what it was told."""
        if self.on_gpu:
            torch.cuda.synchronize()
        return time.perf_counter()

    def best(self, run: Callable[[], object], times: int = 5) -> float:
        """Seconds of the fastest run, after one that is not timed."""
        run()
        return min(self.seconds(run) for _ in range(times))

    def seconds(self, run: Callable[[], object]) -> float:
        start = self.clock()
        run()
        return self.clock() - start

    def replayed(self, run: Callable[[], object], times: int = 5) -> float:
        """Median seconds of ``run`` recorded as a graph, so without the host's; on a CPU as it is."""
        run()
        if self.on_gpu:
            torch.cuda.synchronize()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                run()
            run = graph.replay
        run()
        return statistics.median(self.seconds(run) for _ in range(times if self.on_gpu else 1))

    def floors(self, work: Work, seconds: float) -> Found:
        """The work's two floors, in seconds, and the share of the larger one in what was measured."""
        rate, bandwidth = self.rates
        found = {
            "operations_floor": operations(self.model, work) / rate,
            "bytes_floor": moved(self.model, work) / bandwidth,
        }
        return found | {"share_of_floor": max(found.values()) / seconds}

    def profiled(self, run: Callable[[], object], most: int = 12) -> list[Found]:
        """What takes the device's time in ``run``: name, calls, milliseconds, the dearest first."""
        kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if self.on_gpu else [])]
        with profile(activities=kinds) as seen:
            run()
            self.clock()
        key = "self_device_time_total" if self.on_gpu else "self_cpu_time_total"
        rows = [(getattr(each, key), each) for each in seen.key_averages()]
        rows = sorted((row for row in rows if row[0] > 0), key=lambda row: -row[0])[:most]
        return [
            {"name": each.key[:80], "calls": each.count, "ms": round(taken / 1e3, 3)} for taken, each in rows
        ]


class Live(TorchDispatchMode):
    """Bytes of the storages that operations have made and that are still alive, and their peak.

    It sees what an allocator on a GPU would; a process's resident size says little of it.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self._sizes: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        given = {_key(each) for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)}
        for each in tree_leaves(out):
            if isinstance(each, Tensor) and _key(each) not in {*given, *self._sizes}:
                storage = each.untyped_storage()
                self._sizes[_key(each)] = storage.nbytes()
                self.now += storage.nbytes()
                self.peak = max(self.peak, self.now)
                weakref.finalize(storage, self._gone, _key(each))
        return out

    def _gone(self, key: int) -> None:
        self.now -= self._sizes.pop(key)


def _key(tensor: Tensor) -> int:
    key: int = tensor.untyped_storage()._cdata
    return key
