"""A campaign as a whole: its files, its refusals, its ends other than a kill."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
import yaml
from datasets import load_dataset
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import DPOConfig, DPOTrainer

from sparta_lite.campaign.config import load_config
from sparta_lite.campaign.events import Event, PhaseStarted, RunFinished, Warned
from sparta_lite.campaign.loop import run
from sparta_lite.campaign.store import Store, read_trace
from sparta_lite.combat import replay
from sparta_lite.errors import SpartaError
from sparta_lite.files import read_json, read_lines, write_lines
from sparta_lite.kernels import choice, lora


def ignore(event: Event) -> None:
    pass


@pytest.fixture(scope="module")
def finished(tiny_config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "finished"
    run(load_config(tiny_config), out, False, ignore)
    return out


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


def test_recorded_votes_replay_to_the_recorded_reputations(finished: Path) -> None:
    history = replay(read_trace(finished), kind="paper")
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


def test_preferences_load_as_a_dataset_and_train_in_trl_as_they_are(
    finished: Path, base_path: Path, tmp_path: Path
) -> None:
    data = load_dataset(
        "json", data_files=str(Store(finished).preferences(0)), split="train", cache_dir=str(tmp_path)
    )
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


def test_a_held_directory_is_refused(tiny_config: Path, tmp_path: Path) -> None:
    with (
        Store(tmp_path / "run").locked(),
        pytest.raises(SpartaError, match="another process works on this run"),
    ):
        run(load_config(tiny_config), tmp_path / "run", False, ignore)


def test_a_run_is_not_started_over_another(tiny_config: Path, finished: Path) -> None:
    with pytest.raises(SpartaError, match="holds a run already; add --resume"):
        run(load_config(tiny_config), finished, False, ignore)


def test_foreign_files_are_left_alone(tiny_config: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(SpartaError, match="holds files that are no run's"):
        run(load_config(tiny_config), tmp_path, False, ignore)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_nothing_to_resume_is_said(tiny_config: Path, tmp_path: Path) -> None:
    with pytest.raises(SpartaError, match="no run to resume there"):
        run(load_config(tiny_config), tmp_path / "none", True, ignore)


def test_resuming_with_other_settings_is_refused(tiny_config: Path, finished: Path) -> None:
    with pytest.raises(SpartaError, match="started with other settings"):
        run(load_config(tiny_config, ["duels=11"]), finished, True, ignore)


def test_a_refused_resume_leaves_a_finished_run_finished(tiny_config: Path, finished: Path) -> None:
    before = (finished / "run.json").read_bytes()
    with pytest.raises(SpartaError):
        run(load_config(tiny_config, ["seed=5"]), finished, True, ignore)
    assert (finished / "run.json").read_bytes() == before


def test_a_record_of_another_form_is_not_resumed(tiny_config: Path, finished: Path, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_bytes((finished / "config.yaml").read_bytes())
    (tmp_path / "run.json").write_text('{"format": 0}')
    with pytest.raises(SpartaError, match="not of this version's form, 3"):
        run(load_config(tiny_config), tmp_path, True, ignore)


def test_a_resumed_run_keeps_its_threads_and_tells_what_changed(
    tiny_settings: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config_file, out, told = tmp_path / "config.yaml", tmp_path / "run", list[Event]()
    short = {"threads": None, "iterations": 1, "duels": 3, "evaluation": {"items": 0}}
    config_file.write_text(yaml.safe_dump({**tiny_settings, **short}))
    usual = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        run(load_config(config_file), out, False, ignore)
        torch.set_num_threads(1)
        monkeypatch.setattr("sparta_lite.campaign.loop.versions", lambda: {"torch": "9.9"})
        run(load_config(config_file), out, True, told.append)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(usual)
    [warning] = [event.message for event in told if isinstance(event, Warned) and "9.9" in event.message]
    assert warning == f"torch is 9.9, at the run's start it was {torch.__version__}: results may differ"


def test_a_finished_run_resumes_to_its_end_at_once(tiny_config: Path, finished: Path) -> None:
    store = Store(finished)
    files = (store.metrics, store.events)
    before, record = [path.read_bytes() for path in files], store.read_run()
    events: list[Event] = []
    run(load_config(tiny_config), finished, True, events.append)
    assert isinstance(events[-1], RunFinished)
    assert not any(isinstance(event, PhaseStarted) for event in events)
    assert [path.read_bytes() for path in files] == before
    assert {**store.read_run(), "error": None} == {**record, "error": None}


def test_changed_inputs_are_not_resumed(
    tiny_settings: dict[str, object], adapter_paths: dict[str, Path], tmp_path: Path
) -> None:
    copies = {}
    for name, path in adapter_paths.items():
        copies[name] = tmp_path / name
        copies[name].mkdir()
        for file in ("adapter_config.json", "adapter_model.safetensors"):
            (copies[name] / file).write_bytes((path / file).read_bytes())
    config_file = tmp_path / "config.yaml"
    tribe = {"adapters": {name: str(path) for name, path in copies.items()}}
    config_file.write_text(yaml.safe_dump({**tiny_settings, "tribe": tribe, "iterations": 1, "duels": 3}))
    run(load_config(config_file), tmp_path / "run", False, ignore)
    other = adapter_paths["ben"] / "adapter_model.safetensors"
    (copies["ada"] / "adapter_model.safetensors").write_bytes(other.read_bytes())
    (copies["ada"] / "adapter_config.json").write_bytes(
        (adapter_paths["ben"] / "adapter_config.json").read_bytes()
    )
    with pytest.raises(SpartaError, match="adapter ada changed since the run began"):
        run(load_config(config_file), tmp_path / "run", True, ignore)


def test_changed_instructions_are_not_resumed(tiny_settings: dict[str, object], tmp_path: Path) -> None:
    config_file, rows = tmp_path / "config.yaml", tmp_path / "rows.jsonl"
    data = {"data": {"path": str(rows), "column": "text"}, "iterations": 1, "duels": 3}
    config_file.write_text(yaml.safe_dump({**tiny_settings, **data}))
    rows.write_text('{"text": "one"}\n{"text": "two"}\n')
    run(load_config(config_file), tmp_path / "run", False, ignore)
    rows.write_text('{"text": "one"}\n{"text": "three"}\n')
    with pytest.raises(SpartaError, match="instructions changed since the run began"):
        run(load_config(config_file), tmp_path / "run", True, ignore)


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("tribe.size=7", "tribe.size is 7, but .* holds 3 PEFT adapters"),
        ("generation.max_new_tokens=512", "a prompt of 0 tokens has no room for an instruction"),
        ("judge.max_tokens=1", "judge: its request alone fills a prompt of 1 tokens"),
        ("evaluation.items=100000", "too few held-out questions"),
        ("reputation={start: uneven, prior: {ada: 1}}", "reputation.prior has no score for ben, cyd"),
        ("device=cuda", "no CUDA device"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(
    tiny_config: Path, tmp_path: Path, setting: str, said: str
) -> None:
    if setting == "device=cuda" and torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(SpartaError, match=said):
        run(load_config(tiny_config, [setting]), tmp_path / "run", False, ignore)
    assert not (tmp_path / "run").exists()


def test_a_training_that_is_all_warm_up_is_told(tiny_config: Path, tmp_path: Path) -> None:
    told: list[Event] = []
    config = load_config(tiny_config, ["training.batch=100", "iterations=1", "evaluation.items=0"])
    run(config, tmp_path / "run", False, told.append)
    assert any(isinstance(event, Warned) and "nothing is learned" in event.message for event in told)


def test_a_run_that_is_told_to_end_is_noted_as_interrupted(tiny_config: Path, tmp_path: Path) -> None:
    def end(event: Event) -> None:
        if isinstance(event, PhaseStarted):
            sys.exit(143)  # what the command line makes of SIGTERM

    with pytest.raises(SystemExit):
        run(load_config(tiny_config), tmp_path / "run", False, end)
    assert read_json(tmp_path / "run" / "run.json")["status"] == "interrupted"


def test_ctrl_c_leaves_a_run_that_goes_on(tiny_config: Path, finished: Path, tmp_path: Path) -> None:
    def interrupt(event: Event) -> None:
        if isinstance(event, PhaseStarted) and event.phase == "judge":
            os.kill(os.getpid(), signal.SIGINT)

    assert threading.current_thread() is threading.main_thread()
    with pytest.raises(KeyboardInterrupt):
        run(load_config(tiny_config), tmp_path / "run", False, interrupt)
    assert read_json(tmp_path / "run" / "run.json")["status"] == "interrupted"
    run(load_config(tiny_config), tmp_path / "run", True, ignore)
    for iteration in range(2):
        assert (
            Store(tmp_path / "run").judgments(iteration).read_bytes()
            == Store(finished).judgments(iteration).read_bytes()
        )


def test_an_unwritable_place_is_one_clear_line(tiny_config: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SpartaError, match="Not a directory; free some space or choose"):
        run(load_config(tiny_config), tmp_path / "file" / "run", False, ignore)


LIMITS = (1500, 6000, 30000)
FULL_DISK = """
import json, resource, sys
from pathlib import Path
from sparta_lite.campaign.config import load_config
from sparta_lite.campaign.loop import run
from sparta_lite.errors import SpartaError
said = {}
for limit in sys.argv[3:]:
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), resource.RLIM_INFINITY))
    try:
        run(load_config(Path(sys.argv[1])), Path(sys.argv[2]) / limit, False, lambda event: None)
    except SpartaError as error:
        said[limit] = str(error)
