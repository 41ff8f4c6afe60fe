"""``sparta-lite eval``: every adapter of a run in one load, against PEFT and the harness's own model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner, Result

from sparta_lite.campaign.config import load_config, show_config
from sparta_lite.campaign.intervals import wilson
from sparta_lite.commands.app import app
from sparta_lite.outcome import evaluation
from sparta_lite.pocket import adapter_paths as pocket_adapters
from sparta_lite.pocket import base_path as pocket_base
from sparta_lite.pocket import items

from ..run_files import reputation, run_record

TRIBE = ("capitals", "words", "french")


def call(*args: object) -> Result:
    return CliRunner().invoke(app, ["eval", *map(str, args)], prog_name="sparta-lite")


def read(result: Result) -> Any:
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def record(run: Path, config: Any, after: dict[str, Path]) -> Path:
    """A run of one iteration, after which the adapters are those of ``after``."""
    run.mkdir()
    (run / "config.yaml").write_text(show_config(config))
    (run / "run.json").write_text(json.dumps(run_record()))
    (run / "iteration-00" / "adapters").mkdir(parents=True)
    for name, path in after.items():
        shutil.copytree(path, run / "iteration-00" / "adapters" / name)
    (run / "iteration-00" / "reputation.json").write_text(
        json.dumps(reputation(0, dict.fromkeys(after or TRIBE, 100.0)))
    )
    return run


@pytest.fixture(scope="module")
def pocket_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first three pocket adapters, which have changed places after the only iteration."""
    config = load_config(None, ["tribe.size=3", "iterations=1", "evaluation.items=20"])
    places = pocket_adapters()
    after = {name: places[other] for name, other in zip(TRIBE, (*TRIBE[1:], TRIBE[0]), strict=True)}
    return record(tmp_path_factory.mktemp("runs") / "pocket", config, after)


@pytest.fixture(scope="module")
def initial(pocket_run: Path) -> Any:
    return read(call(pocket_run, "--iteration", 0, "--json"))


def test_accuracies_are_those_of_peft(initial: Any) -> None:
    model = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(pocket_base()), pocket_adapters()["french"]
    ).eval()
    tokenizer = AutoTokenizer.from_pretrained(pocket_base())

    def right(question: str, answer: str) -> bool:
        ids = tokenizer.apply_chat_template(
            [{"role": "user", "content": question}],
            add_generation_prompt=True,
            return_tensors="pt",
            return_dict=True,
        )
        said = model.generate(**ids, max_new_tokens=24, do_sample=False)[0, ids["input_ids"].shape[1] :]
        return bool(tokenizer.decode(said, skip_special_tokens=True).strip() == answer)

    with torch.no_grad():
        count = sum(right(item.question, item.answer) for item in items("held-out", 20))
    [task] = initial["tasks"]
    assert 0 < count < 20
    assert task["results"]["french"]["accuracy"] == count / 20
    assert task["results"]["french"]["interval"] == pytest.approx(wilson(count, 20))
    assert list(task["results"]) == list(TRIBE)


def test_any_iteration_is_measured_and_the_last_by_default(pocket_run: Path, initial: Any) -> None:
    last = read(call(pocket_run, "--json", "--adapters", "french,capitals"))
    assert (initial["iteration"], last["iteration"]) == (0, 1)
    assert list(last["tasks"][0]["results"]) == ["capitals", "french"]
    before, after = initial["tasks"][0], last["tasks"][0]
    assert after["results"]["french"] == before["results"]["capitals"]
    assert after["results"]["capitals"] == before["results"]["words"]
    assert after["base"] == before["base"]


