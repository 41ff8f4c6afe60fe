"""The resident base: one model and its tokenizer, loaded once.

transformers takes seconds to import and is imported by what loads; its types are needed by nobody.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch

from sparta_lite.engine import hybrid
from sparta_lite.engine.ending import Ending, learn_ending, notices, stops
from sparta_lite.engine.hub import BASE_FILES, CODE, base_directory
from sparta_lite.engine.loading import clear, require_floats, require_model, without_adapter
from sparta_lite.engine.model import Decoder, FusedDecoder, computes
from sparta_lite.engine.shape import UNPACKED
from sparta_lite.engine.support import HYBRIDS, require_supported
from sparta_lite.engine.template import Template
from sparta_lite.engine.unpacking import unpack_matrices
from sparta_lite.engine.warm import Warm
from sparta_lite.errors import SpartaError

Quantization = Literal["nf4", "none"]
TOKENIZER = "the tokenizer (tokenizer.json, tokenizer_config.json)"
"""How errors name it."""


@dataclass(frozen=True)
class Base:
    """A loaded base. ``decoder`` and ``model`` are two views of the same weights."""

    name: str
    model: Any
    """The transformers model, frozen."""
    tokenizer: Any
    decoder: Decoder
    stops: frozenset[int]
    """What ends an answer: the end of turn that the chat template writes, and what configuration and
    tokenizer name."""
    context: int
    """The longest sequence that the model was made for, in tokens."""
    four_bit: bool = False
    """Whether its linear layers are in bitsandbytes' 4 bits."""
    unpacked: bool = False
    """Whether they were, and are now held as what these stand for."""
    ending: Ending = field(default_factory=Ending)
    """How the chat template itself ends an answer."""
    notices: tuple[str, ...] = ()
    """What people should hear of it, once."""
    warm: Warm = field(default_factory=Warm, compare=False, repr=False)
    """What one call of ``generate`` leaves for the next."""

    @cached_property
    def vocabulary(self) -> int:
        """Token ids from here on are in no text: rows that pad the embedding to a round size."""
        highest: int = max(*self.tokenizer.get_vocab().values(), *self.stops)
        return highest + 1


@dataclass(frozen=True)
class Request:
    """What a loader is asked for."""

    path: Path
    device: torch.device
    dtype: torch.dtype
    four_bit: bool
    trust_remote_code: bool
    stored: bool = False
    """Whether the checkpoint is in 4 bits already."""
    source: Path | None = None
    """How errors name it, where that is not ``path``."""


Loader = Callable[[Request], Any]
"""Gives the model."""


def load_base(
    source: str | Path,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    quantization: Quantization = "none",
    trust_remote_code: bool = False,
    loader: Loader | None = None,
    unpack: bool = False,
) -> Base:
    """Load a model in transformers' form, safetensors only, or in GGUF form.

    Args:
        source: a directory, the id of a hub repository, or a GGUF file.
        device: where it stays.
        dtype: what it computes in, and of all weights that are not in 4 bits.
        quantization: ``nf4`` holds linear layers in 4 bits, doubly quantised (Dettmers et al. 2023). A
            checkpoint that is already in bitsandbytes' 4 bits is loaded as it is.
        trust_remote_code: run Python code that comes with the model.
        loader: what loads the model; transformers, unless a trainer brings its own.
        unpack: hold what 4 bits stand for in ``dtype``, matrix by matrix; without any it does nothing.

    Raises:
        SpartaError: the directory is missing or incomplete, the weights are not safetensors, hold
            NaN, or do not fit the configuration, the architecture is not supported, or the tokenizer is
            missing or has no chat template, or one that does not come to an end.
    """
    from transformers import AutoConfig

    path = base_directory(source, (*BASE_FILES, *CODE) if trust_remote_code else BASE_FILES)
    require_model(path)
    with clear(path, "config.json"):
        config = AutoConfig.from_pretrained(path, trust_remote_code=trust_remote_code, local_files_only=True)
    require_supported(config)
    stored = stored_in_four_bit(config)
    four_bit = stored or quantization == "nf4"
    if not stored:
        require_floats(path, config)
    tokenizer = _load_tokenizer(path, trust_remote_code)
    ending = learn_ending(Template(tokenizer))
    with without_adapter(path) as place, clear(path):
        request = Request(place, device, dtype, four_bit, trust_remote_code, stored, path)
        model = (loader or _load)(request)
    _require_sound(model, path)
    _settle_four_bit(model, dtype)
    if four_bit and unpack:
        unpack_matrices(model, dtype)
    with clear(path, TOKENIZER):
        _require_embedded(tokenizer, model, path)
    model.requires_grad_(False).eval()
    return Base(
        name=str(source),
        model=model,
        tokenizer=tokenizer,
        decoder=_decoder(model),
        stops=stops(model, tokenizer, ending),
        context=int(model.config.max_position_embeddings),
        four_bit=four_bit and not unpack,
        unpacked=four_bit and unpack,
        ending=ending,
        notices=notices(model, tokenizer, ending),
    )


