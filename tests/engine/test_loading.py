"""A base's files as they come: an adapter beside the model, files of other kinds, 4 bits without a dtype."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from bitsandbytes.nn import Linear4bit
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from sparta_lite.engine import base as loading
from sparta_lite.engine.base import Base, Request, load_base
from sparta_lite.engine.gguf_lora import write_gguf_lora
from sparta_lite.engine.merging import merge_adapter
from sparta_lite.engine.sequences import WholeSequences
from sparta_lite.engine.shape import read_shape
from sparta_lite.errors import SpartaError

CPU = torch.device("cpu")
IDS = torch.arange(3, 40)[None]
GENERATION = {"eos_token_id": [256, 257], "do_sample": False, "temperature": 0.9, "top_p": 0.6}


def logits(base: Base) -> Tensor:
    with torch.no_grad():
        mixing = WholeSequences(base.decoder.mixers)
        hidden = base.decoder.hidden(IDS, torch.arange(IDS.shape[1])[None], mixing, None)
        return base.decoder.logits(hidden)


@pytest.fixture
def merged(base_path: Path, adapter_paths: dict[str, Path], tmp_path: Path) -> tuple[Path, Path]:
    """A base into which an adapter was merged, saved beside that adapter; and the same without it."""
    beside, alone = tmp_path / "beside", tmp_path / "alone"
    shutil.copytree(adapter_paths["ada"], beside)
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base_path), adapter_paths["ada"])
    model.merge_and_unload().save_pretrained(beside)
    for file in base_path.iterdir():
        if not (beside / file.name).exists():
            shutil.copy(file, beside)
    shutil.copytree(beside, alone, ignore=shutil.ignore_patterns("adapter_*"))
    return beside, alone


@pytest.mark.filterwarnings("ignore:base. .*the adapter beside the model is not used")
def test_a_base_is_what_it_is_without_the_adapter_beside_it(
    merged: tuple[Path, Path], adapter_paths: dict[str, Path], tmp_path: Path
) -> None:
    beside, alone = merged
    with pytest.warns(UserWarning, match="the adapter beside the model is not used"):
        base = load_base(beside, CPU)
    assert torch.equal(logits(base), logits(load_base(alone, CPU)))
    with torch.no_grad():
        twice = AutoModelForCausalLM.from_pretrained(beside)(IDS).logits
    assert (twice - logits(base)).abs().max() > 0.1  # what transformers makes of it
    assert torch.equal(
        logits(load_base(beside, CPU, quantization="nf4")), logits(load_base(alone, CPU, quantization="nf4"))
    )
    assert read_shape(beside) == read_shape(alone)

    asked: list[list[str]] = []

    def loader(request: Request) -> Any:
        """As Unsloth's, which refuses a directory that holds both."""
        asked.append(sorted(file.name for file in request.path.iterdir()))
        return loading._load(request)

    assert torch.equal(logits(load_base(beside, CPU, loader=loader)), logits(base))
    assert asked == [sorted(file.name for file in alone.iterdir())]

    for path in merged:
        merge_adapter(str(path), adapter_paths["ben"], tmp_path / f"{path.name}-merged")
        write_gguf_lora(str(path), "ben", adapter_paths["ben"], tmp_path / f"{path.name}.gguf")
    weights = [load_file(tmp_path / f"{path.name}-merged" / "model.safetensors") for path in merged]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
    assert (tmp_path / "beside.gguf").read_bytes() == (tmp_path / "alone.gguf").read_bytes()


@pytest.mark.filterwarnings("ignore:base. .*the adapter beside the model is not used")
@pytest.mark.parametrize("text", ["{", "[]", '{"base_model_name_or_path": "no/such-model"}'])
def test_that_adapter_is_not_even_read(merged: tuple[Path, Path], text: str) -> None:
    beside, alone = merged
    (beside / "adapter_config.json").write_text(text)
    (beside / "adapter_model.safetensors").write_bytes(b"")
    assert torch.equal(logits(load_base(beside, CPU)), logits(load_base(alone, CPU)))


def test_a_directory_with_an_adapter_alone_is_no_base(adapter_paths: dict[str, Path]) -> None:
    for call in (lambda path: load_base(path, CPU), read_shape):
        with pytest.raises(
            SpartaError, match=r"is not a model directory \(no config.json\) but an adapter; give"
        ):
            call(adapter_paths["ada"])