def test_records_stand_side_by_side(pocket_run: Path, initial: Any, tmp_path: Path) -> None:
    place = pocket_run / "evaluations"
    assert json.loads((place / "iteration-00.json").read_text()) == initial
    text = call(pocket_run, "--iteration", 0, "--adapters", "words", "--items", 5)
    assert f"saved as {place / 'iteration-00-2.json'}" in text.stderr
    assert json.loads((place / "iteration-00-2.json").read_text())["tasks"][0]["items"] == 5
    out = tmp_path / "mine.json"
    assert call(pocket_run, "--adapters", "words", "--items", 5, "--out", out).exit_code == 0
    assert json.loads(out.read_text())["adapters"] == ["words"]
    again = call(pocket_run, "--out", out)
    assert (again.exit_code, again.stderr) == (
        2, f"error: {out}: exists already; give --out a file that does not\n",
    )  # fmt: skip


def test_the_table_marks_the_best_and_names_the_interval(
    pocket_run: Path, initial: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(evaluation, "measure", lambda *_: initial)
    text = call(pocket_run, "--out", tmp_path / "x.json").stdout
    assert "hostile" not in text
    results = initial["tasks"][0]["results"]
    best = max(figures["accuracy"] for figures in results.values())
    marked = {line.split()[1] for line in text.splitlines() if line.startswith("*")}
    assert marked == {name for name, figures in results.items() if figures["accuracy"] == best}
    assert "before the first iteration" in text
    assert "Wilson's score interval" in text
    rows = [line for line in text.splitlines() if " to " in line]
    assert rows[0].startswith("*")
    assert rows[-1].strip().startswith("bare base")


@pytest.mark.parametrize(
    ("iteration", "said"),
    [(0, "before the first iteration"), (1, "after 1 iteration"), (2, "after 2 iterations")],
)
def test_the_table_says_when_and_who_is_hostile(
    pocket_run: Path,
    initial: Any,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    iteration: int,
    said: str,
) -> None:
    found = {**initial, "iteration": iteration, "hostile": ["words"]}
    found["tasks"] = [{**initial["tasks"][0], "items": 1}]
    monkeypatch.setattr(evaluation, "measure", lambda *_: found)
    lines = call(pocket_run, "--out", tmp_path / "x.json").stdout.splitlines()
    assert lines[0].endswith(f", {said}")
    assert "pocket, 1 question" in lines
    assert [line.lstrip("* ").split()[0] for line in lines if "(hostile)" in line] == ["words"]


def test_the_best_is_not_hostile_and_the_lines_are_short(
    pocket_run: Path, initial: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    [task] = initial["tasks"]
    values = {"capitals": 0.25, "words": 0.75, "french": 0.5}
    results = {name: {**task["results"][name], "accuracy": value} for name, value in values.items()}
    found = {**initial, "run": "x", "hostile": ["words"], "tasks": [{**task, "results": results}]}
    monkeypatch.setattr(evaluation, "measure", lambda *_: found)
    monkeypatch.setenv("COLUMNS", "80")
    lines = call(pocket_run, "--out", tmp_path / "x.json").stdout.splitlines()
    assert [line.split()[1] for line in lines if line.startswith("*")] == ["french"]
    assert max(map(len, lines)) <= 80
    assert " ".join(lines).count("percentile bootstrap over the questions for a mean score") == 1


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--adapters", "nobody"], "--adapters: the run has no nobody; its tribe is capitals, words, french"),
        (["--iteration", "7"], "iteration 7 is not complete; give one from 0 to 1"),
        (["--tasks", "gsm9k"], "no task is called 'gsm9k'"),
        (["--tasks", "pocket,pocket"], "--tasks pocket,pocket: give names with commas between them"),
        (["--path", "gsm8k"], "--path gsm8k: give TASK=FILE"),
        (["--path", f"gsm8k={__file__}"], "gsm8k is not among the tasks"),
        (["--harness-chat"], "belong to --harness"),
        (["--harness", "x", "--include-path", "/nowhere"], "/nowhere is no directory"),
    ],
)
def test_wrong_orders_are_refused_in_one_line(pocket_run: Path, args: list[str], said: str) -> None:
    result = call(pocket_run, *args)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert said in result.stderr


