"""What a campaign leaves: its record, duels, votes, pairs and adapters."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from datasets import Dataset, load_dataset
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import DPOConfig, DPOTrainer

from sparta_lite.campaign.config import load_config
from sparta_lite.campaign.events import Event, Warned
from sparta_lite.campaign.loop import run
from sparta_lite.campaign.reading import read_trace
from sparta_lite.campaign.store import Store
from sparta_lite.combat import replay
from sparta_lite.errors import SpartaError
from sparta_lite.files import read_json, read_lines, write_lines
from sparta_lite.kernels import choice, lora

from ..run_files import forget_digests


def ignore(event: Event) -> None:
    pass


def test_run_json_names_status_versions_seed_and_hashes(finished: Path) -> None:
    record = read_json(finished / "run.json")
    assert (record["status"], record["seed"]) == ("finished", 0)
    assert record["versions"]["torch"] == torch.__version__
    assert set(record["hashes"]) == {
        *("config.yaml", "instructions", "held-out questions", "base"),
        *("adapter ada", "adapter ben", "adapter cyd"),
    }
    assert record["choices"]["dtype"].startswith("float32 (")
    assert record["choices"]["attention"].startswith("sdpa (")
    assert record["choices"]["trainer"].startswith("tribe (")
    assert record["choices"]["kernels"].startswith(("torch (", "triton ("))
    assert not any("kernel" in row.get("message", "") for row in read_lines(finished / "events.jsonl"))


def test_a_kernel_that_fails_is_told_once_and_recorded(
    tiny_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("no such target")

    monkeypatch.setattr(choice, "_failed", None)
    monkeypatch.setattr(choice, "_told", False)
    monkeypatch.setattr(choice, "use_triton", lambda x: choice._failed is None)
    monkeypatch.setattr(lora, "by_triton", fail)
    told: list[Event] = []
    run(load_config(tiny_config), tmp_path / "run", False, told.append)
    warnings = [event.message for event in told if isinstance(event, Warned) and "kernel" in event.message]
    failed = "a Triton kernel failed, RuntimeError: no such target"
    assert warnings == [f"kernels: {failed}; torch computes in its place, more slowly"]
    record = read_json(tmp_path / "run" / "run.json")
    assert record["status"] == "finished"
    assert record["choices"]["kernels"] == f"torch ({failed})"
    assert set(record["choices"]) == {"dtype", "attention", "kernels", "trainer"}


def test_what_was_cut_to_fit_is_counted_aloud(tiny_config: Path, tmp_path: Path) -> None:
    """Instructions and answers are as many bytes as tokens here."""
    questions = tmp_path / "questions.jsonl"
    texts = ["short?", "b" * 70, "c" * 80]
    write_lines(questions, [{"text": text} for text in texts])
    sets = [f"data.path={questions}", "data.column=text", "iterations=1", "duels=3", "evaluation.items=0"]
    short = [
        "generation.max_prompt_tokens=84",
        "generation.max_new_tokens=40",
        "judge.max_tokens=150",
        "judge.request=Score it.",
    ]
    told: list[Event] = []
    run(load_config(tiny_config, [*sets, *short]), tmp_path / "run", False, told.append)
    warnings = [event.message for event in told if isinstance(event, Warned)]
    store = Store(tmp_path / "run")
    cut = sum(max(row["cut"]) > 0 for row in read_lines(store.judgments(0)))
    assert cut > 0
    assert f"iteration 1: {cut} of 3 votes go by an answer without its end" in "\n".join(warnings)
    assert "iteration 1: 2 of 3 instructions lost their end" in "\n".join(warnings)


def test_no_answer_of_a_duel_holds_a_token_that_no_text_has(finished: Path, base_path: Path) -> None:
    """A fifth of the base's embedding pads it: rows that the tokenizer does not know."""
    tokenizer = AutoTokenizer.from_pretrained(base_path)
    duels = [row for iteration in (0, 1) for row in read_lines(Store(finished).duels(iteration))]
    drawn = [id for row in duels for response in row["responses"] for id in response["ids"]]
    assert len(drawn) > 200
    assert max(drawn) < len(tokenizer) == 259 < 320


def test_recorded_votes_replay_to_the_recorded_reputations(finished: Path) -> None:
    history = replay(read_trace(finished), kind="reliability")
    recorded = read_json(Store(finished).reputation(1))["after"]["ratings"]
    assert len(history) == 20
    for name, (reputation, deviation) in history[-1].items():
        assert recorded[name]["reputation"] == pytest.approx(reputation, abs=1e-12)
        assert recorded[name]["deviation"] == pytest.approx(deviation, abs=1e-12)


