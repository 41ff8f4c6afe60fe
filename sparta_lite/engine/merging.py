"""An adapter added into the weights of its base."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from peft import LoraConfig, get_peft_model, set_peft_model_state_dict
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from sparta_lite.engine.base import TOKENIZER, stored_in_four_bit
from sparta_lite.engine.ending import name_ending
from sparta_lite.engine.hub import BASE_FILES, CODE, base_directory, read_object
from sparta_lite.engine.loading import clear, is_fault, reason, require_floats, require_model, without_adapter
from sparta_lite.engine.peft_io import AdapterFile, read_adapter, scaling
from sparta_lite.errors import SpartaError
from sparta_lite.files import write_json

_GENERATION = "generation_config.json"


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
    file = read_adapter(adapter.name, adapter)
    path = base_directory(source, (*BASE_FILES, *CODE) if trust_remote_code else BASE_FILES)
    where = {"trust_remote_code": trust_remote_code, "local_files_only": True}
    require_model(path)
    with without_adapter(path) as place:
        with clear(path, "config.json"):
            config = AutoConfig.from_pretrained(place, **where)
        if stored_in_four_bit(config):
            raise SpartaError(
                f"base: {source} is stored in 4 bits, and nothing is merged into those; give the unquantised "
                "one with --base, or export as peft"
            )
        require_floats(path, config)
        with clear(path):
            model = AutoModelForCausalLM.from_pretrained(place, dtype="auto", use_safetensors=True, **where)
        with clear(path, TOKENIZER):
            tokenizer = AutoTokenizer.from_pretrained(place, **where)
        try:
            merged = _merge(model, adapter, file)
        except BaseException as error:
            if isinstance(error, SpartaError) or not is_fault(error):
                raise
            raise SpartaError(f"base: {source} cannot take the adapter {adapter}: {reason(error)}") from error
        name_ending(merged, tokenizer)
        _save(merged, path, out)
        tokenizer.save_pretrained(out)


def _merge(model: Any, adapter: Path, file: AdapterFile) -> Any:
    # Named one by one, modules are found without any expression that came with the adapter.
    targets = [f"model.{module}" for module in file.weights]
    config = LoraConfig(task_type="CAUSAL_LM", target_modules=targets, **scaling(file.adapter))
    known = {name for name, _ in model.named_modules()}
    for module in file.weights:
        if f"model.{module}" not in known:
            raise SpartaError(f"adapter {adapter}: the base has no {module}; give the base it was made for")
    adapted = get_peft_model(model, config)
    tensors = {
        f"base_model.model.model.{module}.lora_{side}.weight": tensor
        for module, pair in file.weights.items()
        for side, tensor in zip("AB", pair, strict=True)
    }
    set_peft_model_state_dict(adapted, tensors)
    return adapted.merge_and_unload(safe_merge=True)


def _save(merged: Any, path: Path, out: Path) -> None:
    """Write the model with the generation settings that stand in ``path``: transformers loads many that it
    refuses to save, such as a temperature beside ``do_sample: false``."""
    own, merged.generation_config = merged.generation_config, GenerationConfig()
    merged.save_pretrained(out)
    if not (path / _GENERATION).is_file():
        own.to_json_file(out / _GENERATION)
        return
    stored = read_object(path / _GENERATION, f"base: {path}")
    if stored.get("eos_token_id") == own.eos_token_id:
        shutil.copyfile(path / _GENERATION, out / _GENERATION)
    else:
        write_json(out / _GENERATION, stored | {"eos_token_id": own.eos_token_id})
