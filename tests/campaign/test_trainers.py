"""A campaign whose adapters learn one after another through TRL."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from sparta_lite.campaign.config import load_config
from sparta_lite.campaign.events import Event, TrainingStep
from sparta_lite.campaign.loop import run
from sparta_lite.files import read_lines


class Killed(BaseException):
    pass


def adapters(out: Path) -> dict[str, bytes]:
    return {path.parent.name: path.read_bytes() for path in out.glob("iteration-00/adapters/*/*.safetensors")}


@pytest.mark.interpreted
def test_a_killed_run_with_trl_goes_on_at_the_adapter_at_hand(
    tiny_settings: dict[str, Any], tmp_path: Path
) -> None:
    file = tmp_path / "config.yaml"
    training = tiny_settings["training"] | {"trainer": "trl", "warmup": 0.0, "batch": 2, "micro_batch": 2}
    evaluation = tiny_settings["evaluation"] | {"items": 0}
    settings = tiny_settings | {
        "iterations": 1,
        "duels": 4,
        "quantization": "none",
        "batch_tokens": 400,
        "generation": tiny_settings["generation"] | {"max_new_tokens": 3},
        "training": training,
        "evaluation": evaluation,
    }
    file.write_text(yaml.safe_dump(settings))
    config = load_config(file)
    whole: list[Event] = []
    run(config, tmp_path / "whole", False, whole.append)
    steps = [event for event in whole if isinstance(event, TrainingStep)]
    learned = [name for step in steps for name in step.loss]
    assert learned == sorted(learned)
    assert set(learned) == {"ada", "ben", "cyd"}

    killed: list[TrainingStep] = []

    def kill_in_the_second_adapter(event: Event) -> None:
        if isinstance(event, TrainingStep):
            killed.append(event)
            if "ben" in event.loss:
                raise Killed

    with pytest.raises(Killed):
        run(config, tmp_path / "killed", False, kill_in_the_second_adapter)
    again: list[Event] = []
    run(config, tmp_path / "killed", True, again.append)
    repeated = [event for event in again if isinstance(event, TrainingStep)]
    assert repeated == [step for step in steps if "ada" not in step.loss]
    assert adapters(tmp_path / "killed") == adapters(tmp_path / "whole")
    assert len(adapters(tmp_path / "whole")) == 3
    rows = [
        [row for row in read_lines(out / "metrics.jsonl") if row["kind"] == "training"]
        for out in (tmp_path / "killed", tmp_path / "whole")
    ]
    assert rows[0] == rows[1]
