"""A run that is killed in the middle of its phases and goes on, beside one that never was."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from sparta_lite.campaign.config import load_config
from sparta_lite.campaign.events import Event, PhaseProgress, TrainingStep
from sparta_lite.campaign.loop import run

SAME = ("duels.jsonl", "judgments.jsonl", "reputation.json", "preferences.jsonl", "metrics.jsonl")
KILLED_IN = ("generate", "judge", "train")


def contents(root: Path) -> dict[str, bytes]:
    """What must not differ: duels, judgments, reputations, pairs, adapters, and what was measured."""
    files = [path for path in root.rglob("*") if path.name in SAME or path.suffix == ".safetensors"]
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


def whole_and_killed(settings: Mapping[str, Any], root: Path) -> tuple[Path, Path]:
    """The directories of two runs, the second of which was killed once in each of ``KILLED_IN``."""
    config = root / "config.yaml"
    config.write_text(yaml.safe_dump(dict(settings)))
    whole, killed = root / "whole", root / "killed"
    run(load_config(config), whole, False, lambda event: None)
    for phase in KILLED_IN:
        _die_in(phase, config, killed)
    run(load_config(config), killed, True, lambda event: None)
    return whole, killed


def _die_in(phase: str, config: Path, out: Path) -> None:
    """Start or go on in a child that kills itself at work inside ``phase`` of the second iteration."""

    def listener(event: Event) -> None:
        working = isinstance(event, PhaseProgress) and event.phase == phase
        learning = phase == "train" and isinstance(event, TrainingStep) and event.step >= 1
        if (working or learning) and event.iteration == 1:  # type: ignore[union-attr]
            os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if child == 0:
        try:
            run(load_config(config), out, (out / "run.json").exists(), listener)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), f"no kill in {phase}"
    assert os.WTERMSIG(status) == signal.SIGKILL
