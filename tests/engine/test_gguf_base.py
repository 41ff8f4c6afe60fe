"""A base out of a GGUF file is the model that the file holds, with the file's own special tokens."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, quants
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config, Qwen3Config
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from sparta_lite.campaign.config import load_config
from sparta_lite.engine.base import Base, load_base
from sparta_lite.engine.chat import Chat
from sparta_lite.engine.gguf_base import _root, unpack
from sparta_lite.engine.gguf_file import gguf_file
from sparta_lite.engine.hub import base_directory, local, read_object
from sparta_lite.engine.sequences import WholeSequences
from sparta_lite.errors import SpartaError
from tests.engine.gguf_files import write_gguf
from tests.engine.models import SIZES, save_model

_SIZES = SIZES | {"intermediate_size": 64}
CONFIGS = {
    "llama": LlamaConfig(
        **_SIZES,
        tie_word_embeddings=False,
        rope_parameters={"rope_type": "default", "rope_theta": 500_000.0},
    ),
    "qwen2": Qwen2Config(**_SIZES, tie_word_embeddings=True),
    "qwen3": Qwen3Config(**_SIZES, head_dim=16, tie_word_embeddings=False),
}
IDS = torch.arange(5, 45)[None]


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory):
    """Nothing of these tests goes into the user's own cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path_factory.mktemp("hf")))
        yield


@pytest.fixture(scope="module")
def models(base_path: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {name: save_model(config, root / name, base_path) for name, config in CONFIGS.items()}


def logits(base: Base) -> torch.Tensor:
    positions = torch.arange(IDS.shape[1])[None]
    with torch.no_grad():
        return base.decoder.logits(
            base.decoder.hidden(IDS, positions, WholeSequences(base.decoder.mixers), None)
        )


@pytest.mark.parametrize("family", CONFIGS)
def test_computes_what_the_converted_model_computes(
    family: str, models: dict[str, Path], tmp_path: Path
) -> None:
    file = write_gguf(models[family], tmp_path / "model.gguf")
    base = load_base(file, torch.device("cpu"))
    with torch.no_grad():
        expected = AutoModelForCausalLM.from_pretrained(models[family])(IDS).logits
    torch.testing.assert_close(logits(base), expected, atol=2e-4, rtol=1e-4)


def test_quantised_matrices_are_those_that_gguf_dequantises(models: dict[str, Path], tmp_path: Path) -> None:
    form = GGMLQuantizationType.Q8_0
    base = load_base(write_gguf(models["qwen2"], tmp_path / "q8.gguf", quantized=form), torch.device("cpu"))
    original = AutoModelForCausalLM.from_pretrained(models["qwen2"]).state_dict()
    for name, weight in base.model.state_dict().items():
        expected = original[name].numpy()
        if expected.ndim == 2:
            expected = quants.dequantize(quants.quantize(expected, form), form)
        np.testing.assert_array_equal(weight.numpy(), expected)


def test_special_tokens_are_those_of_the_file(models: dict[str, Path], tmp_path: Path) -> None:
    base = load_base(write_gguf(models["llama"], tmp_path / "m.gguf"), torch.device("cpu"))
    tokenizer = base.tokenizer
    assert base.stops == {2}
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.bos_token_id) == (2, 0, 0)
    assert tokenizer("<|im_start|>the<|im_end|>")["input_ids"][::3] == [1, 2]
    assert tokenizer.decode(tokenizer("In the 12 huts, naïve")["input_ids"]) == "In the 12 huts, naïve"


def test_every_end_that_the_file_names_ends_an_answer(models: dict[str, Path], tmp_path: Path) -> None:
    """The end of the template is always among them, and where the file names none no other one is."""
    for number, (fields, stops) in enumerate(
        (
            ({"eos_token_id": 0}, {0, 2}),
            ({"eos_token_id": 0, "eot_token_id": 1}, {0, 1, 2}),
            ({"eos_token_id": None, "bos_token_id": None, "padding_token_id": None}, {2}),
            ({"types": 0, "eos_token_id": 0}, {0, 2}),
        )
    ):
        file = write_gguf(models["llama"], tmp_path / f"{number}.gguf", **fields)
        base = load_base(file, torch.device("cpu"))
        assert base.stops == stops
        assert Chat(base.tokenizer, None, "turns", "", ending=base.ending).question("a", 30).ids[0] == 1
    assert base.notices == (
        "base: its chat template ends an answer with <|im_end|>, the model names <|endoftext|> as its end "
        "(eos_token_id); both end an answer",
    )


