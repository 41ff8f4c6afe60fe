"""Damaged run directories: one line that names the file, exit code 2, and every file as it was."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from sparta_lite.commands.app import app

from ..run_files import forget_digests

DEEP = "[" * 20_000 + "]" * 20_000
DIGITS = "9" * 5000
MARK = "MARK"

READERS: dict[str, tuple[str, ...]] = {
    "run.json": ("list", "report", "replay", "audit", "export", "resume"),
    "events.jsonl": ("watch", "report", "resume"),
    "metrics.jsonl": ("list", "report", "export", "resume"),
    "duels.jsonl": ("report", "replay", "audit"),
    "judgments.jsonl": ("report", "replay", "audit"),
    "reputation.json": ("report", "replay", "audit", "export", "resume"),
    "config.yaml": ("report", "replay", "audit", "export", "resume"),
}
"""Which commands need a file of a finished run, digests apart."""


def call(name: str, run: Path) -> Result:
    arguments = {
        "list": ["list", str(run.parent), "--json"],
        "watch": ["watch", str(run), "--once"],
        "report": ["report", str(run), "--out", str(run.parent / "page.html")],
        "replay": ["replay", str(run)],
        "audit": ["audit", str(run), "--duels", "0"],
        "export": ["export", str(run), "--out", str(run.parent / "exported")],
        "eval": ["eval", str(run), "--out", str(run.parent / "eval.json")],
        "chat": ["chat", str(run), "--adapter", "ada"],
        "resume": ["run", "--resume", "--plain", "--out", str(run)],
    }
    return CliRunner().invoke(app, arguments[name], prog_name="sparta-lite")


def contents(root: Path) -> dict[str, bytes]:
    files = [path for path in root.rglob("*") if path.is_file() and path.name != "lock"]
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


def assert_refused(result: Result, *said: str) -> None:
    assert result.exit_code == 2, (result.exception, result.output)
    lines = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert "Traceback" not in result.output
    for text in said:
        assert text in lines[0]
    # The path of a test's directory is no fault of the message's.
    assert len(lines[0].replace(str(Path.cwd()), "")) - longest_word(lines[0]) <= 250


def longest_word(line: str) -> int:
    return max(map(len, line.split()))


def assert_named(name: str, run: Path, *said: str) -> None:
    """The command refuses the run; a list says what is wrong with it and shows the other ones."""
    before = contents(run)
    result = call(name, run)
    if name == "list":
        assert result.exit_code == 0, (result.exception, result.output)
        rows = {Path(row["path"]).name: row for row in map(json.loads, result.stdout.splitlines())}
        assert (rows["run"]["state"], rows["other"]["state"]) == ("unreadable", "finished")
        for text in said:
            assert text in rows["run"]["note"]
    else:
        assert_refused(result, *said)
    assert contents(run) == before
    assert not (run.parent / "exported").exists()


@pytest.fixture
def run(small_run: Path, tmp_path: Path) -> Path:
    """A finished run beside another one."""
    shutil.copytree(small_run, tmp_path / "other")
    return Path(shutil.copytree(small_run, tmp_path / "run"))


@pytest.fixture
def unchecked(run: Path) -> Path:
    """The same, as an earlier version left it: nothing but its records' own form speaks against damage."""
    return forget_digests(run)


def file_of(run: Path, name: str) -> Path:
    inside = run / "iteration-00" / name
    return inside if inside.exists() else run / name


def edit(path: Path, change: Callable[[Any], object], line: int = 0) -> None:
    """Change a JSON document, or one line of several, counted from 0."""
    if path.suffix == ".json":
        document = json.loads(path.read_text())
        change(document)
        path.write_text(json.dumps(document, indent=1))
        return
    lines = path.read_text().splitlines()
    document = json.loads(lines[line])
    change(document)
    lines[line] = json.dumps(document)
    path.write_text("\n".join(lines) + "\n")


def line_of(path: Path, text: str) -> int:
    return next(number for number, line in enumerate(path.read_text().splitlines()) if text in line)


