"""A stand-in for a card: Triton compiles for it as ever, and what would be launched is noted instead.

Tensors stay on the CPU, for nothing reads them. So the Python before a launch runs as it would on a card, the
compiler's report on every kernel can be read, and launches can be counted, all on a machine without a
card. ``TRITON_INTERPRET`` must not be set: its kernels are no compiled ones.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

HOPPER, ADA = 90, 89
_SHARED = {HOPPER: 227 << 10, ADA: 99 << 10}
"""Bytes of shared memory that one program may take."""


_BEFORE = 9  # what a launcher is given before the kernel's arguments: grid, stream, function, hooks


@dataclass(frozen=True)
class Report:
    """What the assembler says of a compiled kernel."""

    registers: int
    """Of one thread."""
    spilled: int
    """Bytes of local memory of one thread: registers that found no place."""
    shared: int
    """Bytes of one program."""
    threads: int
    """Of one program."""


@dataclass
class StandIn:
    """Triton's driver for a card that is not there."""

    arch: int = HOPPER
    launches: list[str] = field(default_factory=list)
    """Names of the kernels that were launched, in order."""
    listener: Callable[[str, Sequence[Any]], None] | None = None
    """Told of every launch: the kernel's name and its arguments."""

    def __post_init__(self) -> None:
        self.utils = self
        driver.set_active(self)

    # What Triton asks a driver for.

    def get_current_device(self) -> int:
        return 0

    def set_current_device(self, device: int) -> None: ...

    def get_current_stream(self, device: int | None = None) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.arch, 32)

    def get_device_properties(self, device: int) -> dict[str, int]:
        return {"max_shared_mem": _SHARED[self.arch], "multiprocessor_count": 132, "warpSize": 32}

    def launcher_cls(self, source: Any, metadata: Any) -> Any:
        name = metadata.name

        def launch(*given: Any) -> None:
            self.launches.append(name)
            if self.listener is not None:
                self.listener(name, given[_BEFORE:])

        return launch

    def load_binary(
        self, name: str, binary: bytes, shared: int, device: int
    ) -> tuple[int, int, int, int, int]:
        return 1, 1, 0, 0, 1024

    def unload_module(self, module: int) -> None: ...


def report(compiled: Any) -> Report:
    """What ``cuobjdump``, which comes with Triton, reads in a compiled kernel."""
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        said = subprocess.run(
            [tool, "-res-usage", file.name], capture_output=True, text=True, check=True
        ).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+) SHARED:\d+ LOCAL:(\d+)", said)
    assert found is not None, said
    registers, stack, local = map(int, found.groups())
    return Report(registers, stack + local, compiled.metadata.shared, 32 * compiled.metadata.num_warps)
