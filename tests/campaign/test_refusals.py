"""What a campaign will not start on, and what it will not go on with."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml

from sparta_lite.campaign.config import load_config
from sparta_lite.campaign.events import Event
from sparta_lite.campaign.loop import run
from sparta_lite.campaign.store import Store
from sparta_lite.errors import SpartaError


def ignore(event: Event) -> None:
    pass


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


def test_an_unwritable_place_is_one_clear_line(tiny_config: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SpartaError, match="Not a directory; free some space or choose"):
        run(load_config(tiny_config), tmp_path / "file" / "run", False, ignore)
