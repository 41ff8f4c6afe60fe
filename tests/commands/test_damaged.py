"""A damaged base or adapter ends every command in one line and leaves every file as it was."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from sparta_lite.commands.app import app

from ..run_files import forget_digests

Command = Callable[[Path, Path, Path, Path], list[str]]
"""(base, adapters, a finished run of both, an empty directory) -> its words."""


def sets(base: Path, adapters: Path) -> list[str]:
    given = [f"base={base}", f"tribe.adapters={adapters}", "quantization=none", "threads=1", "iterations=1"]
    return [word for each in [*given, "duels=3", "evaluation.items=0"] for word in ("--set", each)]


def forge(base: Path, adapters: Path, run: Path, empty: Path) -> list[str]:
    rows = empty.parent / "rows.jsonl"
    rows.write_text("".join(f'{{"prompt": "one", "response": "two", "set": "{name}"}}\n' for name in "abc"))
    words = ["--data", str(rows), "--by", "set", "--column", "prompt", "--quantization", "none"]
    return ["forge", "--base", str(base), "--out", str(empty / "forged"), *words]


def export(form: str) -> Command:
    def words(base: Path, adapters: Path, run: Path, empty: Path) -> list[str]:
        return ["export", str(run), "--adapter", "ada", "--to", form, "--out", str(empty / "exported")]

    return words


COMMANDS: dict[str, Command] = {
    "run": lambda base, adapters, run, empty: ["run", *sets(base, adapters), "--out", str(empty / "run")],
    "plan": lambda base, adapters, run, empty: ["plan", *sets(base, adapters)],
    "forge": forge,
    "eval": lambda base, adapters, run, empty: ["eval", str(run)],
    "chat": lambda base, adapters, run, empty: ["chat", str(run), "--adapter", "ada"],
    "export merged": export("merged"),
    "export gguf-lora": export("gguf-lora"),
    "export peft": export("peft"),
}


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def halve(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


OF_WEIGHTS = ("run", "forge", "eval", "chat", "export merged")
OF_BASE = (*OF_WEIGHTS, "plan", "export gguf-lora")
OF_ADAPTER = ("run", "plan", "eval", "chat", "export merged", "export gguf-lora", "export peft")
Damages = dict[str, tuple[Callable[[Path], object], str, tuple[str, ...]]]
"""What is done to the directory, what must be said, and which commands meet it."""
BASES: Damages = {
    "config.json null": (lambda base: (base / "config.json").write_text("null"), "config.json", OF_BASE),
    "config.json a list": (lambda base: (base / "config.json").write_text("[1]"), "config.json", OF_BASE),
    "half the weights": (lambda base: halve(base / "model.safetensors"), "model.safetensors", OF_WEIGHTS),
    "a length in words": (
        lambda base: edit(base / "tokenizer_config.json", model_max_length="long"),
        "tokenizer_config.json",
        ("run", "forge", "eval", "chat"),
    ),
}
ADAPTERS: Damages = {
    "modules: a number": (
        lambda adapter: edit(adapter / "adapter_config.json", target_modules=3),
        "target_modules must be a list of names",
        OF_ADAPTER,
    ),
    "a broken expression": (
        lambda adapter: edit(adapter / "adapter_config.json", target_modules="(q_proj"),
        "target_modules holds no regular expression",
        OF_ADAPTER,
    ),
    "ranks in words": (
        lambda adapter: edit(adapter / "adapter_config.json", rank_pattern={"q_proj": "four"}),
        "rank_pattern",
        OF_ADAPTER,
    ),
}


def contents(*places: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for place in places for path in place.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("damage", "command"),
    [(name, command) for name, (_, _, met) in (BASES | ADAPTERS).items() for command in met],
)
def test_it_ends_in_one_line(
    small_run: Path,
    base_path: Path,
    adapter_paths: dict[str, Path],
    tmp_path: Path,
    damage: str,
    command: str,
) -> None:
    base, adapters, run, empty = (tmp_path / name for name in ("base", "adapters", "run", "empty"))
    shutil.copytree(base_path, base)
    shutil.copytree(small_run, run)
    forget_digests(run)  # what is damaged here is what a run brought along, not what it wrote
    empty.mkdir()
    for name, path in adapter_paths.items():
        shutil.copytree(path, adapters / name)
    config = yaml.safe_load((run / "config.yaml").read_text())
    (run / "config.yaml").write_text(yaml.safe_dump({**config, "base": str(base)}))
    harm, reason, _ = (BASES | ADAPTERS)[damage]
    for place in [base] if damage in BASES else [adapters / "ada", run / "iteration-00" / "adapters" / "ada"]:
        harm(place)
    words = COMMANDS[command](base, adapters, run, empty)
    before = contents(base, run, empty, adapters)
    result = CliRunner().invoke(app, words, input="hello\n")
    assert result.exit_code == 2, (result.output, result.exception)
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert reason in last
    assert len(last) <= 307
    assert contents(base, run, empty, adapters) == before
