"""Run by test_resume.py in a process of its own: campaigns whose processes are killed again and again.

Usage: crashes.py CONFIG DIRECTORY [ALGORITHM]. Prints one JSON object: scenario -> number of kills.
One run of a baseline is killed in all of its phases.
The libraries are imported once; every campaign then runs in a forked child that SIGKILLs itself.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import Qwen2ForCausalLM, Qwen2TokenizerFast

from sparta_lite.campaign.config import load_config
from sparta_lite.campaign.events import Event, PhaseProgress, PhaseStarted, TrainingStep
from sparta_lite.campaign.loop import run

CONFIG, ROOT = Path(sys.argv[1]), Path(sys.argv[2])
ALGORITHM = sys.argv[3] if len(sys.argv) > 3 else "sparta"
IMPORTED = (
    Qwen2ForCausalLM,
    Qwen2TokenizerFast,
)  # imported before any fork
PHASES = ("evaluate", "match", "generate", "judge", "settle", "train")  # as a run comes to them


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def campaign(out: Path, prepare: Callable[[], Callable[[Event], None]]) -> bool:
    """Start or resume in a child; True when it finished, False when it was killed."""
    child = os.fork()
    if child == 0:
        listener = prepare()
        try:
            run(load_config(CONFIG, [f"algorithm={ALGORITHM}"]), out, (out / "run.json").exists(), listener)
        except BaseException as error:
            print(repr(error), file=sys.stderr)
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return False
    assert os.WEXITSTATUS(status) == 0, "the campaign failed instead of going on"
    return True


def in_phase(phase: str) -> Callable[[], Callable[[Event], None]]:
    """Die at the first sign of work inside ``phase`` of the second iteration."""

    def listener(event: Event) -> None:
        inside = isinstance(event, PhaseProgress | PhaseStarted) and event.phase == phase
        learning = phase == "train" and isinstance(event, TrainingStep) and event.step >= 2
        started_is_too_early = isinstance(event, PhaseStarted) and phase == "train"
        if (inside and not started_is_too_early and event.iteration == 1) or (
            learning and event.iteration == 1
        ):
            die()

    return lambda: listener


def at_write(number: int) -> Callable[[], Callable[[Event], None]]:
    """Die at the ``number``-th time that something is made durable or put in place."""

    def prepare() -> Callable[[Event], None]:
        left = [number]

        def counted(call: Callable[..., None]) -> Callable[..., None]:
            def wrapper(*arguments: object) -> None:
                left[0] -= 1
                if left[0] == 0:
                    die()
                call(*arguments)

            return wrapper

        os.fsync = counted(os.fsync)
        os.replace = counted(os.replace)
        os.rename = counted(os.rename)
        return lambda event: None

    return prepare


def main() -> None:
    torch.set_num_threads(1)
    kills = {}
    assert campaign(ROOT / "whole", lambda: lambda event: None)
    if ALGORITHM != "sparta":
        for phase in PHASES:
            assert not campaign(ROOT / "killed", in_phase(phase)), f"no kill in {phase}"
        assert campaign(ROOT / "killed", lambda: lambda event: None)
        print(json.dumps({"killed": len(PHASES)}))
        return
    for phase in PHASES:
        out = ROOT / f"killed-in-{phase}"
        assert not campaign(out, in_phase(phase)), f"no kill in {phase}"
        assert campaign(out, lambda: lambda event: None)
        kills[out.name] = 1
    rng = random.Random(5)
    out, count = ROOT / "killed-at-writes", 0
    while not campaign(out, at_write(rng.randrange(3, 70))):
        count += 1
        assert count < 200, "the campaign does not get on"
    kills[out.name] = count
    print(json.dumps(kills))


main()