WRITTEN = {
    "nested deeply": DEEP,
    "thousands of digits": DIGITS,
    "infinite": "Infinity",
    "too large a number": "1e999",
    "NaN": "NaN",
    "half a surrogate pair": '"\\ud800"',
    "not JSON": "{",
}
PLACES: dict[str, tuple[int, Callable[[Any], object]]] = {
    "run.json": (0, lambda record: record.update(started=MARK)),
    "events.jsonl": (0, lambda event: event.update(time=MARK)),
    "metrics.jsonl": (0, lambda row: row.update(iteration=MARK)),
    "duels.jsonl": (1, lambda row: row.update(instruction=MARK)),
    "judgments.jsonl": (2, lambda row: row.update(mass=[MARK, 0.5])),
    "reputation.json": (0, lambda record: record["after"]["ratings"]["ada"].update(changes=[MARK])),
}


@pytest.mark.parametrize("written", WRITTEN)
@pytest.mark.parametrize("name", PLACES)
def test_what_a_parser_trips_over_is_named(unchecked: Path, name: str, written: str) -> None:
    path = file_of(unchecked, name)
    line, change = PLACES[name]
    edit(path, change, line)
    path.write_text(path.read_text().replace(f'"{MARK}"', WRITTEN[written]))
    where = f"{name}, line {line + 1}: " if path.suffix == ".jsonl" else f"{name}: "
    for command in READERS[name] if written == "nested deeply" else READERS[name][:1]:
        assert_named(command, unchecked, where, "restore it from a copy")


@pytest.mark.parametrize("damage", [b"", b"\xff\xfe\n", b"[1, 2]\n", b"null\n", b'"text"\n', b"\0\0\0\n"])
@pytest.mark.parametrize(
    "name", ["run.json", "reputation.json", "metrics.jsonl", "events.jsonl", "duels.jsonl"]
)
def test_a_file_that_holds_something_else_is_named(unchecked: Path, name: str, damage: bytes) -> None:
    file_of(unchecked, name).write_bytes(damage)
    if damage == b"" and name.endswith(".jsonl"):
        assert_empty(unchecked, name)
        return
    for command in READERS[name]:
        assert_named(command, unchecked, name)


def assert_empty(run: Path, name: str) -> None:
    """A file without a line is that of a run in which nothing has happened yet."""
    refusing = {"metrics.jsonl": ("export",), "events.jsonl": ("report",)}
    for command in refusing.get(name, ("report", "replay", "audit")):
        assert_refused(call(command, run), "run")
    assert call("list", run).exit_code == 0


FOREIGN = "'dan' is not in the tribe"

