"""``sparta-lite report``: the page of a real small run, by its figures and in a headless Chromium."""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from html import unescape
from pathlib import Path
from statistics import fmean

import plotly.graph_objects as go
import pytest
from typer.testing import CliRunner

from sparta_lite.campaign.events import PhaseFinished, PhaseProgress, RunStarted, to_row
from sparta_lite.commands.app import app
from sparta_lite.show.report import figures
from sparta_lite.show.report.page import write_run_report
from sparta_lite.show.report.reading import read_run
from sparta_lite.show.report.sections import run_parts

from ..run_files import forget_digests
from .browser import look, needs_chromium

HOSTILE = (
    "haystraw </script><script>document.title = 'owned'</script>"
    "<img src='http://answers.example/x.png' onerror=\"document.title = 'owned'\">"
    "<b id='owned'>&lt; \x1b[31m 東京"
)


@pytest.fixture(scope="module")
def run(small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small run with an answer that would like to run scripts, one failed vote, and an audit."""
    copy = tmp_path_factory.mktemp("report") / "run & <i>co"
    shutil.copytree(small_run, copy)
    forget_digests(copy)
    duels = copy / "iteration-00" / "duels.jsonl"
    rows = [json.loads(line) for line in duels.read_text().splitlines()]
    rows[2]["responses"][0]["text"] = HOSTILE
    rows[3]["text"] = "</textarea><svg onload=alert(1)> what?"
    duels.write_text("".join(json.dumps(row) + "\n" for row in rows))
    judgments = copy / "iteration-00" / "judgments.jsonl"
    votes = [json.loads(line) for line in judgments.read_text().splitlines()]
    for vote in votes[:2]:
        vote |= {"scores": [None, vote["scores"][1]], "failures": ["no score", None]}
    judgments.write_text("".join(json.dumps(row) + "\n" for row in votes))
    audit = {
        "judges": {"ada": {"auc": 0.75, "family <b>": None}},
        "injection": {"score text": {"injected": 0.5125, "clean": 0.5}},
        "layout": {"turns": 1, "message": [0.5, "odd"]},
    }
    (copy / "audit.json").write_text(json.dumps(audit))
    return copy


@pytest.fixture(scope="module")
def page(run: Path) -> Path:
    out = run.parent / "page.html"
    write_run_report(run, out)
    return out


def test_the_figures_are_those_of_the_run(run: Path) -> None:
    events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    decided = [event for event in events if event["event"] == "DuelDecided"]
    beaten = Counter(
        (event["winner"], next(name for name in event["fighters"] if name != event["winner"]))
        for event in decided
        if event["winner"] is not None
    )
    read = read_run(run)

    [matrix] = figures.wins(read.tribe, read.iterations).data
    for row, winner in enumerate(matrix.y):
        for column, loser in enumerate(matrix.x):
            won, lost = beaten[winner, loser], beaten[loser, winner]
            assert matrix.customdata[row][column] == f"{won} of {won + lost}"
            assert matrix.z[row][column] == (won / (won + lost) if won + lost else None)
            said = re.sub("<[^>]*>", " ", matrix.text[row][column]).split()
            met = won + lost
            assert said == ([f"{100 * won / met:.0f}", "of", str(met)] if met else [])

    standings = next(event for event in events if event["event"] == "StandingsChanged")["standings"]
    lines = {line.name: line for line in figures.reputations(read).data}
    for name, standing in standings.items():
        assert lines[name].y[0] == 100
        assert lines[name].y[1] == pytest.approx(standing["reputation"], rel=1e-4)
        assert lines[name].error_y.array[1] == pytest.approx(standing["deviation"], rel=1e-4)

    measured = [event for event in events if event["event"] == "Evaluated"]
    parts = {name: figure for part in run_parts(read) for name, figure in part.figures.items()}
    drawn = {line.name: line for line in parts["accuracy-0"].data}
    for name in read.tribe:
        assert drawn[name].y == pytest.approx([event["accuracy"][name] for event in measured], abs=1e-4)
    assert drawn["bare base"].y[-1] == pytest.approx(measured[-1]["base"], abs=1e-4)


def test_a_killed_process_spent_its_time_too(run: Path, tmp_path: Path) -> None:
    killed = tmp_path / "killed"
    shutil.copytree(run, killed)
    started = RunStarted("r", "b", "cpu", read_run(run).tribe, 1, 6, 0, resumed=True)
    told = [
        started,
        PhaseProgress(0, "judge", 3, 12, 30, 5.0, 700),
        started,
        PhaseProgress(0, "judge", 12, 12, 90, 2.0, 900),
        PhaseFinished(0, "judge", 2.5, 90),
    ]
    (killed / "events.jsonl").write_text("".join(json.dumps(to_row(event, 1.0)) + "\n" for event in told))

    [spent] = read_run(killed).spent

    assert (spent.seconds, spent.tokens, spent.memory) == (7.5, 120, 900)


def test_the_command_writes_beside_the_run_and_refuses_what_is_none(run: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["report", str(run)])
    assert result.exit_code == 0, result.output
    assert (run / "report.html").read_text().startswith("<!doctype html>")

    refused = CliRunner().invoke(app, ["report", str(tmp_path)])
    assert refused.exit_code == 2
    assert "neither a run's nor an ablation's directory" in refused.stderr


def retold(run: Path, place: Path, learners: list[str], **started: object) -> Path:
    """A copy of ``run`` with other learners, and with changes in what its first event says."""
    shutil.copytree(run, place)
    for name, kind, changes in (
        ("events", "RunStarted", started),
        ("metrics", "budget", {"learners": learners}),
    ):
        rows = [json.loads(line) for line in (place / f"{name}.jsonl").read_text().splitlines()]
        for row in rows:
            if kind in row.values():
                row |= changes
        (place / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return place


def shown(run: Path) -> tuple[dict[str, str], set[str], str]:
    """Of the headline's values, the lines of the accuracy by iteration, and the whole page's text."""
    parts = run_parts(read_run(run))
    text = "".join(part.html for part in parts)
    tiles = re.findall(r'class="label">([^<]*)</span><span class="value [a-z]+">([^<]*)<', text)
    lines = {line.name for part in parts for line in part.figures.get("accuracy-0", go.Figure()).data}
    return dict(tiles), lines, text


def test_every_name_has_its_own_place_on_an_axis() -> None:
    tribe = ("7", "2024-01-05", "a<b>" + 50 * "x" + "-1", "a<b>" + 50 * "x" + "-2")
    figure = figures.wins(tribe, [])
    for axis in (figure.layout.xaxis, figure.layout.yaxis):
        assert axis.type == "category"
        assert list(axis.tickvals) == list(figure.data[0].x)
        assert axis.ticktext[:2] == ("7", "2024-01-05")
        assert [text[:7] + text[-3:] for text in axis.ticktext[2:]] == ["a&lt;b&x-1", "a&lt;b&x-2"]
        assert all("…" in text and len(unescape(text)) == 40 for text in axis.ticktext[2:])


def test_the_audit_says_what_was_not_compared_and_who_was_heard(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "audited"
    shutil.copytree(run, copy)
    audit = {"hostile": ["ben"], "injection": {"duels": 3}, "layout": None, "layout_missing": "no <turns>"}
    for record, said in ((audit, True), ({**audit, "hostile": [], "layout_missing": None}, False)):
        (copy / "audit.json").write_text(json.dumps(record))
        text = "".join(part.html for part in run_parts(read_run(copy)))
        assert ("The layouts are not compared: no &lt;turns&gt;." in text) is said
        assert ("hears hostile judges as if they were not" in text) is said


def test_a_baseline_s_page_speaks_of_the_one_that_learned(run: Path, tmp_path: Path) -> None:
    alone = retold(run, tmp_path / "alone", ["ben"], algorithm="sppo")
    first, last = (row.tasks[0] for row in read_run(alone).evaluations)

    tiles, lines, text = shown(alone)

    assert tiles == {
        "learner": f"{last.accuracy['ben']:.3f}",
        "best init": f"{max(first.accuracy.values()):.3f}",
        "bare base": f"{last.base:.3f}",
    }
    assert lines == {"ben", "best init", "bare base"}
    assert "tribe’s mean" not in text
    assert 'of sppo the learner <span class="adapter a1">ben</span> is at' in text


def test_hostile_adapters_are_in_no_accuracy(run: Path, tmp_path: Path) -> None:
    tribe = list(read_run(run).tribe)
    spoiled = retold(run, tmp_path / "spoiled", tribe, hostile=["ada"])
    first, last = (row.tasks[0].accuracy for row in read_run(spoiled).evaluations)
    healthy = [name for name in tribe if name != "ada"]

    tiles, lines, text = shown(spoiled)

    assert tiles["tribe mean"] == f"{fmean(last[name] for name in healthy):.3f}"
    assert tiles["best"] == f"{max(last[name] for name in healthy):.3f}"
    assert tiles["best init"] == f"{max(first[name] for name in healthy):.3f}"
    assert lines == {*healthy, "mean of the tribe", "best init", "bare base"}
    assert "Hostile, and left out here: ada." in text


def test_hostile_judges_are_marked(run: Path, tmp_path: Path) -> None:
    [settled] = read_run(run).iterations
    judge = next(judgment.judge for cast in settled.judgments.values() for judgment in cast)
    _, _, text = shown(retold(run, tmp_path / "spoiled", [*read_run(run).tribe], hostile=[judge]))
    judges = text[text.index('id="judges"') : text.index('id="audit"')]
    assert re.findall(r">([a-z]+)</span> \(hostile\)</td>", judges) == [judge]


def test_the_loss_is_said_to_hold_more_than_that_of_the_pairs(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "weighted"
    shutil.copytree(run, copy)
    settings = (copy / "config.yaml").read_text()
    for weight, said in (("0.0", False), ("0.25", True)):
        (copy / "config.yaml").write_text(
            re.sub(r"(?m)^(\s+sft_weight:).*$", rf"\1 {weight}", settings, count=1)
        )
        text = "".join(part.html for part in run_parts(read_run(copy)))
        assert ("The loss holds 0.25 (training.sft_weight) times" in text) is said
        assert ("DPO alone would begin at ln 2 = 0.693" in text) is said
    margin = figures.training(read_run(copy), "margin", "margin of the rewards")
    assert margin.layout.yaxis.exponentformat == "power"


def test_a_run_that_has_just_begun_has_a_page(run: Path, tmp_path: Path) -> None:
    early = tmp_path / "early"
    early.mkdir()
    for name in ("config.yaml", "run.json"):
        shutil.copy(run / name, early)
    lines = (run / "events.jsonl").read_text().splitlines(keepends=True)
    first = next(number for number, line in enumerate(lines) if "RunStarted" in line)
    (early / "events.jsonl").write_text("".join(lines[: first + 1]) + lines[first + 1][:20])
    (early / "run.json").write_text((run / "run.json").read_text().replace('"finished",', '"running",'))

    write_run_report(early, tmp_path / "early.html")

    text = (tmp_path / "early.html").read_text()
    assert "stopped after 0 of 1 iterations" in text
    assert "Nothing was measured" in text


def test_what_others_wrote_stands_in_the_page_as_text_alone(page: Path) -> None:
    text = page.read_text()
    for raw in ("haystraw", "answers.example", "onload=alert", "run & <i>co", "family <b>"):
        assert raw not in text  # duels are packed, the rest is escaped
    assert "run &amp; &lt;i&gt;co" in text
    assert "family &lt;b&gt;" in text


@needs_chromium
def test_the_looking_sees_errors_and_requests(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text(
        "<img src='http://elsewhere.example/x.png'><script>document.title = 'ran'; missing()</script>"
    )

    seen = look(page, "", tmp_path)

    assert "<title>ran</title>" in seen.document
    assert any("missing is not defined" in line for line in seen.console)
    assert "http://elsewhere.example/x.png" in seen.requests


@needs_chromium
def test_an_answer_is_shown_and_does_nothing(page: Path, tmp_path: Path) -> None:
    seen = look(page, "duels?text=HAYSTRAW", tmp_path)

    assert seen.console == []
    assert not {url for url in seen.requests if "example" in url}
    assert "1 of 6 duels" in seen.document
    assert "haystraw &lt;/script&gt;&lt;script&gt;document.title" in seen.document
    assert "<title>run &amp; &lt;i&gt;co · sparta-lite</title>" in seen.document
    assert not re.search("<b id=.owned|<img", seen.document)
    charts = re.findall(r'class="chart[^"]*js-plotly-plot[^"]*" id="chart-([a-z_0-9-]+)"', seen.document)
    assert {"headline", "accuracy-0", "reputations", "wins", "weights", "loss", "lengths", "cost"} <= set(
        charts
    )


@needs_chromium
def test_the_filters_leave_what_they_should(page: Path, run: Path, tmp_path: Path) -> None:
    duels = [json.loads(line) for line in (run / "iteration-00" / "duels.jsonl").read_text().splitlines()]
    votes = [json.loads(line) for line in (run / "iteration-00" / "judgments.jsonl").read_text().splitlines()]
    failed = {vote["duel"] for vote in votes if None in vote["scores"]}
    wanted = [
        f"1.{duel['duel'] + 1}" for duel in duels if "ben" in duel["fighters"] and duel["duel"] in failed
    ]
    assert 0 < len(wanted) < 6

    seen = look(page, "duels?adapter=ben&iteration=1&verdict=failed", tmp_path)

    assert re.findall(r'class="place">([^<]*)<', seen.document) == wanted
    assert f"{len(wanted)} of 6 duels" in seen.document