@pytest.mark.parametrize("where", ["generation_config.json", "config.json"])
def test_settings_of_generation_that_transformers_does_not_save_stay_as_they_were(
    base_path: Path, adapter_paths: dict[str, Path], tmp_path: Path, where: str
) -> None:
    base, out = tmp_path / "base", tmp_path / "out"
    shutil.copytree(base_path, base)
    (base / "generation_config.json").unlink()
    before = json.loads((base / where).read_text()) if where == "config.json" else {}
    (base / where).write_text(json.dumps({**before, **GENERATION}))
    model = AutoModelForCausalLM.from_pretrained(base)
    with pytest.raises(ValueError, match="temperature"):
        model.save_pretrained(tmp_path / "theirs")
    merge_adapter(str(base), adapter_paths["ada"], out)
    assert json.loads((out / "generation_config.json").read_text()).items() >= GENERATION.items()
    if where == "generation_config.json":
        assert (out / where).read_bytes() == (base / where).read_bytes()
    again = AutoModelForCausalLM.from_pretrained(out)
    assert again.generation_config.to_dict() == model.generation_config.to_dict()
    expected = PeftModel.from_pretrained(model, adapter_paths["ada"])
    with torch.no_grad():
        torch.testing.assert_close(again(IDS).logits, expected(IDS).logits, rtol=0, atol=1e-4)


def test_layers_in_four_bits_compute_in_the_runs_dtype_whatever_came_before(
    base_path: Path, tmp_path: Path
) -> None:
    base = load_base(base_path, CPU, quantization="nf4")
    base.model.save_pretrained(tmp_path)
    base.tokenizer.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["quantization_config"]["bnb_4bit_compute_dtype"]
    for stored in (None, "bfloat16"):
        packing = {**config["quantization_config"]} | ({"bnb_4bit_compute_dtype": stored} if stored else {})
        (tmp_path / "config.json").write_text(json.dumps({**config, "quantization_config": packing}))
        again = load_base(tmp_path, CPU)
        layers = [module for module in again.model.modules() if isinstance(module, Linear4bit)]
        assert {module.compute_dtype for module in layers} == {torch.float32}
        with torch.no_grad():
            layers[0](torch.ones(3, layers[0].in_features, dtype=torch.bfloat16))
        assert torch.equal(logits(again), logits(base))


def test_a_layer_without_a_dtype_is_given_one(base_path: Path) -> None:
    def loader(request: Request) -> Any:
        """Layers as bitsandbytes makes them by itself."""
        model = loading._load(request)
        for module in model.modules():
            if isinstance(module, Linear4bit):
                module.compute_dtype, module.compute_type_is_set = None, False
        return model

    base = load_base(base_path, CPU, quantization="nf4", loader=loader)
    x = torch.randn(5, 64, generator=torch.Generator().manual_seed(0))
    layer = base.model.model.layers[0].self_attn.q_proj
    with torch.no_grad():
        before = layer(x)
        layer(x.bfloat16())
        assert torch.equal(layer(x), before)


def edit(file: str, **changes: Any) -> Callable[[Path], object]:
    def apply(path: Path) -> None:
        config = json.loads((path / file).read_text()) if (path / file).exists() else {}
        (path / file).write_text(json.dumps({**config, **changes}))

    return apply


def write(file: str, text: str | bytes) -> Callable[[Path], object]:
    return lambda path: (path / file).write_bytes(text if isinstance(text, bytes) else text.encode())


