"""What is wrong at a glance is refused before anything heavy is imported."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

WRONG = (
    "eval nowhere",
    "eval . --path gsm8k=nowhere.jsonl",
    "export nowhere",
    "chat nowhere",
    "audit nowhere",
    "report nowhere",
    "watch nowhere --once",
    "list nowhere",
    "replay nowhere",
    "run nowhere.yaml",
    "run --resume --out nowhere",
    "run --set base=nowhere --set tribe.adapters=fresh-3",
    "run --set tribe.adapters=nowhere",
    'run --set tribe.adapters={"a":"nowhere","b":"nowhere","c":"nowhere"}',
    "run --set data.path=nowhere.jsonl --set data.column=text",
    "plan nowhere.yaml",
    "plan --set base=nowhere --set tribe.adapters=fresh-3",
    "plan --set tribe.adapters=nowhere",
    "ablate nowhere.yaml --vary reputation.kind=paper,uniform",
    "ablate --arms nowhere.yaml",
    "ablate --vary duels=1,2 --set tribe.adapters=nowhere",
    "ablate --resume --out nowhere",
    "forge --base pocket --data nowhere.jsonl --by kind",
    "forge --base /nowhere --data tulu-v2",
)
ONE_AFTER_ANOTHER = """
import json, sys
from typer.testing import CliRunner
from sparta_lite.commands.app import app
for line in json.loads(sys.argv[1]):
    result = CliRunner().invoke(app, line.split())
    print(json.dumps([line, result.exit_code, result.stderr, "torch" in sys.modules]))
"""


@pytest.fixture(scope="module")
def refusals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, str, bool]]:
    """Command -> exit code, what it said, and whether torch had been imported by then."""
    command = [sys.executable, "-c", ONE_AFTER_ANOTHER, json.dumps(WRONG)]
    place = tmp_path_factory.mktemp("empty")
    done = subprocess.run(command, capture_output=True, text=True, cwd=place, timeout=120)
    assert done.returncode == 0, done.stderr
    assert not any(place.iterdir())
    return {
        line: (code, said, heavy) for line, code, said, heavy in map(json.loads, done.stdout.splitlines())
    }


@pytest.mark.parametrize("line", WRONG)
def test_a_wrong_place_is_refused_without_torch(
    refusals: dict[str, tuple[int, str, bool]], line: str
) -> None:
    code, said, heavy = refusals[line]
    assert code == 2
    assert said.startswith("error: ")
    assert "nowhere" in said
    assert said.count("\n") == 1
    assert not heavy
