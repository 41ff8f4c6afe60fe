"""Files of the Hugging Face hub, as a local directory."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sparta_lite.engine.gguf_base import describe, unpack
from sparta_lite.engine.gguf_file import gguf_file
from sparta_lite.errors import SpartaError

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
"""What the directory of a PEFT adapter holds."""
BASE_FILES = ("*.safetensors", "*.json", "*.jinja", "*.txt", "*.model")
"""Weights, configuration, tokenizer, chat template; never pickled weights, never code."""
CODE = ("*.py",)
"""What is downloaded beside them where the settings trust it."""


def download(repository: str, patterns: Sequence[str] = BASE_FILES) -> Path:
    """Bring a repository's files into the local cache, or find them there.

    Args:
        repository: ``owner/name``.
        patterns: which files, as shell patterns.

    Returns:
        The directory of its newest version; without a network the one that the cache holds.

    Raises:
        SpartaError: there is no such repository, it may not be read, or the hub cannot be reached and
            the cache does not hold it.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    try:
        return Path(snapshot_download(repository, allow_patterns=list(patterns)))
    except HFValidationError as error:
        raise SpartaError(
            f"{repository}: is neither a directory nor the id of a hub repository, owner/name; correct it"
        ) from error
    except GatedRepoError as error:
        raise SpartaError(
            f"{repository}: the hub gives it only to those who accepted its terms; accept them on its "
            "page and run `hf auth login`"
        ) from error
    except RepositoryNotFoundError as error:
        raise SpartaError(
            f"{repository}: no such directory and no such repository on the hub; correct the name, or run "
            "`hf auth login` if it is private"
        ) from error
    except (LocalEntryNotFoundError, HfHubHTTPError) as error:
        raise SpartaError(
            f"{repository}: no such directory, and the hub cannot be reached "
            f"({_reason(error)}); give a local directory, or download it while there is a network"
        ) from error
    except OSError as error:
        raise SpartaError(
            f"{repository}: downloading failed ({error.strerror or error}); free some space or set HF_HOME "
            "to a directory that you may write to"
        ) from error


def _reason(error: Exception) -> str:
    from huggingface_hub import constants

    return "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else type(error).__name__


def cached(repository: str, name: str) -> bool:
    """Whether the local cache holds that file of a repository; the hub is not asked."""
    from huggingface_hub import try_to_load_from_cache

    return isinstance(try_to_load_from_cache(repository, name), str)


def local(source: str | Path, patterns: Sequence[str] = BASE_FILES) -> Path:
    """``source`` itself where it is a directory, else the hub repository of that name, downloaded.

    Raises:
        SpartaError: see ``download``.
    """
    path = Path(source)
    return path if path.is_dir() else download(str(source), patterns)


def base_directory(source: str | Path, patterns: Sequence[str] = BASE_FILES) -> Path:
    """The same for a base, which may be a GGUF file: that is unpacked, if weights are asked for.

    Raises:
        SpartaError: see ``download``, ``gguf_file.gguf_file`` and ``gguf_base.unpack``.
    """
    packed = gguf_file(source)
    if packed is None:
        return local(source, patterns)
    return unpack(packed) if BASE_FILES[0] in patterns else describe(packed)


def read_object(path: Path, where: str) -> dict[str, Any]:
    """The JSON object in a foreign file.

    Args:
        path: the file.
        where: what it belongs to, as errors name it.

    Raises:
        FileNotFoundError: there is no such file.
        SpartaError: it cannot be read, or holds something else.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        json.dumps(value, ensure_ascii=False).encode()  # half a surrogate pair could not be written again
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise SpartaError(
            f"{where}: {path.name} cannot be read ({reason[:100]}); get a sound copy"
        ) from error
    except RecursionError as error:
        raise SpartaError(f"{where}: {path.name} is nested too deep; get a sound copy") from error
    if not isinstance(value, dict):
        raise SpartaError(
            f"{where}: {path.name} holds no JSON object but {type(value).__name__}; get a sound copy"
        )
    return value
