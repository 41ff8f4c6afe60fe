"""Directories of runs, finished and not, with one file of them damaged."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from random import Random
from typing import Any

import pytest

from sparta_lite.campaign.config import load_config
from sparta_lite.campaign.events import Event, PhaseFinished
from sparta_lite.campaign.loop import run

from .choosing import KEYS, valid
from .damage import KINDS, damage
from .odd import damaged, spoilt
from .trying import Found, command, fuzz, unchanged

SETS = ["tribe.size=3", "iterations=2", "duels=6", "checkpoint=2", "evaluation.items=4", "training.batch=2"]
READING = (
    ["list", "inputs"],
    ["watch", "inputs/run", "--once"],
    ["report", "inputs/run", "--out", "report.html"],
    ["replay", "inputs/run"],
    ["replay", "inputs/run", "--json", "--set", "reputation.kind=paper"],
)
WRITING = (
    ["audit", "inputs/run", "--duels", "0"],
    ["run", "--resume", "--out", "inputs/run", "--plain"],
    ["run", "--resume", "--out", "inputs/run", "--json"],
    ["export", "inputs/run", "--adapter", "best", "--to", "peft", "--out", "exported"],
    ["eval", "inputs/run", "--items", "2", "--out", "measured.json"],
)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A finished run, and two that were stopped: after judging, and while training."""
    places = {}
    for name, phase in (("finished", None), ("judged", "judge"), ("trained", "train")):
        places[name] = tmp_path_factory.mktemp("fuzz") / name

        def stop(event: Event, phase: str | None = phase) -> None:
            if isinstance(event, PhaseFinished) and event.phase == phase and event.iteration == 1:
                raise KeyboardInterrupt

        try:
            run(load_config(None, SETS), places[name], False, stop)
        except KeyboardInterrupt:
            assert phase
    return places


def test_damaged_runs(runs: dict[str, Path]) -> None:
    def attempt(number: int, random: Random, place: Path) -> str:
        shutil.copytree(random.choice(list(runs.values())), place / "inputs" / "run")
        for _ in range(random.choice((1, 1, 1, 3))):
            _spoil(place / "inputs" / "run", random)
        arguments = random.choice(READING if random.random() < 0.85 else WRITING)
        if arguments in READING:
            with unchanged(place / "inputs"):
                return command(arguments)
        before = place / "before"
        shutil.copytree(place / "inputs", before)
        came_to = command(arguments)
        if came_to == "refused":
            _require_same(before, place / "inputs")
        return came_to

    fuzz("runs", 100, attempt)


def test_a_changed_record_is_noticed(runs: dict[str, Path]) -> None:
    """Also where it still parses: by every command that goes by the run's records, which changes nothing."""

    def attempt(number: int, random: Random, place: Path) -> str:
        run = Path(shutil.copytree(runs["finished"], place / "inputs" / "run"))
        file = random.choice(
            [path for path in run.rglob("*.json*") if "iteration-00/adapters" not in str(path)]
        )
        before = file.read_bytes()
        if not damage(file, random.choice(KINDS), number) or _says_the_same(before, file):
            return "no damage"
        # Adapters are looked at by whoever loads all of them.
        arguments = random.choice(WRITING[1:3] if "adapters" in file.parts else (*READING[2:], *WRITING))
        with unchanged(place / "inputs"):
            if command(arguments) != "refused":
                raise Found(f"{arguments[0]} did not notice what was done to {file.relative_to(run)}")
        return "refused"

    fuzz("changes", 60, attempt)


def test_rules_at_the_ends_of_their_ranges(runs: dict[str, Path]) -> None:
    """Whatever reputation and pairs are set to, a replay comes to finite numbers or is refused."""
    rules = [key for key in KEYS if key.startswith(("reputation.", "pairs."))]

    def attempt(number: int, random: Random, place: Path) -> str:
        keys = rules[number : number + 1] or random.sample(rules, random.choice((1, 3, 6)))
        sets = [part for key in keys for part in ("--set", f"{key}={valid(key, random)}")]
        with unchanged(place / "inputs"):
            return command(["replay", str(runs["finished"]), "--json", *sets])

    fuzz("rules", 100, attempt)


def _says_the_same(before: bytes, after: Path) -> bool:
    """Whether a run's record, which vouches for its content and not for its bytes, is still the same."""
    if after.name != "run.json":
        return False
    try:
        return bool(json.loads(before) == json.loads(after.read_bytes()))
    except (ValueError, RecursionError):
        return False


def _require_same(before: Path, after: Path) -> None:
    """A command that refuses does so before it writes."""
    for file in (each for each in before.rglob("*") if each.is_file() and each.name != "lock"):
        now = after / file.relative_to(before)
        if not now.is_file() or now.read_bytes() != file.read_bytes():
            raise Found(f"refused, but changed {file.relative_to(before)}")


def _spoil(tree: Path, random: Random) -> None:
    file = random.choice(sorted(path for path in tree.rglob("*") if path.is_file()))
    data = file.read_bytes()
    if random.random() < 0.05:
        file.unlink()
        return
    if file.suffix not in (".json", ".jsonl") or random.random() < 0.3:
        file.write_bytes(damaged(data, random))
        return
    try:
        rows = [json.loads(text) for text in (data.splitlines() if file.suffix == ".jsonl" else [data])]
    except (ValueError, RecursionError):  # it was damaged before
        file.write_bytes(damaged(data, random))
        return
    value: Any = spoilt(rows if file.suffix == ".jsonl" else rows[0], random)
    whole = file.suffix == ".json" or not isinstance(value, list)
    file.write_text(json.dumps(value) if whole else "".join(json.dumps(row) + "\n" for row in value))
