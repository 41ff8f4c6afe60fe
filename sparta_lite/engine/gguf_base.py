"""A base in llama.cpp's GGUF form, unpacked once into a model directory of transformers."""

from __future__ import annotations

import copy
import hashlib
import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sparta_lite.errors import SpartaError
from sparta_lite.files import clear_errors, sync, write_json

_FORM = 1
"""Version of what ``unpack`` writes; directories of another one are not used any more."""
_PART = re.compile(r"-\d{5}-of-\d{5}\.gguf$")
_CONTROL = 3
"""``tokenizer.ggml.token_type`` of a special token."""


def gguf_file(source: str | Path) -> Path | None:
    """The GGUF file that ``source`` names; None where it names a model in another form.

    Args:
        source: a ``.gguf`` file, a directory that holds one and no ``config.json``, or
            ``owner/name:file.gguf`` on the hub.

    Raises:
        SpartaError: the file does not exist, or a directory holds several.
    """
    path = Path(source)
    if path.is_dir():
        found = [] if (path / "config.json").exists() else sorted(path.glob("*.gguf"))
        if len(found) > 1:
            names = ", ".join(each.name for each in found[:3])
            raise SpartaError(
                f"base: {path} holds {len(found)} GGUF files ({names}); name one of them, "
                "merged by `llama-gguf-split --merge` where they are parts"
            )
        return found[0] if found else None
    if path.suffix != ".gguf":
        return None
    repository, colon, name = str(source).rpartition(":")
    if colon and not path.exists():
        from sparta_lite.engine.hub import download

        path = download(repository, (name,)) / name
    if not path.is_file():
        raise SpartaError(f"base: {source}: no such file; give the path of a .gguf file")
    return path


def unpack(file: Path) -> Path:
    """The model directory of a GGUF file, with its weights in float32; made when it is first asked for.

    It stands under ``HF_HOME`` by the hash of the file. Tokenizer, template and the ids of special
    tokens are those of the file's metadata.

    Raises:
        SpartaError: it is not a whole GGUF file, a part of one, of an architecture that transformers
            cannot read, without a chat template, or with rotary positions that are not known.
    """
    from huggingface_hub.constants import HF_HOME

    with clear_errors(file), file.open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()  # type: ignore[attr-defined, unused-ignore]
    place = Path(HF_HOME) / "sparta-lite" / f"gguf-{_FORM}-{digest[:32]}"
    if place.is_dir():
        return place
    with clear_errors(place):
        place.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{place.name}.", dir=place.parent))
    try:
        _write(file, partial)
        with clear_errors(place):
            sync(partial)
            if not place.is_dir():  # another process may have been faster
                partial.rename(place)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return place


def _write(file: Path, out: Path) -> None:
    facts = _metadata(file)
    import torch
    from huggingface_hub import save_torch_model
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

    try:
        tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
        model = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    except Exception as error:  # transformers raises nearly anything over a file that it cannot read
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise SpartaError(f"base: {file} cannot be read as GGUF: {reason[:160]}; get a whole copy") from error
    ids = _special_ids(facts)
    _correct_tokenizer(tokenizer, facts, ids, file)
    rotary = _rotary(facts, model.config, file)
    config = model.config.to_dict()
    config.pop("quantization_config", None)
    config.pop("_name_or_path", None)
    config |= ids | {"dtype": "float32"} | ({"rope_parameters": rotary} if rotary else {})
    with clear_errors(out):
        save_torch_model(model, out)
        tokenizer.save_pretrained(out)
        GenerationConfig(**ids).save_pretrained(out)
    write_json(out / "config.json", {"architectures": [type(model).__name__], **config})


def _metadata(file: Path) -> Mapping[str, Any]:
    """The metadata of a GGUF file, and which of the tensors are there, under ``tensors``.

    Raises:
        SpartaError: see ``unpack``.
    """
    try:
        from gguf import GGUFReader
    except ImportError as error:
        raise SpartaError(
            "base: a GGUF file needs the package gguf; pip install 'sparta-lite[gguf]'"
        ) from error
    try:
        reader = GGUFReader(file)
        facts = {name: field.contents() for name, field in reader.fields.items()}
        facts["tensors"] = {tensor.name: tensor for tensor in reader.tensors}
    except Exception as error:  # numpy, struct and the reader each complain in their own way
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise SpartaError(f"base: {file} is not a whole GGUF file ({reason[:160]}); get it again") from error
    if int(facts.get("split.count", 1)) > 1 or _PART.search(file.name):
        raise SpartaError(
            f"base: {file} is one part of several; merge them with `llama-gguf-split --merge` first"
        )
    from transformers.modeling_gguf_pytorch_utils import GGUF_SUPPORTED_ARCHITECTURES

    architecture = facts.get("general.architecture")
    if architecture not in GGUF_SUPPORTED_ARCHITECTURES:
        raise SpartaError(
            f"base: {file} is of the architecture {str(architecture)[:40]!r}, which transformers cannot "
            "read from GGUF; give the model in transformers' form"
        )
    if not facts.get("tokenizer.chat_template"):
        raise SpartaError(f"base: {file} has no chat template; use the GGUF of an instruction-tuned model")
    return facts


