"""A base in GGUF form, unpacked once into a model directory of transformers."""

from __future__ import annotations

import copy
import fcntl
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sparta_lite.engine.gguf_file import Gguf, file_hash, read_gguf, require_gguf
from sparta_lite.errors import SpartaError, shortened, shown
from sparta_lite.files import clear_errors, read_json, sync, write_json

_FORM = 2
"""Version of what ``unpack`` writes; directories of another one are not used any more."""
_RECORD = "gguf.json"
"""Stands in an unpacked model: what it was made from, and how large its files are."""
_ENDS = ("eos", "eot", "eom")
_BESIDE = 50 * 10**6  # bytes of tokenizer and configuration, at most


def unpacked() -> list[Path]:
    """The models that stand unpacked on this machine."""
    return sorted(path.parent for path in _root().glob(f"gguf-*/{_RECORD}"))


def describe(file: Path) -> Path:
    """A directory with the ``config.json`` of a GGUF file's model alone; no weights are read.

    Raises:
        SpartaError: see ``unpack``.
    """
    require_gguf(file)
    place = _place(file)
    if _is_whole(place):
        return place
    place = place.with_name(f"{place.name}.config")
    if not (place / "config.json").is_file():
        gguf = read_gguf(file)
        _tokenizer(gguf)
        write_json(place / "config.json", _config(gguf).to_dict())
    return place


def unpack(file: Path) -> Path:
    """The model directory of a GGUF file, with its weights in float32; made when it is first asked for.

    It stands under ``HF_HOME`` by the hash of the file. Tokenizer, template and the ids of special
    tokens are those of the file's metadata.

    Raises:
        SpartaError: it is not a whole GGUF file, a part of one, of an architecture that transformers
            cannot read, without a chat template, with a tokenizer or rotary positions that are not known,
            or there is no room for it.
    """
    require_gguf(file)
    place = _place(file)
    if _is_whole(place):
        return place
    gguf = read_gguf(file)
    partial = place.with_name(f".{place.name}.partial")
    with clear_errors(place):
        place.parent.mkdir(parents=True, exist_ok=True)
        # Whoever held the lock and was killed has let go of it, and left the partial directory.
        with place.with_name(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if _is_whole(place):  # another process has made it meanwhile
                return place
            shutil.rmtree(partial, ignore_errors=True)
            _require_room(gguf, place)
            try:
                partial.mkdir()
                _write(gguf, partial)
                shutil.rmtree(place, ignore_errors=True)
                partial.rename(place)
                sync(place.parent)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
    shutil.rmtree(place.with_name(f"{place.name}.config"), ignore_errors=True)
    return place


def _root() -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_HOME) / "sparta-lite"


def _place(file: Path) -> Path:
    return _root() / f"gguf-{_FORM}-{file_hash(file)[:32]}"


def _is_whole(place: Path) -> bool:
    """Whether all that was unpacked still stands there: people and programs clear caches."""
    if not (place / _RECORD).is_file():
        return False
    sizes = read_json(place / _RECORD, ("files",))["files"]
    return all((place / name).is_file() and (place / name).stat().st_size == sizes[name] for name in sizes)


def _require_room(gguf: Gguf, place: Path) -> None:
    needed, free = 4 * gguf.numbers + _BESIDE, shutil.disk_usage(place.parent).free
    if free < needed:
        raise SpartaError(
            f"base: {gguf.path} takes {needed / 1e9:.1f} GB unpacked, {place.parent} has {free / 1e9:.1f}; "
            "free some space or set HF_HOME to a directory on another disk"
        )
    print(
        f"unpacking {gguf.path.name} into {place}: {needed / 1e9:.1f} GB, once, a minute or so for 0.5 GB",
        file=sys.stderr,
        flush=True,
    )


def _write(gguf: Gguf, out: Path) -> None:
    from safetensors.torch import save_file
    from transformers import GenerationConfig

    tokenizer, config = _tokenizer(gguf), _config(gguf)
    model = _model(gguf, config)
    try:
        # One line of metadata: several stand in an order of chance, and the file is to have one hash.
        save_file(_weights(model), out / "model.safetensors", {"format": "pt"})
        tokenizer.save_pretrained(out)
        ends = [token for name in _ENDS if (token := gguf.token(name)) is not None]
        ids = {name: getattr(config, name) for name in ("bos_token_id", "pad_token_id")}
        GenerationConfig(eos_token_id=list(dict.fromkeys(ends)) or None, **ids).save_pretrained(out)
    except OSError:
        raise
    except Exception as error:  # safetensors has an error of its own for a full disk
        raise SpartaError(
            f"{out}: cannot be written ({str(error)[:100]}); free some space or set HF_HOME to another disk"
        ) from error
    write_json(out / "config.json", config.to_dict() | {"architectures": [type(model).__name__]})
    for path in out.iterdir():
        sync(path)
    sizes = {path.name: path.stat().st_size for path in sorted(out.iterdir())}
    name = shortened(str(gguf.fields.get("general.name", gguf.path.stem)), 100)
    write_json(out / _RECORD, {"sha256": file_hash(gguf.path), "name": name, "files": sizes})


