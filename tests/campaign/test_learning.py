"""What a campaign's training tells of itself."""

from __future__ import annotations

from pathlib import Path

from sparta_lite.campaign.config import load_config
from sparta_lite.campaign.events import Event, PhaseStarted, Warned
from sparta_lite.campaign.loop import run
from sparta_lite.campaign.store import Store
from sparta_lite.files import read_lines


def told_by(config: Path, out: Path, batch: int) -> tuple[list[Event], dict[str, float], int]:
    """What an iteration tells; how far its adapters moved; its optimizer steps."""
    told: list[Event] = []
    sets = [f"training.batch={batch}", "iterations=1", "evaluation.items=0"]
    run(load_config(config, sets), out, False, told.append)
    rows = read_lines(Store(out).metrics)
    [moved] = [row["moved"] for row in rows if row["kind"] == "trained"]
    return told, moved, max(row["steps"] for row in rows if row["kind"] == "training")


def test_a_training_that_is_all_warm_up_is_told_before_it_begins(tiny_config: Path, tmp_path: Path) -> None:
    told, moved, steps = told_by(tiny_config, tmp_path / "run", batch=100)
    assert steps == 1
    assert set(moved.values()) == {0.0}
    [warning] = [
        event for event in told if isinstance(event, Warned) and "nothing is learned" in event.message
    ]
    assert "one optimizer step, and the warm-up begins at learning rate 0" in warning.message
    for setting in ("training.warmup", "training.batch", "duels"):
        assert setting in warning.message
    [start] = [event for event in told if isinstance(event, PhaseStarted) and event.phase == "train"]
    assert told.index(warning) < told.index(start)


def test_of_two_steps_the_second_is_learned_from(tiny_config: Path, tmp_path: Path) -> None:
    """As transformers has it: the first stands at rate 0."""
    told, moved, steps = told_by(tiny_config, tmp_path / "run", batch=5)
    assert steps == 2
    assert min(moved.values()) > 0
    assert not any(isinstance(event, Warned) and "nothing is learned" in event.message for event in told)