def cut(path: Path) -> None:
    whole = (path / "model.safetensors").read_bytes()
    (path / "model.safetensors").write_bytes(whole[: len(whole) // 2])


def into(dtype: torch.dtype, name: str = "model.layers.1.mlp.up_proj.weight") -> Callable[[Path], object]:
    def apply(path: Path) -> None:
        weights = load_file(path / "model.safetensors")
        weights[name] = weights[name].to(dtype)
        save_file(weights, path / "model.safetensors", metadata={"format": "pt"})

    return apply


TOKENIZER = r"the tokenizer \(tokenizer.json, tokenizer_config.json\) in .* cannot be loaded"
DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "null for a configuration": (
        write("config.json", "null"),
        "config.json holds no JSON object but NoneType",
    ),
    "a deep configuration": (write("config.json", '{"a":' * 100_000), "config.json is nested too deep"),
    "a deep value": (edit("config.json", x=eval("[" * 90 + "]" * 90)), ""),
    "digits without end": (write("config.json", '{"a":' + "1" * 9999 + "}"), "config.json cannot be read"),
    "layers without end": (edit("config.json", num_hidden_layers=10**7), r"config.json says 1.0e\+07 layers"),
    "a vocabulary without end": (
        edit("config.json", vocab_size=10**9),
        "lacks weights or has them in another",
    ),
    "a hidden size without end": (
        edit("config.json", hidden_size=2**40),
        "lacks weights or has them in another",
    ),
    "a field of another type": (
        edit("config.json", vocab_size="many"),
        "config.json in .*vocab_size.*expected int",
    ),
    "settings of generation: a list": (
        write("generation_config.json", "[1]"),
        "generation_config.json holds no JSON object but list",
    ),
    "an end that is a text": (
        edit("generation_config.json", eos_token_id="x"),
        "eos_token_id is 'x', which is",
    ),
    "an end that is a fraction": (
        edit("generation_config.json", eos_token_id=[1.5]),
        r"eos_token_id is \[1.5\]",
    ),
    "an end below zero": (edit("generation_config.json", eos_token_id=-1), ""),
    "settings of generation: impossible": (
        edit("generation_config.json", max_new_tokens=-3),
        "max_new_tokens",
    ),
    "settings of the tokenizer: null": (
        write("tokenizer_config.json", "null"),
        "tokenizer_config.json holds no JSON object but NoneType",
    ),
    "a length in words": (edit("tokenizer_config.json", model_max_length="long"), TOKENIZER),
    "a special token that is a number": (edit("tokenizer_config.json", eos_token=7), TOKENIZER),
    "an empty tokenizer": (write("tokenizer.json", ""), TOKENIZER),
    "a tokenizer of nothing": (write("tokenizer.json", "{}"), TOKENIZER),
    "a tokenizer in another encoding": (write("tokenizer.json", b"\xff\xfe\0"), TOKENIZER),
    "no weights in the file": (write("model.safetensors", b""), "model.safetensors in .* cannot be loaded"),
    "half the weights": (cut, "model.safetensors in .* cannot be loaded"),
    "8 bits": (into(torch.float8_e4m3fn), "up_proj.weight is in F8_E4M3; give the checkpoint in bf16"),
    "whole numbers": (into(torch.int8), "up_proj.weight is in I8; give the checkpoint in bf16"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_named_in_one_line(
    base_path: Path, adapter_paths: dict[str, Path], tmp_path: Path, damage: str
) -> None:
    path = tmp_path / "base"
    shutil.copytree(base_path, path)
    harm, reason = DAMAGES[damage]
    harm(path)
    if not reason:
        load_base(path, CPU)
        return
    before = {file.name: file.read_bytes() for file in path.iterdir()}
    calls = [
        lambda: load_base(path, CPU),
        lambda: merge_adapter(str(path), adapter_paths["ada"], tmp_path / "out"),
    ]
    for call in calls:
        if call is calls[1] and damage == "a length in words":
            continue  # merging asks nothing of the tokenizer
        with pytest.raises(SpartaError, match=reason) as caught:
            call()
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) <= 300
    assert {file.name: file.read_bytes() for file in path.iterdir()} == before
    assert not (tmp_path / "out").exists()


def test_masks_of_old_checkpoints_are_no_weights(base_path: Path, tmp_path: Path) -> None:
    shutil.copytree(base_path, tmp_path / "base")
    weights = load_file(tmp_path / "base" / "model.safetensors")
    weights["model.layers.0.self_attn.bias"] = torch.ones(8, 8, dtype=torch.bool)
    weights["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(8)
    save_file(weights, tmp_path / "base" / "model.safetensors", metadata={"format": "pt"})
    load_base(tmp_path / "base", CPU)


class PanicException(BaseException):
    """As pyo3 makes it of a panic in Rust: no ``Exception``."""


@pytest.mark.parametrize("call", ["from_pretrained", "__call__"])
def test_a_tokenizers_panic_names_its_file(
    base_path: Path,
    adapter_paths: dict[str, Path],
    tmp_path: Path,
    call: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def panic(*_: Any, **__: Any) -> None:
        raise PanicException("called `Option::unwrap()` on a `None` value")

    base = load_base(base_path, CPU)
    if call == "__call__":
        monkeypatch.setattr(type(base.tokenizer), "__call__", panic)
    else:
        monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", panic)
    with pytest.raises(SpartaError, match=rf"{TOKENIZER}: called .* value; get a sound copy"):
        load_base(base_path, CPU)
    if call == "from_pretrained":
        with pytest.raises(SpartaError, match=TOKENIZER):
            merge_adapter(str(base_path), adapter_paths["ada"], tmp_path / "out")

    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", interrupted)
    with pytest.raises(KeyboardInterrupt):
        load_base(base_path, CPU)