print(json.dumps(said))
"""


@pytest.fixture(scope="module")
def full_disks(tiny_config: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """Runs for which the system let no file grow beyond a limit, as a full disk would; what they said."""
    root = tmp_path_factory.mktemp("full")
    command = [sys.executable, "-c", FULL_DISK, str(tiny_config), str(root), *map(str, LIMITS)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=root, timeout=180)
    assert done.returncode == 0, done.stderr
    return root, json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("limit", LIMITS)
def test_a_full_disk_leaves_nothing_half_written(
    tiny_config: Path, finished: Path, full_disks: tuple[Path, dict[str, str]], limit: int
) -> None:
    out = full_disks[0] / str(limit)
    assert "free some space" in full_disks[1][str(limit)]
    for path in out.rglob("*"):
        assert ".partial" not in path.name or path.is_dir()
        if path.suffix == ".jsonl":
            assert path.read_bytes()[-1:] in (b"", b"\n")
    if (out / "run.json").exists():
        run(load_config(tiny_config), out, True, ignore)
        assert Store(out).reputation(1).read_bytes() == Store(finished).reputation(1).read_bytes()


def test_equal_answers_make_no_pair(
    tiny_settings: dict[str, object], adapter_paths: dict[str, Path], tmp_path: Path
) -> None:
    """Sampled rounds score each side apart, so that one and the same answer can win over itself."""
    config_file = tmp_path / "config.yaml"
    twins = {name: str(adapter_paths["ada"]) for name in adapter_paths}
    tribe = {"tribe": {"adapters": twins}, "iterations": 1, "evaluation": {"items": 0}}
    config_file.write_text(yaml.safe_dump({**tiny_settings, **tribe}))
    run(load_config(config_file, ["generation.temperature=0"]), tmp_path / "run", False, ignore)
    store = Store(tmp_path / "run")
    scored = [{**row, "scores": [9.0, 2.0]} for row in read_lines(store.judgments(0))]
    write_lines(store.judgments(0), scored)
    store.reputation(0).unlink()
    shutil.rmtree(store.adapters(0))
    run(load_config(config_file, ["generation.temperature=0"]), tmp_path / "run", True, ignore)
    assert {row["winner"] for row in read_json(store.reputation(0))["verdicts"]} == {0}
    assert read_lines(store.preferences(0)) == []
