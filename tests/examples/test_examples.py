"""Every example does what its first line says, in small; those for large bases are planned."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import pytest
from transformers import PretrainedConfig, Qwen2Config, Qwen3_5TextConfig, Qwen3Config
from typer.testing import CliRunner, Result

from sparta_lite.campaign.config import load_config
from sparta_lite.campaign.inputs import look_up
from sparta_lite.campaign.tasks import held_out
from sparta_lite.commands.app import app
from sparta_lite.data.task import Question
from sparta_lite.files import read_json
from sparta_lite.pocket import adapter_paths

EXAMPLES = Path(__file__).parents[2] / "examples"
SMALL = ("iterations=1", "duels=6", "evaluation.items=10", "training.batch=2")
LARGE: dict[str, tuple[type[PretrainedConfig], dict[str, int]]] = {
    "qwen2.5-7b-gsm8k": (
        Qwen2Config,
        {"vocab_size": 152064, "hidden_size": 3584, "intermediate_size": 18944},
    ),
    "qwen3-8b": (Qwen3Config, {"vocab_size": 151936, "hidden_size": 4096, "intermediate_size": 12288}),
}


def call(command: str, *arguments: str | Path, sets: tuple[str, ...] = ()) -> Result:
    changed = [part for each in sets for part in ("--set", each)]
    return CliRunner().invoke(app, [command, *map(str, arguments), *changed])


def test_every_example_is_tried_here() -> None:
    tried = {"quickstart", "own_questions", "own_adapters", "hostile_pool", "ablation", "qwen3.5-9b", *LARGE}
    tried |= {"smollm2"}
    assert {path.stem for path in EXAMPLES.glob("*.yaml")} == tried
    assert [path.name for path in EXAMPLES.glob("*.py")] == ["ten_adapters.py"]


@pytest.mark.parametrize("name", ["quickstart", "own_questions", "own_adapters", "hostile_pool"])
def test_an_example_runs_on_the_pocket_tribe(name: str, tmp_path: Path) -> None:
    sets = SMALL
    if name == "own_adapters":  # those that a first run would have left
        sets += (f"tribe.adapters={next(iter(adapter_paths().values())).parent}",)
    out = tmp_path / "run"
    result = call("run", EXAMPLES / f"{name}.yaml", "--plain", "--out", out, sets=sets)
    assert result.exit_code == 0, result.output
    record = read_json(out / "run.json")
    assert record["status"] == "finished"
    assert len(record["hostile"]) == (3 if name == "hostile_pool" else 0)
    assert len(list((out / "iteration-00" / "adapters").iterdir())) == 10


def test_the_ablation_compares_its_arms(tmp_path: Path) -> None:
    arms, out = EXAMPLES / "ablation.yaml", tmp_path / "grid"
    result = call("ablate", "--arms", arms, "--seeds", "1", "--plain", "--out", out, sets=SMALL)
    assert result.exit_code == 0, result.output
    rows = read_json(out / "table.json")["rows"]
    named = ["default", "uniform-judges", "random-matches", "four-adapters"]
    assert [row["arm"] for row in rows if row["kind"] == "arm"] == named


def test_the_real_model_is_named_on_the_command_line_and_its_questions_have_answers() -> None:
    path = EXAMPLES / "smollm2.yaml"
    refused = call("run", path, "--plain")
    assert refused.exit_code == 2
    assert "smollm2.gguf: no such file; give the path of a .gguf file" in refused.output
    settings = load_config(path)
    assert len(look_up(settings)[1].texts) == 24
    (task,) = held_out(settings)
    assert len(task.questions) == 8
    for name in ("train", "test"):
        for line in (EXAMPLES / "word_problems" / f"{name}.jsonl").read_text().splitlines():
            row = json.loads(line)
            answer = row["answer"].rpartition("#### ")[2]
            assert task.grade(Question(row["question"], answer), row["answer"]) == "right"
            assert answer in row["answer"].partition("\n")[0]  # the working comes to it


def test_ten_adapters_answer_as_the_engine_is_used(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(EXAMPLES / "ten_adapters.py"))
    answers = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert list(answers) == list(adapter_paths())
    assert answers["past"] == "went knew made"


@pytest.mark.parametrize("name", LARGE)
def test_a_large_base_is_planned_for_24_gigabytes(name: str, tmp_path: Path) -> None:
    kind, sizes = LARGE[name]
    heads = 28 if name.startswith("qwen2.5") else 32
    layers = 28 if name.startswith("qwen2.5") else 36
    kind(
        **sizes,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=4 if heads == 28 else 8,
        head_dim=128,
        max_position_embeddings=32768,
        tie_word_embeddings=False,
    ).save_pretrained(tmp_path)
    sets = (f"base={tmp_path}", "tribe.adapters=fresh-10")
    result = call("plan", EXAMPLES / f"{name}.yaml", "--vram", "24GB", sets=sets)
    assert result.exit_code == 0, result.output
    assert "places" in result.output
    assert load_config(EXAMPLES / f"{name}.yaml").quantization == "nf4"


@pytest.mark.parametrize(("vram", "places"), [("24GB", 16), ("48GB", 235)])
def test_qwen3_5_9b_is_planned_in_bf16(vram: str, places: int, tmp_path: Path) -> None:
    Qwen3_5TextConfig(max_position_embeddings=262144).save_pretrained(tmp_path)  # the 9B's numbers by default
    sets = (f"base={tmp_path}", "tribe.adapters=fresh-10")
    result = call("plan", EXAMPLES / "qwen3.5-9b.yaml", "--vram", vram, sets=sets)
    assert result.exit_code == 0, result.output
    assert "unquantised, as such a base is where it fits" in result.output
    assert f"generation.places: {places}\n" in result.output
    assert all(len(line) <= 80 for line in result.output.splitlines())
    told = (EXAMPLES / "qwen3.5-9b.yaml").read_text()
    assert f"{vram.removesuffix('GB')} GB: {places}" in told.replace(" answers at once", "")
    refused = call("plan", EXAMPLES / "qwen3.5-9b.yaml", "--vram", "16GB", sets=sets)
    assert "4 bits cost such a base more" in refused.output
