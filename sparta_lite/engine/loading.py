"""A base's files, which are foreign: what is wrong with them in one line, the model without an adapter."""

from __future__ import annotations

import math
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import safe_open

from sparta_lite.engine.hub import CONFIG_FILE, read_object
from sparta_lite.errors import SpartaError

_OBJECTS = (
    "config.json",
    "generation_config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)
_MOST_LAYERS = 1000
"""More than any model has: building as many as a damaged file says could take hours."""
_WHOLE_NUMBERS = ("I8", "U8", "I16", "U16", "I32", "U32", "I64", "U64", "BOOL")
_FLOATS = ("F64", "F32", "F16", "BF16")


def require_config(path: Path) -> None:
    """Refuse a directory that holds no model in transformers' form.

    Raises:
        SpartaError: there is no ``config.json``.
    """
    if not (path / "config.json").is_file():
        but = " but an adapter" if (path / CONFIG_FILE).is_file() else ""
        raise SpartaError(
            f"base: {path} is not a model directory (no config.json){but}; give one in transformers' form, "
            "or a GGUF file"
        )


def require_model(path: Path) -> None:
    """The same, and refuse small files that are damaged.

    Raises:
        SpartaError: there is no ``config.json``, or a file holds no JSON object.
    """
    require_config(path)
    for name in _OBJECTS:
        if (path / name).exists():
            read_object(path / name, f"base: {path} cannot be loaded")
    require_few_layers(path)


def require_few_layers(path: Path) -> None:
    """Refuse a ``config.json`` of which no model could be built in a lifetime.

    Raises:
        SpartaError: it is damaged so.
    """
    config = read_object(path / "config.json", f"base: {path} cannot be loaded")
    for part in (config, config.get("text_config")):
        layers = part.get("num_hidden_layers") if isinstance(part, dict) else None
        if isinstance(layers, int) and layers > _MOST_LAYERS:
            raise SpartaError(f"base: {path} cannot be loaded: config.json says {layers:.1e} layers; mend it")


def require_floats(path: Path, config: Any) -> None:
    """Refuse weights of an unquantised base in a dtype that says nothing without its scales.

    Args:
        path: of the base.
        config: its transformers configuration.

    Raises:
        SpartaError: a weight is in 8 bits or less, or in whole numbers; a file is damaged; or the embedding
            is far smaller than the configuration's, which would take so much memory.
    """
    config = config.get_text_config()
    asked = getattr(config, "vocab_size", 0) * getattr(config, "hidden_size", 0)
    for file in sorted(path.glob("model*.safetensors")):
        with clear(path, file.name), safe_open(file, framework="pt") as weights:
            slices = {name: weights.get_slice(name) for name in weights.keys()}  # noqa: SIM118
            found = {name: (str(each.get_dtype()), each.get_shape()) for name, each in slices.items()}
        for name, (kind, shape) in found.items():
            # Buffers of old checkpoints, such as masks, are whole numbers.
            if kind not in _FLOATS and (kind not in _WHOLE_NUMBERS or name.endswith(".weight")):
                raise SpartaError(
                    f"base: {path}: the weight {name[:80]} is in {kind}; give the checkpoint in bf16 or "
                    "float32, or one in bitsandbytes' 4 bits"
                )
            if name.endswith("embed_tokens.weight") and asked > 4 * math.prod(shape):
                raise SpartaError(
                    f"base: {path} lacks weights or has them in another shape: {name} is {shape}; get the "
                    "config.json that belongs to it"
                )


@contextmanager
def without_adapter(path: Path) -> Iterator[Path]:
    """A directory with the files of the base in ``path``, but for those of an adapter beside it.

    ``from_pretrained`` of transformers puts an adapter that it finds beside a model on it, once more where
    it has been merged already.
    """
    if not (path / CONFIG_FILE).is_file():
        yield path
        return
    warnings.warn(f"base: {path}: the adapter beside the model is not used ({CONFIG_FILE})", stacklevel=3)
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch) / path.absolute().name  # code that comes with a model is kept by this name
        place.mkdir()
        for file in path.absolute().iterdir():
            if not file.name.startswith("adapter_"):
                (place / file.name).symlink_to(file)
        yield place


@contextmanager
def clear(path: Path, what: str = "") -> Iterator[None]:
    """One line for whatever a library raises over a broken model, which can be nearly anything.

    Args:
        path: of the base.
        what: which of its files; empty: the error itself must tell.
    """
    try:
        yield
    except BaseException as error:
        if isinstance(error, SpartaError) or not is_fault(error):
            raise
        name = f"{what} in {path}" if what else path
        advice = "; get a sound copy" if what else "; get a sound copy, or another base"
        if "trust_remote_code" in str(error):
            advice = "; it brings code of its own: set trust_remote_code to true if you trust it"
        raise SpartaError(f"base: {name} cannot be loaded: {reason(error)}{advice}") from error


def is_fault(error: BaseException) -> bool:
    """Whether it comes of a foreign file and not of the user: a panic in Rust is no ``Exception``."""
    return isinstance(error, Exception) or type(error).__name__ == "PanicException"


def reason(error: BaseException) -> str:
    """What a library says, for a message of one line."""
    lines = [line.strip() for line in str(error).strip().splitlines()]
    said = " ".join(lines[: 2 if lines and lines[0].endswith(":") else 1])
    return said[:160] or type(error).__name__