def _special_ids(facts: Mapping[str, Any]) -> dict[str, int]:
    names = {"bos_token_id": "bos", "eos_token_id": "eos", "pad_token_id": "padding"}
    found = {name: facts.get(f"tokenizer.ggml.{short}_token_id") for name, short in names.items()}
    return {name: int(value) for name, value in found.items() if value is not None}


def _correct_tokenizer(tokenizer: Any, facts: Mapping[str, Any], ids: Mapping[str, int], file: Path) -> None:
    """Make transformers' tokenizer of a GGUF file say what the file says.

    transformers 5.17 leaves the class's own end of turn in place, whatever the file's metadata names.

    Raises:
        SpartaError: it numbers tokens otherwise than the file.
    """
    from tokenizers import AddedToken

    tokens = facts["tokenizer.ggml.tokens"]
    kinds = facts.get("tokenizer.ggml.token_type") or []
    special = [text for text, kind in zip(tokens, kinds, strict=False) if kind == _CONTROL]
    known = set(tokenizer.added_tokens_decoder)
    tokenizer.add_special_tokens(
        {
            "additional_special_tokens": [
                AddedToken(text, special=True, normalized=False)
                for text in special
                if tokenizer.convert_tokens_to_ids(text) not in known
            ]
        }
    )
    for name, number in ids.items():
        setattr(tokenizer, name.removesuffix("_id"), tokens[number])
    tokenizer.chat_template = facts["tokenizer.chat_template"]
    vocabulary = tokenizer.get_vocab()
    moved = [text for number, text in enumerate(tokens) if vocabulary.get(text) != number]
    if moved:
        raise SpartaError(
            f"base: {file}: transformers numbers {len(moved)} of its tokens otherwise than the file, such as "
            f"{moved[0][:20]!r}; give the model in transformers' form"
        )


def _rotary(facts: Mapping[str, Any], config: Any, file: Path) -> dict[str, Any] | None:
    """Scaling of rotary positions, which transformers 5.17 leaves out when it reads most architectures.

    Raises:
        SpartaError: it is of a kind that is not known here.
    """
    architecture = facts["general.architecture"]
    prefix = f"{architecture}.rope.scaling."
    scaling = {name.removeprefix(prefix): value for name, value in facts.items() if name.startswith(prefix)}
    kind = scaling.get("type", "none")
    base = dict(config.rope_parameters or {})
    if "rope_freqs.weight" in facts["tensors"]:
        return _llama3(facts, config, file)
    if any(name.startswith("rope_factors_") for name in facts["tensors"]):
        kind = "longrope"
    if kind == "none" or base.get("rope_type", "default") != "default":
        return None
    if kind == "linear":
        return base | {"rope_type": "linear", "factor": float(scaling["factor"])}
    if kind == "yarn":
        length = scaling.get("original_context_length")
        found = {"rope_type": "yarn", "factor": float(scaling["factor"])}
        return base | found | ({"original_max_position_embeddings": int(length)} if length else {})
    raise SpartaError(
        f"base: {file}: rotary positions scaled by {str(kind)[:40]!r} are not supported; use a base with "
        "default, linear, yarn or llama3 ones"
    )


def _llama3(facts: Mapping[str, Any], config: Any, file: Path) -> dict[str, Any]:
    """The published Llama 3 scaling behind a tensor of divisors, one per frequency.

    Raises:
        SpartaError: the divisors are not those of this scaling.
    """
    import torch
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    divisors = torch.from_numpy(facts["tensors"]["rope_freqs.weight"].data.copy()).float()
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
            f"base: {file}: its rope_freqs are not those of Llama 3's scaling; give the model in "
            "transformers' form"
        )
    return scaled