def _weights(model: Any) -> dict[str, Any]:
    """Each once: of tied ones the first."""
    found: dict[int, str] = {}
    state: dict[str, Any] = model.state_dict()
    for name, weight in state.items():
        found.setdefault(weight.data_ptr(), name)
    return {name: state[name].contiguous() for name in found.values()}


def _model(gguf: Gguf, config: Any) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    file = gguf.path
    try:
        model, report = AutoModelForCausalLM.from_pretrained(
            file.parent, gguf_file=file.name, config=config, dtype=torch.float32, output_loading_info=True
        )
    except Exception as error:  # transformers raises nearly anything over a file that it cannot read
        raise SpartaError(f"base: {file} cannot be read as GGUF: {_reason(error)}; get it again") from error
    missing: Sequence[str] = sorted(report["missing_keys"])
    if missing:
        raise SpartaError(
            f"base: {file} lacks weights that its architecture has: {', '.join(missing[:2])}; get it again"
        )
    return model


def _tokenizer(gguf: Gguf) -> Any:
    from sparta_lite.engine.gguf_tokenizer import tokenizer_of

    return tokenizer_of(gguf)


def _config(gguf: Gguf) -> Any:
    """The configuration of transformers, with what it leaves out of the file's metadata."""
    from transformers import AutoConfig

    file = gguf.path
    try:
        config = AutoConfig.from_pretrained(file.parent, gguf_file=file.name)
    except Exception as error:
        raise SpartaError(f"base: {file} cannot be read as GGUF: {_reason(error)}; get it again") from error
    names = {"bos_token_id": "bos", "eos_token_id": "eos", "pad_token_id": "padding"}
    for key, short in names.items():  # where the file names none transformers leaves those of its class
        setattr(config, key, gguf.token(short))
    width = gguf.own("attention.key_length")
    if width is not None and hasattr(config, "head_dim"):
        config.head_dim = int(width)
    if rotary := _rotary(gguf, config):
        config.rope_parameters = rotary
    config.dtype = "float32"
    config.name_or_path = ""
    return config


def _reason(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:120] or type(error).__name__


def _rotary(gguf: Gguf, config: Any) -> dict[str, Any] | None:
    """Scaling of rotary positions, which transformers 5.17 leaves out when it reads most architectures.

    Raises:
        SpartaError: it is of a kind that is not known here.
    """
    kind = gguf.own("rope.scaling.type") or "none"
    base = dict(config.rope_parameters or {})
    if "rope_freqs.weight" in gguf.tensors:
        return _llama3(gguf, config)
    if any(name.startswith("rope_factors_") for name in gguf.tensors):
        kind = "longrope"
    if kind == "none" or base.get("rope_type", "default") != "default":
        return None
    if kind == "linear":
        return base | {"rope_type": "linear", "factor": _factor(gguf)}
    if kind == "yarn":
        length = gguf.own("rope.scaling.original_context_length")
        found = {"rope_type": "yarn", "factor": _factor(gguf)}
        return base | found | ({"original_max_position_embeddings": int(length)} if length else {})
    raise SpartaError(
        f"base: {gguf.path}: rotary positions scaled by {shown(kind)} are not supported; use a base with "
        "default, linear, yarn or llama3 ones"
    )


def _factor(gguf: Gguf) -> float:
    factor = gguf.own("rope.scaling.factor")
    if factor is None:
        raise SpartaError(f"base: {gguf.path}: its rotary positions lack rope.scaling.factor; get it again")
    return float(factor)


def _llama3(gguf: Gguf, config: Any) -> dict[str, Any]:
    """The published Llama 3 scaling behind a tensor of divisors, one per frequency.

    Raises:
        SpartaError: the divisors are not those of this scaling.
    """
    import torch
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    divisors = torch.from_numpy(gguf.tensors["rope_freqs.weight"].data.copy()).float()
    plain = {**config.rope_parameters, "rope_type": "default"}
    scaled = plain | {
        "rope_type": "llama3",
        "factor": float(divisors.max()),
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    asked = copy.deepcopy(config)
    asked.rope_parameters = scaled
    found, _ = ROPE_INIT_FUNCTIONS["llama3"](asked, torch.device("cpu"))
    steps = torch.arange(0, 2 * len(divisors), 2) / (2 * len(divisors))
    expected = plain["rope_theta"] ** -steps / divisors
    if found.shape != expected.shape or not torch.allclose(found, expected, rtol=1e-3):
        raise SpartaError(
            f"base: {gguf.path}: its rope_freqs are not those of Llama 3's scaling; give the model in "
            "transformers' form"
        )
    return scaled
