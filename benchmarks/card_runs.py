"""The steps of ``first_minutes.py`` that start something whole: a run, Unsloth's process, the tests."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from card_base import save_base
from card_tools import Card, Found, Live

from sparta_lite.campaign import keeping
from sparta_lite.campaign.config import load_config
from sparta_lite.campaign.events import Event, PhaseFinished, PhaseStarted
from sparta_lite.campaign.keeping import Kept
from sparta_lite.campaign.loop import run_on
from sparta_lite.campaign.planning import planned
from sparta_lite.campaign.resident import choose
from sparta_lite.engine.chat import Chat
from sparta_lite.errors import SpartaError
from sparta_lite.files import read_json, read_lines, write_json, write_lines
from sparta_lite.randomness import generator

ROOT = Path(__file__).parents[1]
WORDS = ("a", "baker", "sells", "loaves", "on", "every", "day", "of", "the", "week", "for", "two", "dollars")
PHASES = ("generate", "judge", "train")


@dataclass
class Measured:
    """One phase of an iteration."""

    seconds: float = 0.0
    tokens: int = 0
    peak: int = 0
    """Bytes: allocated on a GPU; on a CPU alive beyond those at the phase's start."""
    planned: int = 0
    """Bytes of the same, by the plan."""


@dataclass
class Meter:
    """Listens to a run and takes memory and time by phase."""

    live: Live | None
    """None: a GPU's allocator counts."""
    phases: dict[str, Measured] = field(default_factory=dict)
    start: int = 0

    def __call__(self, event: Event) -> None:
        if isinstance(event, PhaseStarted):
            if self.live is None:
                torch.cuda.reset_peak_memory_stats()
            else:
                self.start = self.live.peak = self.live.now
        elif isinstance(event, PhaseFinished):
            peak = torch.cuda.max_memory_allocated() if self.live is None else self.live.peak - self.start
            self.phases[event.phase] = Measured(event.seconds, event.tokens, peak)


def whole_run(card: Card) -> Found:
    """One iteration end to end on the base in memory: seconds, rates, and peak against plan by phase.

    A plan takes every length at its limit, and so does this: all questions are equally long, answers never
    end by themselves, and the limits are just what that needs.
    """
    base = card.base
    settings = _settings(card)
    config = load_config(None, settings)
    plan, config = planned(config, choose(config))
    live = None if card.on_gpu else Live()
    meter = Meter(live)
    out = card.folder / "run"
    shutil.rmtree(out, ignore_errors=True)
    card.release(base=False)
    with live or nullcontext(), mock.patch.object(keeping, "load_base_of", return_value=base):
        run_on(Kept(datetime(2026, 1, 1)), config, out, False, meter)
    for phase in plan.phases:
        if phase.name in meter.phases:
            standing = -phase.parts["adapters"] if live else plan.weights
            meter.phases[phase.name].planned = phase.memory + standing
    duels = read_lines(out / "iteration-00" / "duels.jsonl")
    pairs = len(read_lines(out / "iteration-00" / "preferences.jsonl"))
    judgments = read_lines(out / "iteration-00" / "judgments.jsonl")
    if not pairs or any(None in judgment["scores"] for judgment in judgments):
        raise SpartaError("run: no pairs, or judgments that failed: this measures nothing")
    seconds = {name: meter.phases[name].seconds for name in PHASES}
    written = sum(len(response["ids"]) for duel in duels for response in duel["responses"])
    return {
        "sizes": asdict(plan.sizes),
        "phases": {name: asdict(meter.phases[name]) for name in PHASES},
        "new_tokens_a_second": written / seconds["generate"],
        "judge_prompts_a_second": 2 * len(judgments) / seconds["judge"],
        "adapter_pairs_a_second": card.sizes.adapters * pairs / seconds["train"],
        "pairs": pairs,
        "choices": read_json(out / "run.json")["choices"],
    }


