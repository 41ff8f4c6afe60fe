"""One whole iteration on one card: seconds, rates, and peak memory against the plan, phase by phase.

    python benchmarks/card.py --vram 24GB --json card.json      # a GPU: Qwen2.5-7B's shape, Unsloth and tribe
    python benchmarks/card.py --duels 32 --new-tokens 64        # a CPU: a small shape, two minutes

The base has random weights of the exact shape and goes the road of a real one: a checkpoint on the disk,
quantised to NF4 while it is loaded, ten new r-16 adapters. A plan takes every length at its limit, and so
does this: all questions are equally long, answers never end by themselves, and the limits are just what
that needs. On a GPU the process may allocate no more than ``--vram`` says. Every trainer runs in a process
of its own, for Unsloth changes the process it is in. On a CPU bytes are counted operation by operation,
beyond base and adapters, and that makes everything slower.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import weakref
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sparta_lite.campaign.config import load_config
from sparta_lite.campaign.events import Event, PhaseFinished, PhaseStarted
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
    """Bytes: allocated on a GPU; on a CPU alive beyond those at the phase's start."""
    planned: int = 0
    """Bytes of the same, by the plan."""


class Live(TorchDispatchMode):
    """Bytes of the storages that operations have made and that are still alive, and their peak.

    It sees what an allocator on a GPU would; a process's resident size says little of it.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self._sizes: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        given = {_key(each) for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)}
        for each in tree_leaves(out):
            if isinstance(each, Tensor) and _key(each) not in {*given, *self._sizes}:
                storage = each.untyped_storage()
                self._sizes[_key(each)] = storage.nbytes()
                self.now += storage.nbytes()
                self.peak = max(self.peak, self.now)
                weakref.finalize(storage, self._gone, _key(each))
        return out

    def _gone(self, key: int) -> None:
        self.now -= self._sizes.pop(key)


def _key(tensor: Tensor) -> int:
    key: int = tensor.untyped_storage()._cdata
    return key


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
    del model
    torch.cuda.empty_cache()  # the card is for whoever loads it


def make_questions(path: Path, count: int) -> None:
    """Questions of the same words in other orders: all of the same number of tokens."""
    rows = []
    for number in range(count):
        words = [*WORDS] * 5
        generator("card", number).shuffle(words)
        rows.append({"question": " ".join(words)})
    write_lines(path, rows)


def lengths(base: Path, questions: list[str]) -> tuple[int, int]:
    """Tokens of the longest question as a fighter reads it, and of what a judge reads around an answer."""
    from transformers import AutoTokenizer

    from sparta_lite.engine.chat import Chat

    config = load_config(None, [f"base={base}", "tribe.adapters=fresh-10"])
    chat = Chat(AutoTokenizer.from_pretrained(base), None, config.judge.layout, config.judge.wording)
    papers = [chat.judge(question, (), 1 << 20) for question in questions]
    asked = max(len(chat.question(question, 1 << 20).ids) for question in questions)
    return asked, max(len(paper.ids) for paper in papers if paper is not None)


def settings(arguments: argparse.Namespace, trainer: str, root: Path) -> list[str]:
    questions = [row["question"] for row in read_lines(root / "questions.jsonl")]
    asked, judged = lengths(root / "base", questions)
    answer = arguments.new_tokens
    return [
        f"base={root / 'base'}",
        "tribe.adapters=fresh-10",
        f"data.path={root / 'questions.jsonl'}",
        "data.column=question",
        "iterations=1",
        f"duels={arguments.duels}",
        f"generation.max_new_tokens={answer}",
        f"generation.max_prompt_tokens={asked}",
        "generation.places=64",
        "judge.minimum_mass=0",
        f"judge.max_tokens={judged + answer}",
        "evaluation.items=0",
        f"training.trainer={trainer}",
        f"training.max_length={asked + answer}",
        f"training.max_prompt={asked}",
        f"vram={arguments.vram}",
        *([] if torch.cuda.is_available() else ["threads=1"]),
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
    live = None if cuda else Live()
    meter = Meter(live)
    out = root / f"run-{trainer}"
    with live or nullcontext():
        run(config, out, False, meter)
    for phase in plan.phases:
        if phase.name in meter.phases:
            standing = -phase.parts["adapters"] if live else plan.weights
            meter.phases[phase.name].planned = phase.memory + standing
    duels = read_lines(out / "iteration-00" / "duels.jsonl")
    pairs = len(read_lines(out / "iteration-00" / "preferences.jsonl"))
    judgments = read_lines(out / "iteration-00" / "judgments.jsonl")
    if not pairs or any(None in judgment["scores"] for judgment in judgments):
        raise SpartaError(f"{trainer}: no pairs, or judgments that failed: this measures nothing")
    seconds = {name: meter.phases[name].seconds for name in PHASES}
    written = sum(len(response["ids"]) for duel in duels for response in duel["responses"])
    return {
        "trainer": trainer,
        "sizes": asdict(plan.sizes),
        "phases": {name: asdict(meter.phases[name]) for name in PHASES},
        "new tokens a second": written / seconds["generate"],
        "judge prompts a second": 2 * len(judgments) / seconds["judge"],
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
    parser.add_argument("--quick", action="store_true", help="few duels of the small shape: a smoke test")
    parser.add_argument("--json", type=Path, help="write the figures there")
    parser.add_argument("--child", nargs=2, metavar=("TRAINER", "DIRECTORY"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.shape, arguments.duels, arguments.new_tokens = "small", 10, 8
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
        make_questions(root / "questions.jsonl", arguments.duels)
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
