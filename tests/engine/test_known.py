"""Shipped numbers of bases and adapters: as many parameters as the model cards say, and no hub asked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

from sparta_lite.engine import known
from sparta_lite.engine.known import BASES, TULU_ADAPTERS, shipped_adapter, shipped_base
from sparta_lite.engine.shape import adapter_parameters, read_shape

CARDS = {  # billions of parameters; of Qwen3.5 the text model's, as llama.cpp counts them in GGUF files
    "Qwen2.5-0.5B": 0.49,
    "Qwen2.5-1.5B": 1.54,
    "Qwen2.5-3B": 3.09,
    "Qwen2.5-7B": 7.62,  # the card cuts 7.6156 to 7.61
    "Qwen2.5-14B": 14.77,
    "Qwen2.5-32B": 32.76,
    "Qwen2.5-72B": 72.71,
    "Qwen3-0.6B": 0.60,
    "Qwen3-1.7B": 1.72,
    "Qwen3-4B": 4.02,
    "Qwen3-8B": 8.19,
    "Qwen3-14B": 14.77,
    "Qwen3-32B": 32.76,
    "Qwen3.5-0.8B": 0.75,
    "Qwen3.5-2B": 1.88,
    "Qwen3.5-4B": 4.21,
    "Qwen3.5-9B": 8.95,
    "Qwen3.5-27B": 26.90,
}


@pytest.fixture(autouse=True)
def no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known, "cached", lambda repository, name: False)

    def asked(*args: Any, **kwargs: Any) -> str:
        raise AssertionError("the hub was asked")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", asked)


@pytest.mark.parametrize("name", CARDS)
def test_a_base_has_as_many_parameters_as_its_card_says(name: str) -> None:
    directory = shipped_base(f"Qwen/{name}")
    assert directory is not None
    shape = read_shape(directory)
    assert shape.parameters / 1e9 == pytest.approx(CARDS[name], abs=0.006)


def test_versions_of_a_size_differ_in_their_context_alone() -> None:
    for repository, numbers in BASES.items():
        size = repository.removesuffix("-Instruct").removesuffix("-Base").replace("-Coder", "")
        assert {**numbers, "max_position_embeddings": 0} == {**BASES[size], "max_position_embeddings": 0}
    assert BASES["Qwen/Qwen2.5-7B-Instruct"]["max_position_embeddings"] == 32768
    assert BASES["Qwen/Qwen3-8B-Base"]["max_position_embeddings"] == 32768
    assert BASES["Qwen/Qwen3-8B"]["max_position_embeddings"] == 40960


def test_published_adapters_are_rank_64_on_attention_as_many_numbers_as_rank_16_on_all() -> None:
    base = shipped_base("Qwen/Qwen2.5-7B-Instruct")
    assert base is not None
    shape = read_shape(base)
    for repository in TULU_ADAPTERS.values():
        directory = shipped_adapter(repository)
        assert directory is not None
        settings = json.loads((directory / "adapter_config.json").read_text())
        adapter = (settings["r"], settings["target_modules"])
        assert adapter_parameters(shape, [adapter]) == adapter_parameters(shape, [(16, "all-linear")])


def test_what_the_cache_holds_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known, "cached", lambda repository, name: True)
    assert shipped_base("Qwen/Qwen2.5-7B-Instruct") is None
    assert shipped_adapter("bunsenfeng/yuru_qw_cot") is None


def test_what_is_not_known_is_not_made_up() -> None:
    assert shipped_base("Qwen/Qwen2.5-8B") is None
    assert shipped_base("meta-llama/Llama-3.1-8B") is None
    assert shipped_adapter("bunsenfeng/yuru_qw_dolly") is None
    assert not Path("Qwen").exists()