def test_a_run_that_measured_nothing_needs_a_choice(tmp_path: Path) -> None:
    config = load_config(None, ["tribe.size=3", "evaluation.items=0"])
    run = record(tmp_path / "run", config, {})
    for args in ([], ["--tasks", "pocket"]):
        result = call(run, "--iteration", 0, *args)
        assert result.exit_code == 2
        assert "ask for no held-out questions; choose with --tasks and --items" in result.stderr


def test_nothing_trains_so_no_trainer_is_asked_for(tmp_path: Path) -> None:
    config = load_config(None, ["tribe.size=3", "iterations=1", "evaluation.items=2"])
    elsewhere = config.training.model_copy(update={"trainer": "unsloth"})  # this machine may lack it
    run = record(tmp_path / "run", config.model_copy(update={"training": elsewhere}), {})
    result = call(run, "--iteration", "0")
    assert result.exit_code == 0, result.stderr


def test_a_missing_harness_is_said(pocket_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    result = call(pocket_run, "--harness", "x")
    assert (result.exit_code, result.stderr) == (
        2,
        "error: --harness: lm-evaluation-harness is not installed; run `pip install 'sparta-lite[eval]'`\n",
    )


# --- the harness, on a task of each kind

DOCS = [
    {"question": "Which is a fruit?", "choices": ["apple", "stone", "cloud"], "gold": 0, "said": "abc"},
    {"question": "Which is hard?", "choices": ["water", "stone", "air"], "gold": 1, "said": "xyz"},
    {"question": "Which flies?", "choices": ["fish", "worm", "bird"], "gold": 2, "said": "klm"},
    {"question": "Which swims?", "choices": ["fish", "tree", "wall"], "gold": 0, "said": "q"},
]
# A model of random weights never says what is wanted: what it does say is counted by its letters, too.
MARKS = """
def mark(doc, results):
    return {"exact_match": float(results[0] == doc["said"]), "letters": len(set(results[0]))}
"""
KINDS: dict[str, dict[str, Any]] = {
    "own_choice": {
        "output_type": "multiple_choice",
        "doc_to_text": "Question: {{question}}\nAnswer:",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "gold",
        "num_fewshot": 1,
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
    },
    "own_answer": {
        "output_type": "generate_until",
        "doc_to_text": "Say: {{question}}",
        "doc_to_target": "{{said}}",
        "generation_kwargs": {"until": ["\n"], "max_gen_toks": 6},
        "num_fewshot": 2,
        "metric_list": [
            {"metric": name, "aggregation": "mean", "higher_is_better": True}
            for name in ("exact_match", "letters")
        ],
    },
    "own_text": {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{question}}",
        "metric_list": [{"metric": "word_perplexity"}, {"metric": "byte_perplexity"}],
    },
}


@pytest.fixture(scope="module")
def own_tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A task of each kind in the harness's YAML, on a file beside it."""
    path = tmp_path_factory.mktemp("tasks")
    (path / "docs.jsonl").write_text("".join(json.dumps(doc) + "\n" for doc in DOCS))
    data = {
        "dataset_path": "json",
        "dataset_kwargs": {
            "data_files": {"test": str(path / "docs.jsonl")},
            "cache_dir": str(path / "cache"),
        },
        "test_split": "test",
        "metadata": {"version": 1.0},
    }
    for name, task in KINDS.items():
        (path / f"{name}.yaml").write_text(yaml.safe_dump({"task": name, **data, **task}))
    (path / "marks.py").write_text(MARKS)
    with (path / "own_answer.yaml").open("a") as file:
        file.write("process_results: !function marks.mark\n")
    return path


