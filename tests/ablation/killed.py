"""Run by test_running.py in a process of its own: an ablation whose process is killed in its second run.

Usage: killed.py CONFIG DIRECTORY.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from sparta_lite.ablation.arms import grid, load_arms
from sparta_lite.ablation.grid import new_grid
from sparta_lite.ablation.running import RunBegins, run_all
from sparta_lite.campaign.events import PhaseStarted

CONFIG, ROOT = Path(sys.argv[1]), Path(sys.argv[2])
runs = 0


def listener(event: object) -> None:
    global runs
    runs += isinstance(event, RunBegins)
    if runs == 2 and isinstance(event, PhaseStarted) and event.phase == "judge":
        os.kill(os.getpid(), signal.SIGKILL)


arms = load_arms(CONFIG, [], grid(["reputation.scale=20,0.1"]))
run_all(new_grid(ROOT, arms, 1, True), listener)
