"""One whole iteration on one card: seconds, rates, and peak memory against the plan, phase by phase.

    python benchmarks/card.py --vram 24GB --json card.json      # a GPU: Qwen2.5-7B's shape, Unsloth and tribe
    python benchmarks/card.py --shape small --duels 8           # a CPU: the same road in two minutes

The base has random weights of the exact shape and goes the road of a real one: a checkpoint on the disk,
quantised to NF4 while it is loaded, ten new r-16 adapters, instructions as long as GSM8K's. Its answers never
end by themselves, so every one is as long as it may be. On a GPU the process may allocate no more than
``--vram`` says. Every trainer runs in a process of its own, for Unsloth changes the process it is in.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil
import torch
from rich.console import Console
from rich.table import Table

from sparta_lite.campaign.config import load_config
from sparta_lite.campaign.events import Event, PhaseFinished, PhaseProgress, PhaseStarted
from sparta_lite.errors import SpartaError
from sparta_lite.files import read_json, read_lines, write_json, write_lines
from sparta_lite.pocket import base_path
from sparta_lite.randomness import generator

SHAPES: dict[str, dict[str, Any]] = {
    "7b": {  # Qwen/Qwen2.5-7B-Instruct
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "vocab_size": 152064,
        "max_position_embeddings": 32768,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
        "tie_word_embeddings": False,
    },
    "small": {
        "hidden_size": 256,
        "intermediate_size": 704,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 8192,
        "max_position_embeddings": 4096,
        "tie_word_embeddings": False,
    },
}
WORDS = ("a", "baker", "sells", "loaves", "on", "every", "day", "of", "the", "week", "for", "two", "dollars")
PHASES = ("generate", "judge", "train")


@dataclass
class Measured:
    """One phase of the iteration."""

    seconds: float = 0.0
    tokens: int = 0
    peak: int = 0
    """Bytes: allocated on a GPU; on a CPU resident size beyond that before the run."""
    planned: int = 0
    """Bytes of the base's weights and of the phase, by the plan."""


@dataclass
class Meter:
    """Listens to a run and takes memory and time by phase."""

    cuda: bool
    phases: dict[str, Measured] = field(default_factory=dict)
    now: str = ""

    def __post_init__(self) -> None:
        self.before = psutil.Process().memory_info().rss
        if not self.cuda:
            threading.Thread(target=self._watch, daemon=True).start()

    def __call__(self, event: Event) -> None:
        if isinstance(event, PhaseStarted):
            self.now = event.phase
            self.phases.setdefault(event.phase, Measured())
            if self.cuda:
                torch.cuda.reset_peak_memory_stats()
        elif isinstance(event, PhaseProgress):
            self._take(torch.cuda.max_memory_allocated() if self.cuda else 0)
        elif isinstance(event, PhaseFinished):
            self._take(torch.cuda.max_memory_allocated() if self.cuda else 0)
            self.phases[event.phase].seconds += event.seconds
            self.phases[event.phase].tokens += event.tokens

    def _take(self, size: int) -> None:
        if self.now:
            self.phases[self.now].peak = max(self.phases[self.now].peak, size)

    def _watch(self) -> None:
        process = psutil.Process()
        while True:
            self._take(process.memory_info().rss - self.before)
            time.sleep(0.02)


def make_base(path: Path, shape: str) -> None:
    """A checkpoint of random weights in bf16, with the pocket tribe's tokenizer."""
    from transformers import AutoModelForCausalLM, Qwen2Config

    for file in base_path().iterdir():
        if "token" in file.name or file.suffix == ".jinja":
            path.mkdir(exist_ok=True)
            shutil.copy(file, path)
    ids = read_json(base_path() / "config.json")
    ends = {key: ids[key] for key in ("eos_token_id", "pad_token_id", "bos_token_id")}
    torch.manual_seed(0)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = AutoModelForCausalLM.from_config(Qwen2Config(**SHAPES[shape], **ends), dtype=torch.bfloat16)
    model.save_pretrained(path, max_shard_size="4GB")


def make_questions(path: Path, count: int, words: int) -> None:
    """Questions of ``words`` words, each another."""
    rows = []
    for number in range(count):
        text = generator("card", number).choices(WORDS, k=words)
        rows.append({"question": f"{number}: {' '.join(text)}?"})
    write_lines(path, rows)