def test_votes_of_another_form_are_not_replayed(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('{"format": 0}')
    with pytest.raises(SpartaError, match="not of this version's form, 3"):
        read_trace(tmp_path)


def test_preferences_follow_the_recorded_scores(finished: Path) -> None:
    store = Store(finished)
    duels = {row["duel"]: row for row in read_lines(store.duels(0))}
    verdicts = read_json(store.reputation(0))["verdicts"]
    pairs = read_lines(store.preferences(0))
    assert {pair["duel"] for pair in pairs} == {
        duel
        for duel, verdict in enumerate(verdicts)
        if verdict and verdict["scores"][0] != verdict["scores"][1]
    }
    for pair in pairs:
        scores, duel = verdicts[pair["duel"]]["scores"], duels[pair["duel"]]
        better = 0 if scores[0] > scores[1] else 1
        assert pair["chosen"][0]["content"] == duel["responses"][better]["text"]
        assert pair["winner"] == duel["fighters"][better]


def test_written_adapters_load_in_peft_and_differ_from_the_start(
    finished: Path, base_path: Path, adapter_paths: dict[str, Path]
) -> None:
    for name, start in adapter_paths.items():
        model = PeftModel.from_pretrained(
            AutoModelForCausalLM.from_pretrained(base_path), start, adapter_name="old"
        )
        model.load_adapter(str(Store(finished).adapters(1) / name), adapter_name="new")
        ids = torch.arange(30)[None]
        model.set_adapter("old")
        before = model(ids).logits
        model.set_adapter("new")
        assert (model(ids).logits - before).abs().max() > 1e-4


@pytest.mark.interpreted
def test_preferences_load_as_a_dataset_and_train_in_trl_as_they_are(
    finished: Path, base_path: Path, tmp_path: Path
) -> None:
    path = Store(finished).preferences(0)
    data = Dataset.from_list([json.loads(line) for line in path.open()])
    loaded = load_dataset("json", data_files=str(path), split="train", cache_dir=str(tmp_path))
    assert list(loaded) == list(data)
    assert {"prompt", "chosen", "rejected"} <= set(data.column_names)
    assert data[0]["prompt"][0]["role"] == "user"
    assert data[0]["chosen"][0]["role"] == "assistant"
    model = AutoModelForCausalLM.from_pretrained(base_path)
    before = model.model.norm.weight.detach().clone()
    config = DPOConfig(
        str(tmp_path / "trl"),
        max_steps=1,
        learning_rate=1e-2,
        per_device_train_batch_size=2,
        bf16=False,
        use_cpu=True,
        gradient_checkpointing=False,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    tokenizer = AutoTokenizer.from_pretrained(base_path)
    DPOTrainer(model, args=config, train_dataset=data, processing_class=tokenizer).train()
    assert not torch.equal(model.model.norm.weight, before)

    # Answers that all are dates stay text, which the library's reader of JSON would make timestamps of.
    dates = [{**row, "chosen": [{"role": "assistant", "content": "2024-01-05"}]} for row in read_lines(path)]
    write_lines(tmp_path / "dates.jsonl", dates)
    data = Dataset.from_list([json.loads(line) for line in (tmp_path / "dates.jsonl").open()])
    trainer = DPOTrainer(model, args=config, train_dataset=data, processing_class=tokenizer)
    assert {tokenizer.decode(ids) for ids in trainer.train_dataset["chosen_ids"]} == {
        "2024-01-05<|im_end|>\n"
    }


def test_the_same_seed_gives_the_same_run_and_another_seed_another(
    tiny_config: Path, finished: Path, tmp_path: Path
) -> None:
    run(load_config(tiny_config, ["iterations=1"]), tmp_path / "same", False, ignore)
    run(load_config(tiny_config, ["iterations=1"], 9), tmp_path / "other", False, ignore)
    ours = Store(finished).duels(0).read_bytes()
    assert Store(tmp_path / "same").duels(0).read_bytes() == ours
    assert Store(tmp_path / "other").duels(0).read_bytes() != ours


def test_batch_shape_changes_no_answer(tiny_config: Path, finished: Path, tmp_path: Path) -> None:
    run(load_config(tiny_config, ["iterations=1", "generation.places=3"]), tmp_path / "narrow", False, ignore)
    for narrow, wide in zip(
        read_lines(Store(tmp_path / "narrow").duels(0)), read_lines(Store(finished).duels(0)), strict=True
    ):
        for one, other in zip(narrow["responses"], wide["responses"], strict=True):
            assert one.pop("logprob") == pytest.approx(other.pop("logprob"), abs=1e-5)
        assert narrow == wide


def test_judging_in_sampled_rounds_runs_and_counts_failures(tiny_config: Path, tmp_path: Path) -> None:
    settings = ["iterations=1", "duels=4", "judge.mode=sampled", "judge.rounds=2", "judge.max_new_tokens=6"]
    run(load_config(tiny_config, settings), tmp_path / "run", False, ignore)
    rows = read_lines(Store(tmp_path / "run").judgments(0))
    # A model with random weights never writes a score: every judgment fails, and none becomes a number.
    assert all(row["scores"] == [None, None] and row["failures"] == ["no score"] * 2 for row in rows)
    record = read_json(Store(tmp_path / "run").reputation(0))
    assert record["verdicts"] == [None] * 4
    assert {rating["reputation"] for rating in record["after"]["ratings"].values()} == {100.0}
    assert read_lines(Store(tmp_path / "run").preferences(0)) == []


def test_equal_answers_make_no_pair(
    tiny_settings: dict[str, object], adapter_paths: dict[str, Path], tmp_path: Path
) -> None:
    """Sampled rounds score each side apart, so that one and the same answer can win over itself."""
    config_file = tmp_path / "config.yaml"
    twins = {name: str(adapter_paths["ada"]) for name in adapter_paths}
    tribe = {"tribe": {"adapters": twins}, "iterations": 1, "evaluation": {"items": 0}}
    config_file.write_text(yaml.safe_dump({**tiny_settings, **tribe}))
    run(load_config(config_file, ["generation.temperature=0"]), tmp_path / "run", False, ignore)
    store = Store(forget_digests(tmp_path / "run"))
    votes = {"scores": [9.0, 2.0], "failures": [None, None]}
    scored = [{**row, **votes} for row in read_lines(store.judgments(0))]
    write_lines(store.judgments(0), scored)
    store.reputation(0).unlink()
    shutil.rmtree(store.adapters(0))
    run(load_config(config_file, ["generation.temperature=0"]), tmp_path / "run", True, ignore)
    assert {row["winner"] for row in read_json(store.reputation(0))["verdicts"]} == {0}
    assert read_lines(store.preferences(0)) == []
