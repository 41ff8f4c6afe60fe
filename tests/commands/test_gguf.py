"""A base in GGUF form through the commands: plan, run, resume, chat, export."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from gguf import GGMLQuantizationType, GGUFReader
from safetensors.torch import load_file
from typer.testing import CliRunner, Result

from sparta_lite.commands.app import app
from sparta_lite.engine.gguf_base import unpack
from sparta_lite.files import read_json

from ..engine.gguf_files import write_gguf

SETS = (
    *("tribe.adapters=fresh-3", "tribe.rank=4", "iterations=1", "duels=6", "evaluation.items=0"),
    *(
        "generation.max_new_tokens=6",
        "generation.max_prompt_tokens=64",
        "judge.layout=turns",
        'judge.request=Score it as {"score": 1}',
    ),
    *("training.max_length=128", "training.max_prompt=96", "training.batch=2", "pairs.minimum_margin=0"),
)


def call(*arguments: str | Path, stdin: str = "") -> Result:
    return CliRunner().invoke(app, list(map(str, arguments)), input=stdin)


@pytest.fixture(scope="module")
def file(base_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gguf(
        base_path, tmp_path_factory.mktemp("gguf") / "tiny.Q8_0.gguf", quantized=GGMLQuantizationType.Q8_0
    )


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path_factory.mktemp("hf")))
        yield


@pytest.fixture(scope="module")
def finished(cache: None, file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on it, named by the directory in which it stands alone."""
    out = tmp_path_factory.mktemp("runs") / "run"
    sets = [part for each in (*SETS, f"base={file.parent}", "quantization=none") for part in ("--set", each)]
    result = call("run", "--plain", "--out", out, *sets)
    assert result.exit_code == 0, result.output
    return out


def test_a_run_records_the_files_hash_and_refuses_another_file(finished: Path, file: Path) -> None:
    record = read_json(finished / "run.json")
    whole = file.read_bytes()
    assert record["hashes"]["GGUF file"] == hashlib.sha256(whole).hexdigest()
    assert call("run", "--resume", "--plain", "--out", finished).exit_code == 0
    before = {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()}
    try:
        file.write_bytes(whole.replace(b"tiny", b"tint"))
        result = call("run", "--resume", "--plain", "--out", finished)
    finally:
        file.write_bytes(whole)
    assert result.exit_code == 2
    assert "GGUF file changed since the run began; put it back" in result.output
    unchanged = {path: path.read_bytes() for path in before}
    assert {path.name for path in before if unchanged[path] != before[path]} <= {"run.json"}


def test_a_run_goes_on_with_the_file_under_another_name_unpacked_by_another_version(
    finished: Path, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is unpacked names the library that did so: only what the file holds has to be the same."""
    first = unpack(file)
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path))
    monkeypatch.setattr("transformers.configuration_utils.__version__", "5.99.0")
    renamed = file.rename(file.with_name("other.gguf"))
    try:
        result = call("run", "--resume", "--plain", "--out", finished)
        again = unpack(renamed)
    finally:
        renamed.rename(file)
    assert result.exit_code == 0, result.output
    assert again.parent.parent == tmp_path
    assert (again / "config.json").read_bytes() != (first / "config.json").read_bytes()


def test_it_is_talked_to_and_planned(finished: Path, file: Path) -> None:
    result = call("chat", finished, "--adapter", "fresh-1", "--adapter", "base", stdin="hi\n")
    assert result.exit_code == 0, result.output
    assert [line.partition(":")[0] for line in result.stdout.splitlines()] == ["fresh-1", "base"]
    result = call("plan", "--set", f"base={file}", "--set", "tribe.adapters=fresh-3")
    assert result.exit_code == 0, result.output


def test_a_merged_model_says_that_it_is_the_dequantised_one(
    finished: Path, file: Path, tmp_path: Path
) -> None:
    out = tmp_path / "merged"
    result = call("export", finished, "--adapter", "fresh-2", "--to", "merged", "--out", out)
    assert result.exit_code == 0, result.output
    assert "merged into the dequantised weights of tiny.Q8_0.gguf, in float32" in result.stdout
    card = (out / "README.md").read_text()
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert "Merged into the dequantised weights of `tiny.Q8_0.gguf`, in float32" in card
    assert f"(GGUF, SHA-256 `{digest}`), unquantised |" in card
    adapter = load_file(finished / "iteration-00/adapters/fresh-2/adapter_model.safetensors")
    name = "model.layers.1.mlp.up_proj"
    a, b = (adapter[f"base_model.model.{name}.lora_{side}.weight"] for side in "AB")
    bare = load_file(unpack(file) / "model.safetensors")[f"{name}.weight"]
    alpha = read_json(finished / "iteration-00/adapters/fresh-2/adapter_config.json")["lora_alpha"]
    merged = load_file(out / "model.safetensors")[f"{name}.weight"]
    torch.testing.assert_close(merged, bare + alpha / 4 * b @ a, rtol=0, atol=1e-6)


def test_an_adapter_in_gguf_form_names_its_base(finished: Path, file: Path, tmp_path: Path) -> None:
    out = tmp_path / "lora"
    result = call("export", finished, "--adapter", "fresh-1", "--to", "gguf-lora", "--out", out)
    assert result.exit_code == 0, result.output
    fields = {name: each.contents() for name, each in GGUFReader(out / "fresh-1.gguf").fields.items()}
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert fields["general.base_model.count"] == 1
    assert fields["general.base_model.0.name"] == "tiny"
    assert fields["general.base_model.0.description"] == f"tiny.Q8_0.gguf, SHA-256 {digest}"
    assert "# base_model: the local" in (out / "README.md").read_text()


@pytest.mark.parametrize("command", [("plan",), ("run", "--out", "run"), ("forge", "--data", "d.jsonl")])
def test_what_is_no_base_is_refused_before_anything_is_made(
    command: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.gguf").write_bytes(b"no model")
    (tmp_path / "d.jsonl").write_text('{"prompt": "a", "response": "b", "kind": "c"}\n')
    base = ("--base", "bad.gguf", "--by", "kind") if command[0] == "forge" else ("--set", "base=bad.gguf")
    sets = () if command[0] == "forge" else ("--set", "tribe.adapters=fresh-3")
    result = call(*command, *base, *sets)
    assert result.exit_code == 2
    assert "bad.gguf is not a GGUF file; give one" in result.output
    assert "Traceback" not in result.output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.gguf", "d.jsonl"]