def test_is_unpacked_once_and_under_the_hash_of_the_file(models: dict[str, Path], tmp_path: Path) -> None:
    file = write_gguf(models["qwen2"], tmp_path / "a.gguf")
    place = unpack(file)
    before = (place / "model.safetensors").stat().st_mtime_ns
    assert unpack(file.rename(tmp_path / "b.gguf")) == place
    assert (place / "model.safetensors").stat().st_mtime_ns == before
    other = write_gguf(models["qwen2"], tmp_path / "c.gguf", quantized=GGMLQuantizationType.Q8_0)
    assert unpack(other) != place
    assert [path.name for path in place.parent.glob(".*")] == [".lock"]


def test_a_cache_that_someone_cleared_in_part_is_made_whole(models: dict[str, Path], tmp_path: Path) -> None:
    file = write_gguf(models["qwen2"], tmp_path / "a.gguf", eot_token_id=1)
    place = unpack(file)
    weights = (place / "model.safetensors").read_bytes()
    (place / "model.safetensors").write_bytes(weights[:-1])
    # What a process left behind that was killed while it unpacked.
    left = place.with_name(f".{place.name}.partial")
    left.mkdir()
    (left / "model.safetensors").write_bytes(b"half")
    assert unpack(file) == place
    assert (place / "model.safetensors").read_bytes() == weights
    assert not left.exists()