def stored_in_four_bit(config: Any) -> bool:
    """Whether a checkpoint with this transformers configuration is already in bitsandbytes' 4 bits.

    Raises:
        SpartaError: it is quantised in another way.
    """
    stored = getattr(config, "quantization_config", None)
    if stored is None:
        return False
    stored = stored if isinstance(stored, dict) else stored.to_dict()
    if not stored.get("load_in_4bit", stored.get("_load_in_4bit")):
        raise SpartaError(
            f"base: it is quantised in a way that is not supported ({stored.get('quant_method')}); "
            "give the unquantised checkpoint, or one in bitsandbytes' 4 bits"
        )
    return True


def _decoder(model: Any) -> Decoder:
    if hybrid.computes(model.config):
        return hybrid.HybridDecoder(model)
    if computes(model.config):
        return FusedDecoder(model)
    from sparta_lite.engine.wrapped import WrappedDecoder

    return WrappedDecoder(model)


def _load(request: Request) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM, BitsAndBytesConfig

    path, source = request.path, request.source or request.path
    with clear(source):
        config = AutoConfig.from_pretrained(
            path, trust_remote_code=request.trust_remote_code, local_files_only=True
        )
    hybrid_base = config.get_text_config().model_type in HYBRIDS
    nf4 = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=request.dtype,
        llm_int8_skip_modules=[*UNPACKED, "lm_head"] if hybrid_base else None,
    )
    with clear(source):
        # A checkpoint that is quantised already must not even hear None.
        quantization = {"quantization_config": nf4} if request.four_bit and not request.stored else {}
        model, report = AutoModelForCausalLM.from_pretrained(
            path,
            dtype=request.dtype,
            device_map={"": request.device},
            **quantization,
            use_safetensors=True,
            trust_remote_code=request.trust_remote_code,
            local_files_only=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
    missing = sorted(report["missing_keys"]) + sorted(key for key, *_ in report["mismatched_keys"])
    if missing:
        raise SpartaError(
            f"base: {source} lacks weights or has them in another shape: {', '.join(missing[:3])}; get a "
            "sound copy, or the config.json that belongs to it"
        )
    return model


def _load_tokenizer(path: Path, trust_remote_code: bool) -> Any:
    """The base's own, whoever loads the model: Unsloth's loader would mend its chat template."""
    from transformers import AutoTokenizer

    with clear(path, TOKENIZER):
        tokenizer = AutoTokenizer.from_pretrained(
            path, trust_remote_code=trust_remote_code, local_files_only=True
        )
        # Without its files transformers makes a tokenizer that knows no text at all.
        knows_nothing = tokenizer("1")["input_ids"] == tokenizer("2")["input_ids"]
    if knows_nothing:
        raise SpartaError(f"base: {path}: the tokenizer's files are missing; get a complete copy")
    if not tokenizer.chat_template:
        raise SpartaError(f"base: {path}: the tokenizer has no chat template; use an instruction-tuned model")
    return tokenizer


def _require_sound(model: Any, path: Path) -> None:
    for name, weight in model.named_parameters():
        state = getattr(weight, "quant_state", None)
        if state is None:
            sound = torch.isfinite(weight).all()
        elif state.nested:  # where there was a NaN the scales of a 4-bit weight are NaN
            sound = torch.isfinite(state.offset) & torch.isfinite(state.state2.absmax).all()
        else:
            sound = torch.isfinite(state.absmax).all()
        if not sound:
            raise SpartaError(f"base: {path}: the weight {name} holds NaN or infinity; get a sound copy")


def _settle_four_bit(model: Any, dtype: torch.dtype) -> None:
    """Keep bitsandbytes' layers from settling things on their first pass.

    Without gradients they would repack their weights for a CPU, after which these could be neither trained
    over nor dequantised; and a layer without a dtype would compute in that of its first input ever after.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
        if hasattr(module, "compute_type_is_set"):
            module.compute_dtype, module.compute_type_is_set = dtype, True


def _require_embedded(tokenizer: Any, model: Any, path: Path) -> None:
    highest, known = max(tokenizer.get_vocab().values()), model.get_input_embeddings().num_embeddings
    if highest >= known:
        raise SpartaError(
            f"base: {path}: the tokenizer has ids up to {highest}, the model {known} embeddings; "
            "get the tokenizer that it was trained with"
        )
