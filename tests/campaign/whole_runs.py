"""A run that is killed in the midst of its phases and goes on, beside one that never was; what leaves it."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from peft import PeftModel
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from sparta_lite.campaign.config import load_config
from sparta_lite.campaign.events import Event, PhaseProgress, TrainingStep
from sparta_lite.campaign.loop import run
from sparta_lite.commands.app import app
from sparta_lite.engine.base import load_base
from sparta_lite.engine.likelihood import Continuation, log_probabilities
from sparta_lite.engine.peft_io import load_bank, read_adapter

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


def require_exports(run: Path, out: Path) -> None:
    """Export a run's best adapter in PEFT's form and merged: here, in PEFT and merged it is the same."""
    for form in ("peft", "merged"):
        asked = ["export", str(run), "--adapter", "best", "--to", form, "--out", str(out / form)]
        result = CliRunner().invoke(app, asked)
        assert result.exit_code == 0, result.output
    ids = tuple(range(10, 90))
    base = load_base(load_config(run / "config.yaml").base, torch.device("cpu"))
    bank = load_bank(base.decoder, [read_adapter("best", out / "peft")])
    asked_of = [Continuation(adapter, ids[:1], ids[1:]) for adapter in ("best", None)]
    ours, before = log_probabilities(base, bank, asked_of, 128)
    bare = AutoModelForCausalLM.from_pretrained(base.name, attn_implementation="eager").eval()
    merged = AutoModelForCausalLM.from_pretrained(out / "merged", attn_implementation="eager").eval()
    for model in (PeftModel.from_pretrained(bare, out / "peft").eval(), merged):
        with torch.no_grad():
            table = model(torch.tensor([ids])).logits[0].log_softmax(-1)
        torch.testing.assert_close(ours, table[range(len(ids) - 1), ids[1:]], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(before, ours, atol=1e-3)


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
