"""What a run was made from: versions of the libraries, hashes of its inputs."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

_PACKAGES = ("sparta-lite", "torch", "transformers", "peft", "safetensors", "tokenizers", "numpy")


def versions() -> dict[str, str]:
    """The versions that decide a run's numbers."""
    return {"python": platform.python_version(), **{name: metadata.version(name) for name in _PACKAGES}}


def hashes(base: Path, adapters: Mapping[str, Path]) -> dict[str, str]:
    """SHA-256 of the weights and configuration of the base and of every adapter."""
    return {
        "base": _digest(base),
        **{f"adapter {name}": _digest(path) for name, path in adapters.items()},
    }


def _digest(directory: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(directory.glob("*.safetensors")) + sorted(directory.glob("*config.json")):
        digest.update(path.name.encode())
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()
