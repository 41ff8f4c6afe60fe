"""``training.safetensors``: where an iteration's training stands, with a digest of its own."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from sparta_lite.errors import SpartaError
from sparta_lite.files import write_bytes, write_whole
from sparta_lite.training.phase import DpoState, read_state

_SEAL = "sha256"


def write_training(path: Path, state: DpoState) -> None:
    """Put a state on the disk, whole or not at all.

    Raises:
        SpartaError: it could not be written.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.tensors().items()}
    data = save(tensors, metadata={_SEAL: _seal(tensors)})
    write_whole(path, lambda temporary: write_bytes(temporary, data))


def read_training(path: Path) -> DpoState | None:
    """The state in ``path``; None where an earlier version wrote it, without a digest.

    Raises:
        SpartaError: it cannot be read, or is not what was written.
    """
    try:
        with safe_open(path, framework="pt") as file:
            seal = (file.metadata() or {}).get(_SEAL)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no dictionary
    except (SafetensorError, OSError) as error:
        raise _damaged(path, str(error)) from error
    if seal is None:
        return None
    if seal != _seal(tensors):
        raise _damaged(path, "was changed since it was written")
    return read_state(tensors)


def _damaged(path: Path, why: str) -> SpartaError:
    return SpartaError(
        f"{path}: {why[:80]}; restore it from a copy, or delete it to begin the iteration's training anew"
    )


def _seal(tensors: Mapping[str, Tensor]) -> str:
    """Of names, types, shapes and numbers."""
    sha = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        sha.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        sha.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return sha.hexdigest()
