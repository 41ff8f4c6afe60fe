"""Settings: files of any structure, --set of any text, arms of an ablation."""

from __future__ import annotations

import os
from pathlib import Path
from random import Random
from typing import Any

import yaml

from sparta_lite.campaign.config import load_config, show_config

from .choosing import KEYS, valid
from .odd import damaged, odd, spoilt
from .trying import command, fuzz, unchanged

KNOWN = (
    b"a: &a [*a]",
    b"a: &a {<<: *a}",
    b"a: &a {b: &b [*a, *b]}",
    b"x0: &x0 [1, 1, 1]\n" + b"".join(b"x%d: &x%d [*x%d, *x%d]\n" % (n + 1, n + 1, n, n) for n in range(20)),
    b"? [1, 2]\n: 3",
    b"? {a: 1}\n: 3",
    b"1: 2",
    b"null: 1",
    b"yes: no",
    b"2024-01-01: 1",
    b"duels: 2024-01-01",
    b"duels: 010",
    b"duels: 1:30",
    b"duels: 0x1F",
    b"duels: 0b11",
    b"duels: 1_000",
    b"duels: 1e3",
    b"duels: =",
    b"duels: <<",
    b"<<: 1",
    b"<<: [{duels: 1}, {duels: 2}]",
    b"duels: !!int ''",
    b"duels: !!bool maybe",
    b"duels: !!timestamp x",
    b"duels: !!python/name:os.system ''",
    b"%YAML 1.2\n---\nduels: 1",
    b"--- {}\n--- {}",
    b"- a\n- b",
    b"text",
    b"",
    b"null",
    b"# nothing",
    b"training:",
    b"training: []",
    b"tribe: {adapters: {a: x, b: y}}",
    b"tribe: {adapters: fresh-99999999999999999999}",
    b"vram: " + b"9" * 400 + b"GB",
    b"seed: " + b"9" * 5000,
    b"reputation: {virtual_duels: 1e308}",
    b"training: {epochs: 1000000}",
    b"data: {path: '~nobody/x.jsonl', column: q}",
    b'data: {path: "a\\0b", column: q}',
    b"base: ''",
)
BASES = ("Qwen/Qwen2.5-0.5B", "Qwen/Qwen3-0.6B")
SETS = (
    "training.batch=1" + "0" * 40,
    "training.batch=1" + "0" * 5000,
    "a" + ".a" * 3000 + "=1",
    "=",
    "",
    ".=1",
    "duels",
    "duels==1",
    "duels={",
    "duels=&a [*a]",
    "data.template={",
    "tribe.adapters={}",
    "tribe.adapters.a=x",
    "x" * 10_000,
    "x" * 10_000 + "=1",
)


def test_files_of_settings() -> None:
    whole = show_config(load_config(None))
    base = yaml.safe_load(whole)
    small = {key: base[key] for key in ("seed", "tribe", "judge", "training")}

    def attempt(number: int, random: Random, place: Path) -> str:
        if number < len(KNOWN):
            data = KNOWN[number]
        elif random.random() < 0.15:
            data = damaged(whole.encode(), random)
        else:
            settings: Any = random.choices((base, small, {}), (1, 8, 8))[0]
            for _ in range(random.choice((1, 1, 2, 5))):
                settings = _changed(settings, random)
            data = yaml.safe_dump(settings, allow_unicode=random.random() < 0.5).encode(
                "utf-8", "surrogatepass"
            )
        (place / "inputs" / "c.yaml").write_bytes(data)
        with unchanged(place / "inputs"):
            return command(["run", "inputs/c.yaml", "--show-config"])

    fuzz("settings", 300, attempt)


def _changed(settings: Any, random: Random) -> Any:
    if settings and random.random() < 0.5:
        return spoilt(settings, random)
    start, _, name = random.choice(KEYS).rpartition(".")
    if not isinstance(settings, dict) or not isinstance(settings.get(start, {}), dict):
        return {name: odd(random)}
    if start:
        return {**settings, start: {**settings.get(start, {}), name: odd(random)}}
    return {**settings, name: odd(random)}


def test_settings_on_the_command_line() -> None:
    def attempt(number: int, random: Random, place: Path) -> str:
        if number < len(SETS):
            given = [SETS[number]]
        else:
            given = []
            for _ in range(random.choice((1, 1, 3))):
                value = odd(random)
                text = value if isinstance(value, str) else yaml.safe_dump(value, default_flow_style=True)
                given.append(f"{random.choice(KEYS)}={text.encode('utf-8', 'replace').decode()}")
        arguments = [part for each in given for part in ("--set", each.replace("\0", ""))]
        with unchanged(place / "inputs"):
            return command(["run", "--show-config", *arguments])

    fuzz("set", 300, attempt)


def test_files_of_arms() -> None:
    arms = yaml.safe_load("default: {}\nsmall: {tribe.size: 4, duels: 7}\nmild: {reputation: {scale: 1e1}}\n")

    def attempt(number: int, random: Random, place: Path) -> str:
        if number < len(KNOWN):
            data = KNOWN[number]
        elif random.random() < 0.2:
            data = damaged(yaml.safe_dump(arms).encode(), random)
        else:
            data = yaml.safe_dump(spoilt(arms, random)).encode("utf-8", "surrogatepass")
        (place / "inputs" / "arms.yaml").write_bytes(data)
        # Arms that are fine get no further than to questions that are not there.
        nothing = ["--set", "data.path=none.jsonl", "--set", "data.column=q", "--out", "out"]
        with unchanged(place / "inputs"):
            came_to = command(["ablate", "--arms", "inputs/arms.yaml", "--seeds", "2", *nothing])
        assert not os.path.exists("out")
        return came_to

    fuzz("arms", 150, attempt)


def test_plans_of_whatever_settings_are_taken() -> None:
    """Settings that are valid, however extreme, plan or are refused."""
    fixed = ("data.", "base", "tribe.adapters", "threads", "vram", "device", "evaluation.", "trackers")
    free = [key for key in KEYS if not key.startswith(fixed)]

    def attempt(number: int, random: Random, place: Path) -> str:
        sets = [f"base={random.choice(BASES)}", "tribe.adapters=fresh-4", "data.task=gsm8k"]
        sets.append(f"vram={random.choice(('24GB', '24GB', '80GiB', '1MB', '999999999GB'))}")
        sets += [f"{key}={valid(key, random)}" for key in random.sample(free, random.choice((1, 2, 4)))]
        return command(["plan", *(part for each in sets for part in ("--set", each))])

    fuzz("plan", 60, attempt)
