"""An adapter added into the weights of its base."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from peft import PeftModel
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from sparta_lite.engine.base import stored_in_four_bit
from sparta_lite.engine.ending import name_ending
from sparta_lite.engine.hub import BASE_FILES, CODE, local
from sparta_lite.engine.peft_io import read_adapter
from sparta_lite.errors import SpartaError


def merge_adapter(source: str, adapter: Path, out: Path, trust_remote_code: bool = False) -> None:
    """Write the base with an adapter merged into it, in the dtype that it is stored in, and its tokenizer.

    Its generation ends where the chat template ends an answer, also where the base does not name that token.

    Args:
        source: the unquantised base, a directory or hub id.
        adapter: a PEFT directory.
        out: where the model goes.
        trust_remote_code: run Python code that comes with the base.

    Raises:
        SpartaError: the base is quantised (rounding to 4 bits again would lose most of the adapter), cannot
            be loaded, or does not fit the adapter.
    """
    path = local(source, (*BASE_FILES, *CODE) if trust_remote_code else BASE_FILES)
    where = {"trust_remote_code": trust_remote_code, "local_files_only": True}
    try:
        if stored_in_four_bit(AutoConfig.from_pretrained(path, **where)):
            raise SpartaError(
                f"base: {source} is stored in 4 bits, and nothing is merged into those; give the unquantised "
                "one with --base, or export as peft"
            )
        model = AutoModelForCausalLM.from_pretrained(path, dtype="auto", use_safetensors=True, **where)
        tokenizer = AutoTokenizer.from_pretrained(path, **where)
        adapted = PeftModel.from_pretrained(model, str(adapter))
        _require_fitting(adapted, adapter)
        merged = adapted.merge_and_unload(safe_merge=True)
    except SpartaError:
        raise
    except Exception as error:  # transformers and PEFT raise nearly anything over what does not fit
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise SpartaError(f"base: {source} cannot take the adapter {adapter}: {reason}") from error
    name_ending(merged, tokenizer)
    merged.save_pretrained(out)
    tokenizer.save_pretrained(out)


def _require_fitting(adapted: Any, adapter: Path) -> None:
    """PEFT passes over weights that the model has no place for."""
    places = adapted.state_dict()
    for module in read_adapter(adapter.name, adapter).weights:
        if f"base_model.model.model.{module}.lora_A.default.weight" not in places:
            raise SpartaError(f"adapter {adapter}: the base has no {module}; give the base it was made for")