WRONG: dict[str, tuple[str, int, Callable[[Any], object], str]] = {
    # file, line from 0, what is changed, what is said of it
    "a tally without wins": (
        "reputation.json",
        0,
        lambda r: r["tally"]["ben"].pop("wins"),
        "tally.ben lacks wins",
    ),
    "a tally without an adapter": ("reputation.json", 0, lambda r: r["tally"].pop("ben"), "tally"),
    "a rating without a reputation": (
        "reputation.json",
        0,
        lambda r: r["after"]["ratings"]["cyd"].pop("reputation"),
        "lack 'reputation'",
    ),
    "a rating of nobody": ("reputation.json", 0, lambda r: r["after"]["ratings"].update(x={}), "after"),
    "no deviation": (
        "reputation.json",
        0,
        lambda r: r["before"]["ratings"]["cyd"].update(deviation=0),
        "no number between 0",
    ),
    "weights of nobody": (
        "reputation.json",
        0,
        lambda r: r.update(judge_weights={"capitals": {}}),
        "judge_weights.capitals",
    ),
    "weights of others": ("reputation.json", 0, lambda r: r["judge_weights"].update(x=0.5), "judge_weights"),
    "a verdict too few": ("reputation.json", 0, lambda r: r["verdicts"].pop(), "5 verdicts for 6 duels"),
    "a verdict of text": ("reputation.json", 0, lambda r: r["verdicts"].insert(0, "x"), "verdicts.0"),
    "a winner that lost": (
        "reputation.json",
        0,
        lambda r: r["verdicts"].__setitem__(0, {"scores": [2.0, 8.0], "winner": 0}),
        "verdicts.0 has a winner",
    ),
    "another iteration": ("reputation.json", 0, lambda r: r.update(iteration=3), "iteration"),
    "failures of a number": ("judgments.jsonl", 3, lambda r: r.update(failures=7), "failures is 7"),
    "a mass above one": ("judgments.jsonl", 3, lambda r: r.update(mass=[2, 0.5]), "mass.0 is 2"),
    "a cut of an object": ("judgments.jsonl", 3, lambda r: r.update(cut=[0, {}]), "cut.1 is {}"),
    "text as a prefix": ("judgments.jsonl", 3, lambda r: r.update(prefix=["x", None]), "prefix.0 is"),
    "a reason of none": ("judgments.jsonl", 3, lambda r: r.update(unparsed=[{"odd": 1}, {}]), "unparsed.0"),
    "no cut": ("judgments.jsonl", 3, lambda r: r.update(cut=[]), "cut"),
    "no judge": ("judgments.jsonl", 3, lambda r: r.update(judge=None), "judge is"),
    "a foreign judge": ("judgments.jsonl", 3, lambda r: r.update(judge="dan"), FOREIGN),
    "a score above ten": ("judgments.jsonl", 3, lambda r: r.update(scores=[10.5, 2]), "scores.0 is 10.5"),
    "a score and a failure": (
        "judgments.jsonl",
        3,
        lambda r: r.update(scores=[5, 2], failures=["no score", None]),
        "a score and a failure",
    ),
    "a judgment of no duel": ("judgments.jsonl", 3, lambda r: r.update(duel=6), "judges duel 6"),
    "text as a score": ("judgments.jsonl", 3, lambda r: r.update(scores=["5", 2]), "scores.0 is"),
    "a number as text": (
        "duels.jsonl",
        4,
        lambda r: r["responses"][0].update(text=3.5),
        "responses.0.text is 3.5",
    ),
    "three answers": ("duels.jsonl", 4, lambda r: r["responses"].append(r["responses"][0]), "responses"),
    "a token below zero": (
        "duels.jsonl",
        4,
        lambda r: r["responses"][0].update(ids=[-1]),
        "responses.0.ids.0",
    ),
    "a foreign fighter": (
        "duels.jsonl",
        4,
        lambda r: r.update(fighters=["ada", "dan"]),
        "'dan' is not in the tribe",
    ),
    "a duel with oneself": ("duels.jsonl", 4, lambda r: r.update(fighters=["ada", "ada"]), "ada and ada"),
    "another duel's number": ("duels.jsonl", 4, lambda r: r.update(duel=2), "holds duel 2 where 4 belongs"),
    "another way to stop": (
        "duels.jsonl",
        4,
        lambda r: r["responses"][1].update(stop="tired"),
        "responses.1.stop",
    ),
    "a metric without steps": ("metrics.jsonl", 1, lambda r: r.pop("steps"), "lacks steps"),
    "a metric of no kind": ("metrics.jsonl", 1, lambda r: r.update(kind="loss"), "'loss'"),
    "a metric of the future": (
        "metrics.jsonl",
        1,
        lambda r: r.update(iteration=10**9),
        "the run's last is 0",
    ),
    "a metric of nobody": (
        "metrics.jsonl",
        1,
        lambda r: r.update(adapter="dan"),
        "'dan' is not in the tribe",
    ),
    "an accuracy above one": (
        "metrics.jsonl",
        0,
        lambda r: (r["tasks"][0]["accuracy"].update(ada=1.5), r["accuracy"].update(ada=1.5)),
        "no share",
    ),
    "an accuracy too few": ("metrics.jsonl", 0, lambda r: r["tasks"][0]["accuracy"].pop("ada"), "metrics"),
    "no tasks": ("metrics.jsonl", 0, lambda r: r.update(tasks=[]), "tasks"),
    "hashes in a list": ("run.json", 0, lambda r: r.update(hashes=[]), "hashes is []"),
    "a status of a number": ("run.json", 0, lambda r: r.update(status=3), "status is 3"),
    "a start in no year": ("run.json", 0, lambda r: r.update(started=1e20), "started is 1e+20"),
    "no start": ("run.json", 0, lambda r: r.pop("started"), "lacks started"),
    "digests of nothing": ("run.json", 0, lambda r: r.update(files={}), "was changed since it was written"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_record_that_does_not_fit_is_named(unchecked: Path, wrong: str) -> None:
    name, line, change, said = WRONG[wrong]
    path = file_of(unchecked, name)
    edit(path, change, line)
    where = f"{name}, line {line + 1}: " if name.endswith(".jsonl") else f"{name}: "
    for command in READERS[name][:3]:
        assert_named(command, unchecked, where, said)


EVENTS: dict[str, tuple[str, Callable[[Any], object], str]] = {
    # the event, what is changed, what is said of it
    "an infinite iteration": ("PhaseStarted", lambda e: e.update(iteration=10**30), "iteration is"),
    "an iteration to come": ("StandingsChanged", lambda e: e.update(iteration=1), "the run's last is 0"),
    "standings of nobody": ("StandingsChanged", lambda e: e.update(standings={}), "says nothing of 'ada'"),
    "a standing without wins": (
        "StandingsChanged",
        lambda e: e["standings"]["ada"].pop("wins"),
        "lacks wins",
    ),
    "a winner who did not fight": ("DuelDecided", lambda e: e.update(winner="dan"), "'dan' has not fought"),
    "a judge from elsewhere": (
        "DuelDecided",
        lambda e: e["votes"].update(dan=[1, 2]),
        "'dan' is not in the tribe",
    ),
    "an accuracy of nobody": ("Evaluated", lambda e: e["accuracy"].pop("cyd"), "says nothing of 'cyd'"),
    "a phase of no name": ("PhaseFinished", lambda e: e.update(phase="rest"), "phase is"),
    "an event of no name": ("Evaluated", lambda e: e.update(event="Slept"), "'Slept'"),
    "a tribe of one": ("RunStarted", lambda e: e.update(tribe=["ada"]), "tribe"),
    "a hostile tribe": ("RunStarted", lambda e: e.update(hostile=e["tribe"]), "hostile"),
    "a time in no year": ("Evaluated", lambda e: e.update(time=1e300), "time is"),
}


@pytest.mark.parametrize("wrong", EVENTS)
def test_an_event_that_does_not_fit_is_named(unchecked: Path, wrong: str) -> None:
    kind, change, said = EVENTS[wrong]
    path = unchecked / "events.jsonl"
    line = line_of(path, f'"event": "{kind}"')
    edit(path, change, line)
    for command in ("watch", "report"):
        assert_named(command, unchecked, f"{path.name}, line {line + 1}: ", said)


def test_a_configuration_that_is_not_utf_8_is_named(unchecked: Path) -> None:
    config = unchecked / "config.yaml"
    config.write_bytes(config.read_bytes().replace(b"seed", b"\xff\xfe"))
    for command in READERS["config.yaml"]:
        assert_named(command, unchecked, "config.yaml: not UTF-8")


def as_of_the_second_iteration(record: Any) -> None:
    record["iteration"] = record["before"]["iteration"] = 1
    record["after"]["iteration"] = 2


def test_a_missing_record_of_an_earlier_iteration_is_named(unchecked: Path) -> None:
    shutil.copytree(unchecked / "iteration-00", unchecked / "iteration-01")
    edit(unchecked / "iteration-01" / "reputation.json", as_of_the_second_iteration)
    (unchecked / "iteration-00" / "reputation.json").unlink()
    for command in ("report", "replay", "audit", "resume"):
        assert_named(command, unchecked, "iteration-00/reputation.json")
    shutil.rmtree(unchecked / "iteration-00" / "adapters")
    for command in ("list", "export", "resume"):
        assert_named(command, unchecked, "iteration-00/adapters: is missing, and iteration-01 was made")


@pytest.mark.parametrize("lines", [(2, 3), (0, 11)])
def test_votes_that_were_lost_or_doubled_are_named(unchecked: Path, lines: tuple[int, int]) -> None:
    judgments = unchecked / "iteration-00" / "judgments.jsonl"
    rows = judgments.read_text().splitlines(keepends=True)
    one, other = (min(each, len(rows) - 1) for each in lines)
    rows[one] = rows[other]
    judgments.write_text("".join(rows))
    for command in READERS["judgments.jsonl"]:
        assert_named(command, unchecked, "judgments.jsonl")


def test_an_audit_that_is_no_record_is_named(unchecked: Path) -> None:
    for text in (f'{{"judges": {DEEP}}}', f'{{"duels": {DIGITS}}}', "[]", '{"a": NaN}', "\udcff"):
        (unchecked / "audit.json").write_bytes(text.encode("utf-8", "surrogateescape"))
        assert_named("report", unchecked, "audit.json")


CHANGED: dict[str, Callable[[Any], object]] = {
    # file, and a change that still parses
    "duels.jsonl": lambda row: row["responses"][0].update(text="another answer"),
    "judgments.jsonl": lambda row: row.update(scores=[2.5, 7.25], failures=[None, None]),
    "preferences.jsonl": lambda row: row["chosen"][0].update(content="Better!"),
    "reputation.json": lambda record: record["tally"]["ada"].update(wins=1000),
    "metrics.jsonl": lambda row: (row.update(base=0.5), row["tasks"][0].update(base=0.5)),
    "events.jsonl": lambda event: event.update(time=event["time"] + 1),
    "run.json": lambda record: record.update(seed=record["seed"] + 1),
}


@pytest.mark.parametrize("name", CHANGED)
def test_a_change_that_still_parses_is_noticed(run: Path, name: str) -> None:
    edit(file_of(run, name), CHANGED[name])
    for command in ("resume", "eval", "export", "chat", "report", "replay", "audit"):
        assert_named(command, run, f"{name}: was changed since it was written")
    if name in ("run.json", "metrics.jsonl"):
        assert_named("list", run, f"{name}: was changed since it was written")


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_config.json"])
def test_a_changed_adapter_is_noticed(run: Path, name: str) -> None:
    path = run / "iteration-00" / "adapters" / "ada" / name
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    for command in ("resume", "eval", "chat"):
        assert_named(command, run, f"ada/{name}: was changed since it was written")
    assert_refused(CliRunner().invoke(app, ["export", str(run), "--adapter", "ada"]), f"ada/{name}")
    path.unlink()
    assert_named("eval", run, f"ada/{name}: no such file")


@pytest.mark.parametrize(
    ("was", "edited"), [("seed: 4", "seed: 5"), ("learning_rate: 0.01", "learning_rate: 0.02")]
)
def test_a_configuration_edited_by_hand_is_noticed(run: Path, was: str, edited: str) -> None:
    config = run / "config.yaml"
    assert config.read_text().count(was) == 1
    config.write_text(config.read_text().replace(was, edited))
    for command in ("eval", "export", "chat", "report", "replay", "audit"):
        assert_named(command, run, "config.yaml: was changed since the run began")


def test_sizes_of_batches_and_places_may_be_edited(run: Path) -> None:
    """No result depends on them: a base may stand elsewhere on another machine."""
    config = run / "config.yaml"
    config.write_text(re.sub(r"(?m)^batch_tokens: \d+$", "batch_tokens: 777", config.read_text()))
    assert "batch_tokens: 777" in config.read_text()
    config.write_text(re.sub(r"(?m)^base: .*$", "base: /moved", config.read_text()))
    assert call("replay", run).exit_code == 0


def test_a_run_without_digests_is_read_and_says_so_once(unchecked: Path, run: Path) -> None:
    for command in ("report", "replay", "audit", "export"):
        arguments = ("--adapter", "ada") if command == "export" else ()
        result = call(command, unchecked)
        assert result.exit_code == 0, (result.exception, result.output, arguments)
        assert result.stderr.count("began with an earlier version, without digests") == 1
    assert "digests" not in call("report", run.parent / "other").stderr


def test_a_damaged_run_keeps_no_new_one_from_beginning(
    unchecked: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(unchecked, "runs/damaged")
    Path("runs/damaged/run.json").write_text(DEEP)
    again = CliRunner().invoke(app, ["run", "--resume"])
    assert_refused(again, "runs/damaged/run.json: not valid JSON")
    assert CliRunner().invoke(app, ["run", "--set", "base=nowhere"]).stderr.count("damaged") == 0
