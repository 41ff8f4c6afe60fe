"""A base in llama.cpp's GGUF form: which file a source names, and what its metadata says."""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparta_lite.errors import SpartaError, shown
from sparta_lite.files import clear_errors

HUB_FILE = re.compile(r"(\w[\w.-]*/[\w.-]*\w):([^:]+\.gguf)", re.IGNORECASE)
"""``owner/name:file.gguf``, a file of a hub repository."""
_MAGIC = b"GGUF"
_PART = re.compile(r"-\d{5}-of-\d{5}\.gguf$", re.IGNORECASE)
_OTHERWISE = "give the model in transformers' form"


@dataclass(frozen=True)
class Gguf:
    """What a GGUF file says of itself; its tensors stay on the disk."""

    path: Path
    fields: Mapping[str, Any]
    tensors: Mapping[str, Any]
    """Name -> ``gguf.ReaderTensor``."""

    @property
    def architecture(self) -> str:
        return str(self.fields["general.architecture"])

    def own(self, key: str) -> Any:
        """A field of its architecture, such as ``attention.key_length``; None: there is none."""
        return self.fields.get(f"{self.architecture}.{key}")

    def token(self, name: str) -> int | None:
        """The id of a special token, such as ``eos``; None: there is none.

        Raises:
            SpartaError: it is no token.
        """
        value = self.fields.get(f"tokenizer.ggml.{name}_token_id")
        if value is None:
            return None
        number, size = int(value), len(self.fields["tokenizer.ggml.tokens"])
        if not 0 <= number < size:
            raise SpartaError(
                f"base: {self.path}: {name}_token_id is {number} of {size} tokens; {_OTHERWISE}"
            )
        return number

    @property
    def numbers(self) -> int:
        """How many its tensors have."""
        return sum(int(each.n_elements) for each in self.tensors.values())


def gguf_file(source: str | Path) -> Path | None:
    """The GGUF file that ``source`` names; None where it names a model in another form.

    Args:
        source: a file, a directory with one ``.gguf`` and no safetensors, or ``owner/name:file.gguf`` on
            the hub.

    Raises:
        SpartaError: the file does not exist, or a directory holds several.
    """
    path = Path(source)
    if path.is_dir():
        return _only_one(path)
    if path.is_file():
        return path
    if on_hub := HUB_FILE.fullmatch(str(source)):
        from sparta_lite.engine.hub import download

        repository, name = on_hub.groups()
        path = download(repository, (name,)) / name
        if not path.is_file():
            raise SpartaError(f"base: {repository} has no file {shown(name)}; name one that it has")
        return path
    if path.suffix.lower() == ".gguf":
        raise SpartaError(
            f"base: {source}: no such file; give the path of a .gguf file, or owner/name:file.gguf"
        )
    return None


def _only_one(directory: Path) -> Path | None:
    found = sorted(path for path in directory.iterdir() if path.suffix.lower() == ".gguf")
    if not found or any(directory.glob("*.safetensors")):
        return None
    if len(found) > 1:
        names = ", ".join(each.name for each in found[:3])
        parts = all(map(_PART.search, map(str, found)))
        raise SpartaError(
            f"base: {directory} holds {len(found)} GGUF files ({names}); "
            + ("merge them with `llama-gguf-split --merge` first" if parts else "name one of them")
        )
    return found[0]


def file_hash(file: Path) -> str:
    """SHA-256 of a file; read once in a process, while it stays as it is.

    Raises:
        SpartaError: it cannot be read.
    """
    with clear_errors(file):
        found = file.stat()
        return _hash(file, found.st_ino, found.st_size, found.st_mtime_ns)


@functools.lru_cache(maxsize=8)
def _hash(file: Path, *_: int) -> str:
    sha = hashlib.sha256()
    with file.open("rb") as opened:
        while block := opened.read(1 << 22):
            sha.update(block)
    return sha.hexdigest()


def require_gguf(file: Path) -> None:
    """Refuse what is no GGUF file, or a part of one, by its name and its first bytes.

    Raises:
        SpartaError: it is not.
    """
    with clear_errors(file), file.open("rb") as opened:
        magic = opened.read(len(_MAGIC))
    if magic != _MAGIC:
        raise SpartaError(
            f"base: {file} is not a GGUF file; give one, or a directory with a model in transformers' form"
        )
    if _PART.search(file.name):
        raise SpartaError(
            f"base: {file} is one part of several; merge them with `llama-gguf-split --merge` first"
        )


def read_gguf(file: Path) -> Gguf:
    """The metadata of a whole GGUF file of a model that can be talked to.

    Raises:
        SpartaError: it is not a whole GGUF file, a part of one, no language model, of an architecture that
            transformers cannot read, or without a chat template; or the package gguf is missing.
    """
    require_gguf(file)
    found = file.stat()
    return _read(file, found.st_ino, found.st_size, found.st_mtime_ns)


@functools.lru_cache(maxsize=1)
def _read(file: Path, *_: int) -> Gguf:
    try:
        from gguf import GGUFReader
    except ImportError as error:
        raise SpartaError(
            "base: a GGUF file needs the package gguf; pip install 'sparta-lite[gguf]'"
        ) from error
    try:
        reader = GGUFReader(file)
        fields = {name: field.contents() for name, field in reader.fields.items()}
        tensors = {tensor.name: tensor for tensor in reader.tensors}
    except Exception as error:  # numpy, struct and the reader each complain in their own way
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise SpartaError(f"base: {file} is not a whole GGUF file ({reason[:100]}); get it again") from error
    _require_model(file, fields)
    return Gguf(file, fields, tensors)


def _require_model(file: Path, fields: Mapping[str, Any]) -> None:
    from transformers.modeling_gguf_pytorch_utils import GGUF_SUPPORTED_ARCHITECTURES

    if int(fields.get("split.count", 1)) > 1:
        raise SpartaError(
            f"base: {file} is one part of several; merge them with `llama-gguf-split --merge` first"
        )
    kind = fields.get("general.type", "model")
    if kind != "model":
        raise SpartaError(f"base: {file} holds no model but {shown(kind)}; give the file of the model itself")
    architecture = fields.get("general.architecture")
    if architecture not in GGUF_SUPPORTED_ARCHITECTURES:
        raise SpartaError(
            f"base: {file} is of the architecture {shown(architecture)}, which transformers cannot read from "
            f"GGUF; {_OTHERWISE}"
        )
    template = fields.get("tokenizer.chat_template")
    if not isinstance(template, str) or not template:
        raise SpartaError(f"base: {file} has no chat template; use the GGUF of an instruction-tuned model")
    if not fields.get("tokenizer.ggml.tokens"):
        raise SpartaError(f"base: {file} has no vocabulary (tokenizer.ggml.tokens); {_OTHERWISE}")
