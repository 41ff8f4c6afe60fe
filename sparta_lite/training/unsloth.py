"""Unsloth as a second view on the resident base: everything that this project calls of it.

Unsloth patches classes of transformers, PEFT and TRL for the whole process when it is imported and when
it loads a model. Its fused layers need what its own loader prepares, so the base has to come through
``load_model`` before anything else loads one. Our decoder reads the same tensors and runs a forward pass of
its own, which none of those patches touches. Nothing here is imported at the module's top: without a GPU
Unsloth refuses to be imported at all.
"""

from __future__ import annotations

import os
import sys
from contextlib import AbstractContextManager, redirect_stdout
from pathlib import Path
from typing import Any

from sparta_lite.engine.bank import Adapter
from sparta_lite.engine.base import Request
from sparta_lite.engine.loading import reason
from sparta_lite.engine.model import computes
from sparta_lite.engine.peft_io import scaling
from sparta_lite.engine.support import windows
from sparta_lite.errors import SpartaError

ARCHITECTURES = ("qwen2", "qwen3", "llama", "mistral")
"""What both Unsloth's fast path and our own decoder compute (``model_type`` in transformers)."""
_ROTARY = ("default", "llama3", "yarn")


def fast_language_model() -> Any:
    """Unsloth's ``FastLanguageModel``.

    Raises:
        SpartaError: it is not installed or broken, or there is no GPU.
    """
    # Both are read on import: no download that counts users, no folder of generated code in the user's own.
    os.environ.setdefault("UNSLOTH_DISABLE_STATISTICS", "1")
    os.environ.setdefault("UNSLOTH_COMPILE_LOCATION", str(Path.home() / ".cache" / "sparta-lite" / "unsloth"))
    try:
        with _aside():
            from unsloth import FastLanguageModel  # type: ignore[import-not-found]
    except NotImplementedError as error:
        raise SpartaError(
            "training.trainer: unsloth needs a GPU, and torch sees none; set the trainer to tribe"
        ) from error
    except Exception as error:  # made for another torch, CUDA or Triton: anything can come out of it
        raise SpartaError(
            f"training.trainer: unsloth cannot be imported ({type(error).__name__}); install it (pip install "
            "'sparta-lite[gpu]'), or set the trainer to tribe"
        ) from error
    return FastLanguageModel


def load_model(request: Request) -> Any:
    """The model through Unsloth: the very weights asked for, all on one device.

    Raises:
        SpartaError: Unsloth is missing, cannot load it, or would compute something else than we do.
    """
    try:
        with _aside():
            model, _ = fast_language_model().from_pretrained(
                str(request.path),
                max_seq_length=None,  # what the model was made for, so that its positions are not stretched
                dtype=request.dtype,
                load_in_4bit=request.four_bit,
                device_map={"": request.device},
                trust_remote_code=request.trust_remote_code,
                use_exact_model_name=True,  # else other weights under a similar name are taken
                fix_tokenizer=False,
                use_gradient_checkpointing=False,  # chosen per adapter
                offload_embedding=False,
                use_safetensors=True,
                local_files_only=True,
            )
    except SpartaError:
        raise
    except Exception as error:  # what can go wrong here is as wide as transformers
        place = request.source or request.path
        raise SpartaError(
            f"base: unsloth cannot load {place}: {reason(error)}; set training.trainer to tribe"
        ) from error
    rotary = (getattr(model.config, "rope_parameters", None) or {}).get("rope_type", "default")
    if rotary not in _ROTARY:
        raise SpartaError(
            f"base: with rotary positions of type {rotary!r} unsloth is not supported; set training.trainer "
            "to tribe"
        )
    if any(windows(model.config)) and model.config.model_type != "mistral":
        raise SpartaError("base: its windows are lost on unsloth's fast path; set training.trainer to tribe")
    if not computes(model.config):  # every pass would be Unsloth's, which knows of no batch of ours
        raise SpartaError(
            f"base: with the activation {model.config.hidden_act!r} unsloth is not supported; set "
            "training.trainer to tribe"
        )
    return model


def wrap_with_unsloth(model: Any, adapter: Adapter, checkpointing: bool) -> Any:
    """Unsloth's fused layers around the base's linear layers, whose tensors they read."""
    with _aside():
        return fast_language_model().get_peft_model(
            model,
            **scaling(adapter),
            target_modules=[target.rpartition(".")[2] for target in adapter.targets],
            lora_dropout=0.0,
            bias="none",
            use_gradient_checkpointing="unsloth" if checkpointing else False,
        )


def _aside() -> AbstractContextManager[object]:
    """Unsloth greets and warns on the standard output, which is for a run's own lines."""
    return redirect_stdout(sys.stderr)