def _settings(card: Card) -> list[str]:
    sizes, questions = card.sizes, card.folder / "questions.jsonl"
    rows = []
    for number in range(sizes.duels):
        words = [*WORDS] * 5
        generator("card", number).shuffle(words)
        rows.append({"question": " ".join(words)})
    write_lines(questions, rows)
    asked, judged = _lengths(card, [row["question"] for row in rows])
    answer = sizes.new_tokens
    return [
        f"base={card.folder}",
        f"dtype={str(card.dtype).removeprefix('torch.')}",
        f"tribe.adapters=fresh-{sizes.adapters}",
        f"tribe.rank={sizes.rank}",
        f"data.path={questions}",
        "data.column=question",
        "iterations=1",
        f"duels={sizes.duels}",
        f"generation.max_new_tokens={answer}",
        f"generation.max_prompt_tokens={asked}",
        "generation.places=64",
        f"engine.unpack={str(card.unpack).lower()}",
        "judge.minimum_mass=0",
        f"judge.max_tokens={judged + answer}",
        "evaluation.items=0",
        "training.trainer=tribe",
        f"training.max_length={asked + answer}",
        f"training.max_prompt={asked}",
        f"vram={sizes.caps[0] / 1e9:.3f}GB",  # what is free has the base in it already
        *([] if card.on_gpu else ["threads=1"]),
    ]


def _lengths(card: Card, questions: list[str]) -> tuple[int, int]:
    """Tokens of the longest question as a fighter reads it, and of what a judge reads around an answer."""
    own = [f"base={card.folder}", "tribe.adapters=fresh-10"]  # no preset of the pocket tribe
    judge = load_config(None, own).judge
    chat = Chat(card.base.tokenizer, None, judge.layout, judge.wording)
    papers = [chat.judge(question, (), 1 << 20) for question in questions]
    asked = max(len(chat.question(question, 1 << 20).ids) for question in questions)
    return asked, max(len(paper.ids) for paper in papers if paper is not None)


def unsloth(card: Card) -> Found:
    """See ``card_unsloth.py``."""
    folder = card.folder / "checkpoint"
    if not folder.exists():
        save_base(card.base, folder)
        card.base.tokenizer.save_pretrained(folder)
    write_json(folder / "task.json", asdict(card.sizes))
    card.release()  # the card is for whoever loads it
    environment = os.environ if card.on_gpu else {**os.environ, "TRITON_INTERPRET": "1"}
    said = _started([sys.executable, str(ROOT / "benchmarks" / "card_unsloth.py"), str(folder)], environment)
    found: Found = json.loads(said.splitlines()[-1])
    return found


def tests(card: Card) -> Found:
    """Those of the kernels and all marked ``gpu``, compiled; without a card those of the markers."""
    folder = ROOT / "tests"
    asked = [folder / "test_markers.py"]
    if card.on_gpu:
        card.release()
        others = {
            file for file in folder.rglob("test_*.py") if "mark.gpu" in file.read_text(encoding="utf-8")
        }
        asked = [folder / "kernels", *sorted(others - set((folder / "kernels").glob("*.py")))]
    # Not in the root, nor in tests: a folder named kernels there would be taken for a package of that name.
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-c",
        str(ROOT / "pyproject.toml"),
    ]
    said = _started([*command, *map(str, asked)], dict(os.environ), fine=(0, 1))
    lines = said.strip().splitlines()
    failed = [line[:160] for line in lines if line.startswith(("FAILED", "ERROR"))]
    return {"said": lines[-1] if lines else "nothing", "failed": failed, "passed": not failed}


def _started(command: list[str], environment: Any, fine: tuple[int, ...] = (0,)) -> str:
    """What a process wrote; its last words on the standard error, should it fail."""
    done = subprocess.run(
        command,
        env=dict(environment),
        cwd=ROOT / "benchmarks",
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode not in fine:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()
        raise SpartaError(f"it ended with code {done.returncode}: {said[-1] if said else 'nothing said'}")
    return done.stdout
