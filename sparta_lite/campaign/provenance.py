"""What a run was made from: versions of the libraries, hashes of its inputs, and the date that it began."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Callable, Mapping
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from sparta_lite.engine.gguf_file import file_hash
from sparta_lite.errors import SpartaError

_PACKAGES = ("sparta-lite", "torch", "transformers", "peft", "safetensors", "tokenizers", "numpy")


def versions() -> dict[str, str]:
    """The versions that decide a run's numbers."""
    return {"python": platform.python_version(), **{name: metadata.version(name) for name in _PACKAGES}}


def begun(date: Any, started: Any, path: Path) -> datetime:
    """What the chat template of a run takes for now, whenever it is rendered.

    Args:
        date: as the record of the run has it, in ISO's form; None: the run is from before it was recorded.
        started: when it started, in seconds since 1970, for that case.
        path: of the record, for messages.

    Raises:
        SpartaError: they are damaged.
    """
    try:
        return datetime.fromtimestamp(int(started)) if date is None else datetime.fromisoformat(date)
    except (TypeError, ValueError, OverflowError, OSError) as error:
        raise SpartaError(
            f"{path}: its date is damaged; restore the file, or give it a date such as 2026-01-31T12:00:00"
        ) from error


GGUF_FILE = "GGUF file"
"""Under which name the record of a run has the hash of its base, where that is one."""
_INPUTS = (".safetensors", ".json", ".jinja", ".txt", ".model")
"""Weights, configuration, tokenizer, chat template."""


def digest(model: Path) -> str:
    """SHA-256 of a model's files: their names and what they hold. A GGUF file counts by what it holds alone,
    whatever it is called and whichever library unpacks it."""
    if model.is_file():
        return file_hash(model)
    sha = hashlib.sha256()
    for path in sorted(path for path in model.iterdir() if path.suffix in _INPUTS and path.is_file()):
        sha.update(path.name.encode())
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                sha.update(block)
    return sha.hexdigest()


def digest_of_value(value: object) -> str:
    """SHA-256 of ``value`` as JSON."""
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()


def hashes(
    base: Path,
    adapters: Mapping[str, Path | None],
    others: Mapping[str, object],
    digest: Callable[[Path], str] = digest,
) -> dict[str, str]:
    """SHA-256 of the base, a directory or a GGUF file, of every adapter that has files, and of ``others`` as
    JSON."""
    return {
        **{name: digest_of_value(value) for name, value in others.items()},
        GGUF_FILE if base.is_file() else "base": digest(base),
        **{f"adapter {name}": digest(path) for name, path in adapters.items() if path},
    }
