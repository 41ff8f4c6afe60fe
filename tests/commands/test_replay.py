"""``sparta-lite replay``: recorded votes under other rules, checked against a trace settled by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from sparta_lite.campaign.config import load_config, show_config
from sparta_lite.commands.app import app
from sparta_lite.errors import SpartaError

from ..run_files import run_record

TRIBE = ("ada", "ben", "cyd", "dan")
# "ada" is trusted thrice as much as the others, and stands alone against them in the first duel.
PRIOR = "{ada: 3, ben: 0, cyd: 0, dan: 0}"
FIRST = {"fighters": ["ben", "cyd"], "scores": {"ada": [9, 1], "dan": [2, 5]}}
SECOND = {"fighters": ["ada", "ben"], "scores": {"cyd": [4, 6], "dan": [5, 5.5]}}
FAILED = {"fighters": ["cyd", "dan"], "scores": {"ada": [None, 4], "ben": [None, None]}}


def spread(name: str) -> float:
    """The reputation of an uneven start: mean 100, standard deviation 20; one at +sqrt(3), three alike."""
    return 100 + 20 * (3**0.5 if name == "ada" else -(3**-0.5))


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    rules = ["reputation.kind=paper", "reputation.scale=1.0", "pairs.minimum_margin=0.0"]
    config = load_config(None, [*rules, "reputation.start=uneven", f"reputation.prior={PRIOR}"])
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text(show_config(config))
    trace = {
        "start": {name: {"score": spread(name), "deviation": 0.5} for name in TRIBE},
        "iterations": [{"duels": [FIRST, FAILED]}, {"duels": [SECOND]}],
    }

    def read_trace(path: Path) -> dict[str, Any]:
        if path != run:
            raise SpartaError(f"{path}: not a run's directory")
        return trace

    (run / "run.json").write_text(json.dumps(run_record()))
    monkeypatch.setattr("sparta_lite.campaign.reading.read_trace", read_trace)
    return run


def call(*args: str) -> Result:
    return CliRunner().invoke(app, ["replay", *args], prog_name="sparta-lite")


def test_the_same_rules_change_nothing(recorded: Path) -> None:
    document = json.loads(call(str(recorded), "--json").stdout)
    assert document["pairs"] == {"recorded": 2, "replayed": 2, "changed": []}
    for both in document["reputations"].values():
        assert both["recorded"] == both["replayed"]
    # "dan" neither fought a duel with a vote nor moved
    assert document["reputations"]["dan"]["recorded"] == pytest.approx([spread("dan"), 0.5])


def test_a_pair_turns_when_its_judges_weigh_otherwise(recorded: Path) -> None:
    # ada at 100 - 50 * 5/3 and dan at 100 + 50: 16.7 * (9 - 1) < 150 * (5 - 2)
    other = ["reputation.prior={ada: -3, ben: 0, cyd: 0, dan: 1}", "reputation.start_spread=50"]
    sets = [part for assignment in other for part in ("--set", assignment)]
    document = json.loads(call(str(recorded), "--json", *sets).stdout)
    [change] = document["pairs"]["changed"]
    assert change == {
        "iteration": 0,
        "duel": 0,
        "fighters": ["ben", "cyd"],
        "recorded": "ben",
        "replayed": "cyd",
    }
    assert "1 change sides, 0 appear or vanish" in call(str(recorded), *sets).stdout


def test_a_margin_makes_pairs_vanish(recorded: Path) -> None:
    result = call(str(recorded), "--set", "pairs.minimum_margin=2")
    assert result.exit_code == 0
    assert "pairs: 2 recorded, 1 replayed; 0 change sides, 1 appear or vanish" in result.stdout
    # The first duel of the second iteration; the document counts from 0.
    assert "iteration 2, duel 1: ada against ben, chosen ben -> no one" in result.stdout
    document = json.loads(call(str(recorded), "--json", "--set", "pairs.minimum_margin=2").stdout)
    [change] = document["pairs"]["changed"]
    assert (change["iteration"], change["duel"]) == (1, 0)


def test_hostile_adapters_are_marked(recorded: Path) -> None:
    assert "(hostile)" not in call(str(recorded)).stdout
    settings = recorded / "config.yaml"
    settings.write_text(show_config(load_config(settings, ["tribe.hostile=1"])))
    rows = [line.split()[:2] for line in call(str(recorded)).stdout.splitlines() if " ± " in line]
    assert [name for name, mark in rows if mark == "(hostile)"] == ["dan"]
    assert json.loads(call(str(recorded), "--json").stdout)["hostile"] == ["dan"]


def test_the_report_ranks_by_the_replayed_reputation(recorded: Path) -> None:
    result = call(str(recorded), "--set", "reputation.start=fair")
    # cyd lost to an equal, which moves by eps alone; ada lost to ben, who no longer was one
    names = [line.split()[0] for line in result.stdout.splitlines() if " ± " in line]
    assert names == ["ben", "dan", "cyd", "ada"]


def test_the_judges_weights_stand_beside_the_reputations(recorded: Path) -> None:
    document = json.loads(call(str(recorded), "--json", "--set", "reputation.judge_weights=uniform").stdout)
    weights = document["judge_weights"]
    assert {name: both["replayed"] for name, both in weights.items()} == dict.fromkeys(TRIBE, 0.25)
    assert weights["ada"]["recorded"] == max(both["recorded"] for both in weights.values())
    # ada and dan differ about the one duel that two judge apart; ada votes against cyd and dan nowhere else
    result = call(str(recorded), "--set", "reputation.kind=reliability")
    assert result.exit_code == 0
    assert "under 'reliability' rules" in result.stdout


def test_what_a_replay_cannot_change_is_refused(recorded: Path, tmp_path: Path) -> None:
    for arguments, said in (
        (
            [str(recorded), "--set", "duels=3"],
            "--set duels=3: a replay changes reputation.* and pairs.* alone",
        ),
        ([str(recorded), "--set", "reputation.kind=papper"], "(did you mean 'paper'?)"),
        ([str(tmp_path / "none")], "not a run's directory"),
    ):
        result = call(*arguments)
        assert result.exit_code == 2
        assert result.stderr.startswith("error: ")
        assert said in result.stderr
        assert result.stderr.count("\n") == 1
