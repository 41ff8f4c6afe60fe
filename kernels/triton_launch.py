"""Launches without Triton's binder, which takes longer than many a kernel.

What a launch needs besides the tensors' addresses follows from shapes, strides and dtypes: the grid, every
number, and which of a kernel's compiled forms serves. It is worked out the first time that a shape is met.

Import this module only where Triton is installed.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from typing import Any

from torch import Tensor

ALIGNED = 15
"""Triton compiles a kernel anew for an address that has any of these bits."""
_MOST = 8192  # shapes of lengths of batches come and go: what was settled is forgotten once it is too much


class Launch:
    """One kernel on one grid, with all arguments behind the tensors settled."""

    __slots__ = ("_behind", "_grid", "_kernel", "_options", "_run", "shape")

    def __init__(
        self,
        kernel: Any,
        grid: tuple[int, ...],
        behind: tuple[Any, ...],
        shape: tuple[int, ...],
        options: dict[str, Any],
    ) -> None:
        """
        Args:
            kernel: a function of ``triton.jit``, whose tensors come first.
            grid: programs along up to three axes.
            behind: its other arguments, in order, constants included.
            shape: of what it writes, for whoever makes room for it.
            options: of Triton's compiler.
        """
        self.shape = shape
        self._kernel, self._behind, self._options = kernel, behind, options
        self._grid = (*grid, 1, 1)[:3]
        self._run: Callable[..., object] | None = None

    def __call__(self, addresses: int, *tensors: Any) -> None:
        """Launch.

        Args:
            addresses: all tensors' addresses or'ed, but for those that are known to be aligned.
            tensors: the first arguments: tensors, tuples of them, or None, each time of the same dtypes.
        """
        if addresses & ALIGNED:  # Triton finds, or compiles, the form for them
            self._kernel[self._grid](*tensors, *self._behind, **self._options)
        elif self._run is None:
            compiled = self._kernel[self._grid](*tensors, *self._behind, **self._options)
            if hasattr(compiled, "packed_metadata"):  # interpreted kernels give nothing back
                self._run = compiled[self._grid]
        else:
            self._run(*tensors, *self._behind)


_settled: dict[Hashable, Launch] = {}


def settled(key: Hashable) -> Launch | None:
    """What ``settle`` was given under ``key``, which names the kernel, too: by its ``id``."""
    return _settled.get(key)


def settle(
    key: Hashable,
    kernel: Any,
    grid: tuple[int, ...],
    behind: tuple[Any, ...],
    shape: tuple[int, ...] = (),
    **options: Any,
) -> Launch:
    """A launch for everything that has the same ``key``."""
    if len(_settled) >= _MOST:
        _settled.clear()
    _settled[key] = launch = Launch(kernel, grid, behind, shape, options)
    return launch


def addresses(tensors: Iterable[Tensor]) -> int:
    """As ``Launch`` takes them."""
    found = 0
    for tensor in tensors:
        found |= tensor.data_ptr()
    return found
