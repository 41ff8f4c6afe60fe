"""The section ``data`` of a configuration, and what a campaign takes from it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sparta_lite.campaign.config import load_config, show_config
from sparta_lite.campaign.inputs import _instructions
from sparta_lite.errors import SpartaError


@pytest.mark.parametrize(
    "sets",
    [
        ["data.task=gsm8k"],
        ["data.task=gsm8k", "data.path=questions.json"],
        ["data.path=openai/gsm8k", "data.subset=main", "data.split=train", "data.column=question"],
        ["data.path=runs/tribe-0/iteration-00/preferences.jsonl"],
        ["data.path=rows.csv", "data.template={a} {b}", "data.filter=lang!=fr and level=3"],
    ],
)
def test_sound_sections_survive_being_shown(sets: list[str], tmp_path: Path) -> None:
    config = load_config(None, sets)
    (tmp_path / "config.yaml").write_text(show_config(config))
    assert load_config(tmp_path / "config.yaml").data == config.data


@pytest.mark.parametrize(
    ("sets", "said"),
    [
        (["data.task=gsm8"], "did you mean 'gsm8k'?"),
        (["data.task=gsm8k", "data.column=question"], "brings its own columns"),
        (["data.path=x.json", "data.column=a", "data.template={a}"], "data.template: choose one"),
        (["data.split=train"], "belong to a file or task"),
        (["data.filter=a=b"], "belong to a file or task"),
    ],
)
def test_sections_that_mean_nothing_are_refused(sets: list[str], said: str) -> None:
    with pytest.raises(SpartaError) as caught:
        load_config(None, sets)
    assert said in str(caught.value)


def test_hub_datasets_stay_and_files_are_anchored(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("data: {path: openai/gsm8k#test, column: question}")
    assert load_config(path).data.path == "openai/gsm8k#test"
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "q.json").write_text("[]")
    path.write_text(
        "data: {path: 'data/q.json#test', column: question}\nevaluation: {paths: {com2: com2.json}}"
    )
    config = load_config(path)
    assert config.data.path == str(tmp_path / "data" / "q.json#test")
    assert config.evaluation.paths == {"com2": str(tmp_path / "com2.json")}


def test_a_campaign_takes_column_filter_and_task(tmp_path: Path) -> None:
    rows = [{"prompt": f"Why {n}?", "lang": "en" if n < 30 else "fr"} for n in range(60)]
    (tmp_path / "rows.json").write_text(json.dumps({"train": rows, "extra": rows[:1]}))
    path = f"data.path={tmp_path / 'rows.json'}"
    texts = _instructions(load_config(None, [path, "data.column=prompt", "data.filter=lang=fr"])).texts
    assert texts == tuple(f"Why {n}?" for n in range(30, 60))
    assert len(_instructions(load_config(None, [path, "data.column=prompt", "data.split=extra"])).texts) == 1
    fought = _instructions(load_config(None, [path, "data.task=com2", "data.filter=lang=en"])).texts
    assert set(fought) < {f"Why {n}?" for n in range(30)}