@pytest.fixture(scope="module")
def tiny_run(
    base_path: Path, adapter_paths: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    places = {name: str(path) for name, path in adapter_paths.items()}
    folder = tmp_path_factory.mktemp("tiny")
    (folder / "tiny.yaml").write_text(
        yaml.safe_dump(
            {
                "base": str(base_path),
                "quantization": "none",
                "dtype": "float32",
                "device": "cpu",
                "batch_tokens": 1000,
                "tribe": {"adapters": places},
                "generation": {"places": 4, "max_new_tokens": 6},
            }
        )
    )
    return record(folder / "run", load_config(folder / "tiny.yaml"), adapter_paths)


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.mark.parametrize("chat", [False, True])
def test_the_harness_gives_what_its_own_model_gives(
    tiny_run: Path,
    own_tasks: Path,
    base_path: Path,
    adapter_paths: dict[str, Path],
    offline: None,
    chat: bool,
) -> None:
    pytest.importorskip("lm_eval", reason="lm-evaluation-harness is not installed")
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    names = ["own_answer", "own_text"] if chat else list(KINDS)
    args = ["--harness", ",".join(names), "--include-path", own_tasks, "--json"]
    found = read(call(tiny_run, *args, *(["--harness-chat"] if chat else [])))
    assert found["tasks"] == []
    assert found["harness"]["chat"] == chat
    for adapter in ("ada", None):
        model = AutoModelForCausalLM.from_pretrained(base_path)
        if adapter is not None:
            model = PeftModel.from_pretrained(model, adapter_paths[adapter]).merge_and_unload()
        theirs = simple_evaluate(
            HFLM(
                pretrained=model,
                tokenizer=AutoTokenizer.from_pretrained(base_path),
                device="cpu",
                batch_size=4,
            ),
            tasks=names,
            task_manager=TaskManager(include_path=own_tasks, include_defaults=False),
            apply_chat_template=chat,
            log_samples=False,
        )
        for row in found["harness"]["tasks"]:
            ours = row["base"] if adapter is None else row["results"][adapter]
            expected = theirs["results"][row["task"]]
            assert ours["value"] == pytest.approx(expected[f"{row['metric']},{row['filter']}"], rel=1e-4)
            stderr = expected[f"{row['metric']}_stderr,{row['filter']}"]
            assert ours["stderr"] == (None if stderr == "N/A" else pytest.approx(stderr, rel=1e-4))
    rows = found["harness"]["tasks"]
    assert {row["task"] for row in rows} == set(names)
    assert all(set(row["results"]) == set(adapter_paths) for row in rows)


def test_harness_results_are_a_table_with_the_best_marked(
    tiny_run: Path, own_tasks: Path, offline: None
) -> None:
    pytest.importorskip("lm_eval", reason="lm-evaluation-harness is not installed")
    result = call(tiny_run, "--harness", "own_text", "--include-path", own_tasks, "--items", 2)
    assert result.exit_code == 0, result.stderr
    saved = json.loads(
        max((tiny_run / "evaluations").iterdir(), key=lambda file: file.stat().st_mtime).read_text()
    )
    assert {row["items"] for row in saved["harness"]["tasks"]} == {2}
    row = next(row for row in saved["harness"]["tasks"] if row["metric"] == "byte_perplexity")
    best = min(row["results"], key=lambda name: row["results"][name]["value"])
    table = result.stdout.split("byte_perplexity")[1].splitlines()
    assert table[1].startswith(f"* {best}")
    assert f"{row['results'][best]['value']:.3f}" in table[1] or row["results"][best]["value"] >= 1000


def test_an_unknown_harness_task_is_refused(tiny_run: Path, own_tasks: Path, offline: None) -> None:
    pytest.importorskip("lm_eval", reason="lm-evaluation-harness is not installed")
    (own_tasks / "own_broken.yaml").write_text(
        yaml.safe_dump(
            {"task": "own_broken", "dataset_path": "json", "dataset_kwargs": {"data_files": "no.jsonl"}}
        )
    )
    result = call(tiny_run, "--harness", "own_broken", "--include-path", own_tasks)
    assert result.exit_code == 2
    assert "error: --harness: the tasks cannot be loaded" in result.stderr