def settings(arguments: argparse.Namespace, trainer: str, root: Path) -> list[str]:
    cuda = torch.cuda.is_available()
    return [
        f"base={root / 'base'}",
        "tribe.adapters=fresh-10",
        f"data.path={root / 'questions.jsonl'}",
        "data.column=question",
        "iterations=1",
        f"duels={arguments.duels}",
        f"generation.max_new_tokens={arguments.new_tokens}",
        "generation.max_prompt_tokens=512",
        "judge.minimum_mass=0",
        "judge.max_tokens=1024",
        "evaluation.items=0",
        f"training.trainer={trainer}",
        "training.max_length=768",
        "training.max_prompt=512",
        f"vram={arguments.vram}",
        *([] if cuda else ["threads=1"]),
    ]


def one(arguments: argparse.Namespace, trainer: str, root: Path) -> dict[str, Any]:
    """One iteration with one trainer, in this process."""
    from sparta_lite.campaign.loop import run
    from sparta_lite.campaign.planning import parse_memory, planned
    from sparta_lite.campaign.resident import choose

    cuda = torch.cuda.is_available()
    config = load_config(None, settings(arguments, trainer, root))
    if cuda:
        whole = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, parse_memory(arguments.vram) / whole))
    plan, config = planned(config, choose(config))
    meter = Meter(cuda)
    out = root / f"run-{trainer}"
    run(config, out, False, meter)
    for phase in plan.phases:
        if phase.name in meter.phases:
            meter.phases[phase.name].planned = plan.weights + phase.memory
    duels = read_lines(out / "iteration-00" / "duels.jsonl")
    pairs = len(read_lines(out / "iteration-00" / "preferences.jsonl"))
    seconds = {name: meter.phases[name].seconds for name in PHASES}
    written = sum(len(response["ids"]) for duel in duels for response in duel["responses"])
    return {
        "trainer": trainer,
        "sizes": asdict(plan.sizes),
        "phases": {name: asdict(meter.phases[name]) for name in PHASES},
        "new tokens a second": written / seconds["generate"],
        "judge prompts a second": 2 * 8 * len(duels) / seconds["judge"],
        "adapter-pairs a second": 10 * pairs / seconds["train"],
        "pairs": pairs,
        "choices": read_json(out / "run.json")["choices"],
        "versions": read_json(out / "run.json")["versions"],
        "device": torch.cuda.get_device_name() if cuda else "CPU",
    }


def show(results: list[dict[str, Any]]) -> None:
    table = Table("trainer", "phase", "seconds", "peak GB", "planned GB", "peak / planned")
    for result in results:
        for name, phase in result["phases"].items():
            ratio = phase["peak"] / phase["planned"]
            gigabytes = (f"{phase[key] / 1e9:.3f}" for key in ("peak", "planned"))
            table.add_row(result["trainer"], name, f"{phase['seconds']:.1f}", *gigabytes, f"{ratio:.2f}")
    console = Console()
    console.print(table)
    for result in results:
        rates = ", ".join(f"{result[key]:,.1f} {key}" for key in result if key.endswith("a second"))
        console.print(f"{result['trainer']} on {result['device']}: {rates}; {result['sizes']}")


def main() -> int:
    cuda = torch.cuda.is_available()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", choices=SHAPES, default="7b" if cuda else "small")
    parser.add_argument("--vram", default="24GB", help="what is planned for and, on a GPU, all there is")
    parser.add_argument("--duels", type=int, default=64)
    parser.add_argument("--new-tokens", type=int, default=256)
    parser.add_argument("--trainers", default="unsloth,tribe" if cuda else "tribe")
    parser.add_argument("--json", type=Path, help="write all figures there")
    parser.add_argument("--child", nargs=2, metavar=("TRAINER", "DIRECTORY"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        trainer, directory = arguments.child
        try:
            print(json.dumps(one(arguments, trainer, Path(directory))))
        except SpartaError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        return 0

    results = []
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        make_base(root / "base", arguments.shape)
        make_questions(root / "questions.jsonl", max(arguments.duels, 3), words=60)
        for trainer in arguments.trainers.split(","):
            command = [sys.executable, __file__, *sys.argv[1:], "--child", trainer, directory]
            # On a CPU, TRL's kernels have to be interpreted.
            environment = os.environ if cuda else {**os.environ, "TRITON_INTERPRET": "1"}
            done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=False)
            if done.returncode:
                return done.returncode
            results.append(json.loads(done.stdout.splitlines()[-1]))
    show(results)
    if arguments.json:
        write_json(arguments.json, results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
