"""What a campaign's training tells of itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sparta_lite.campaign.config import load_config
from sparta_lite.campaign.events import Event, Warned
from sparta_lite.campaign.loop import run
from sparta_lite.campaign.store import Store
from sparta_lite.files import read_lines


def told_by(config: Path, out: Path, batch: int) -> tuple[list[Event], dict[str, list[Any]]]:
    """What an iteration tells, and the rows of its metrics by their kind."""
    told: list[Event] = []
    sets = [f"training.batch={batch}", "iterations=1", "evaluation.items=0"]
    run(load_config(config, sets), out, False, told.append)
    rows: dict[str, list[Any]] = {}
    for row in read_lines(Store(out).metrics):
        rows.setdefault(row["kind"], []).append(row)
    return told, rows


@pytest.mark.parametrize(("batch", "rates"), [(100, [1e-3]), (5, [1e-3, 5e-4]), (4, [0.0, 1e-3, 5e-4])])
def test_the_warm_up_takes_no_step_of_few(
    tiny_config: Path, tmp_path: Path, batch: int, rates: list[float]
) -> None:
    """A tenth of one or two steps is none; of three it is one, which as in transformers stands at rate 0."""
    told, rows = told_by(tiny_config, tmp_path / "run", batch)
    assert [row["learning_rate"] for row in rows["training"] if row["adapter"] == "ada"] == pytest.approx(
        rates
    )
    assert min(rows["trained"][0]["moved"].values()) > 0
    assert rows["budget"][0]["optimizer_steps"] == sum(rate > 0 for rate in rates)
    assert not any(isinstance(event, Warned) and "nothing is learned" in event.message for event in told)