def test_a_failure_leaves_nothing(
    models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_gguf(models["qwen2"], tmp_path / "a.gguf", eot_token_id=0)
    before = set(_root().iterdir()) if _root().is_dir() else set()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("safetensors.torch.save_file", full)
        with pytest.raises(SpartaError, match="No space left on device; free some space"):
            unpack(file)
    with monkeypatch.context() as patch:
        patch.setattr("shutil.disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, 1000))
        with pytest.raises(SpartaError, match=r"takes 0.1 GB unpacked, .* free some space or set HF_HOME"):
            unpack(file)
    assert set(_root().iterdir()) - before <= {_root() / ".lock"}


def test_a_plan_asks_for_the_configuration_alone(models: dict[str, Path], tmp_path: Path) -> None:
    file = write_gguf(models["qwen3"], tmp_path / "a.gguf", eot_token_id=1)
    place = base_directory(file, ("config.json",))
    assert [path.name for path in place.iterdir()] == ["config.json"]
    whole = unpack(file)
    assert base_directory(file, ("config.json",)) == whole
    assert not place.exists()
    assert read_object(whole / "config.json", "")["head_dim"] == 16


def test_a_scaling_of_rotary_positions_is_kept(models: dict[str, Path], tmp_path: Path) -> None:
    """transformers 5.17 reads a qwen2 file with yarn as if it had none."""
    file = write_gguf(
        models["qwen2"], tmp_path / "y.gguf", rope={"type": "yarn", "factor": 4.0, "length": 64}
    )
    base = load_base(file, torch.device("cpu"))
    asked = Qwen2Config.from_dict(json.loads((models["qwen2"] / "config.json").read_text()))
    asked.rope_parameters |= {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
    expected = AutoModelForCausalLM.from_pretrained(models["qwen2"], config=asked)
    with torch.no_grad():
        torch.testing.assert_close(logits(base), expected(IDS).logits, atol=2e-4, rtol=1e-4)


def test_llama_3s_frequencies_are_kept(models: dict[str, Path], tmp_path: Path) -> None:
    asked = LlamaConfig.from_dict(json.loads((models["llama"] / "config.json").read_text()))
    plain, _ = ROPE_INIT_FUNCTIONS["linear"](
        _with(asked, rope_type="linear", factor=1.0), torch.device("cpu")
    )
    asked = _with(
        asked,
        rope_type="llama3",
        factor=8.0,
        low_freq_factor=1.0,
        high_freq_factor=4.0,
        original_max_position_embeddings=8192,
    )
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](asked, torch.device("cpu"))
    file = write_gguf(models["llama"], tmp_path / "l3.gguf", divisors=(plain / scaled).numpy())
    found = load_base(file, torch.device("cpu")).model.config.rope_parameters
    assert {key: found[key] for key in ("rope_type", "factor")} == {"rope_type": "llama3", "factor": 8.0}
    file = write_gguf(models["llama"], tmp_path / "odd.gguf", divisors=np.linspace(1, 8, len(plain)))
    with pytest.raises(SpartaError, match="rope_freqs"):
        unpack(file)


def _with(config: LlamaConfig, **rope: object) -> LlamaConfig:
    config.rope_parameters = {"rope_theta": config.rope_parameters["rope_theta"], **rope}
    return config


def test_what_is_no_base_is_refused_in_one_line(models: dict[str, Path], tmp_path: Path) -> None:
    file = write_gguf(models["qwen2"], tmp_path / "m.gguf")
    whole = file.read_bytes()
    cases = {
        "no chat template": write_gguf(models["qwen2"], tmp_path / "t.gguf", template=None),
        "not a whole GGUF file": _bytes(tmp_path / "cut.gguf", whole[: len(whole) // 2]),
        "is not a GGUF file; give one": _bytes(tmp_path / "text.gguf", b"no model at all"),
        "one part of several": _bytes(tmp_path / "m-00001-of-00002.gguf", whole + b"\0"),
        "cuts text into words in the way 'qwen9'": write_gguf(
            models["qwen2"], tmp_path / "p.gguf", pre="qwen9"
        ),
        r"in the way null \(tokenizer.ggml.pre\)": write_gguf(models["qwen2"], tmp_path / "q.gguf", pre=None),
        "eos_token_id is 999 of 320 tokens": write_gguf(
            models["qwen2"], tmp_path / "e.gguf", eos_token_id=999
        ),
        "lacks weights that its architecture has: model.layers.1.mlp.up_proj.weight": write_gguf(
            models["qwen2"], tmp_path / "w.gguf", without="blk.1.ffn_up.weight"
        ),
        "holds no model but 'lora'": _bytes(
            tmp_path / "l.gguf", whole.replace(b"general.name", b"general.type").replace(b"tiny", b"lora")
        ),
        "architecture 'qwen9'": _bytes(tmp_path / "new.gguf", whole.replace(b"qwen2", b"qwen9")),
    }
    for message, path in cases.items():
        with pytest.raises(SpartaError, match=message) as caught:
            unpack(path)
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) <= 300 + len(str(path))


def _bytes(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def test_which_file_a_source_names(models: dict[str, Path], tmp_path: Path) -> None:
    file = _bytes(tmp_path / "one.gguf", b"")
    assert gguf_file(file) == gguf_file(tmp_path) == file
    assert gguf_file(models["llama"]) is None
    assert gguf_file("Qwen/Qwen2.5-7B-Instruct") is None
    blob = _bytes(tmp_path / "sha256-0123", b"GGUF")  # as programs keep it that name files by their hash
    assert gguf_file(blob) == blob
    _bytes(tmp_path / "two.gguf", b"")
    with pytest.raises(SpartaError, match=r"2 GGUF files \(one.gguf, two.gguf\)"):
        gguf_file(tmp_path)
    with pytest.raises(SpartaError, match="no such file"):
        gguf_file(tmp_path / "none.gguf")
    _bytes(tmp_path / "model.safetensors", b"")
    assert gguf_file(tmp_path) is None
    parts = tmp_path / "parts"
    parts.mkdir()
    for number in (1, 2):
        _bytes(parts / f"m-0000{number}-of-00002.gguf", b"")
    with pytest.raises(SpartaError, match="merge them with `llama-gguf-split --merge`"):
        gguf_file(parts)


def test_a_file_on_the_hub_is_downloaded_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def download(repository: str, patterns: tuple[str, ...]) -> Path:
        asked.append((repository, patterns))
        return tmp_path

    monkeypatch.setattr("sparta_lite.engine.hub.download", download)
    file = _bytes(tmp_path / "m.Q4_K_M.gguf", b"")
    assert gguf_file("some/model-GGUF:m.Q4_K_M.gguf") == file
    assert asked == [("some/model-GGUF", ("m.Q4_K_M.gguf",))]
    with pytest.raises(SpartaError, match=r"some/model-GGUF has no file 'other.gguf'"):
        gguf_file("some/model-GGUF:other.gguf")
    assert load_config(None, ["base=some/model-GGUF:m.Q4_K_M.gguf", "tribe.adapters=fresh-3"]).base == (
        "some/model-GGUF:m.Q4_K_M.gguf"
    )


def test_a_gguf_beside_an_adapter_is_no_base(tmp_path: Path) -> None:
    """llama.cpp's converter leaves its file in the directory of the adapter."""
    _bytes(tmp_path / "adapter.gguf", b"GGUF")
    assert local(tmp_path, ("adapter_config.json",)) == tmp_path
