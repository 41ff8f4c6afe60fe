"""``sparta-lite report`` of an ablation: its figures, and the page in a headless Chromium."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from html import unescape
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
from scipy import stats
from typer.testing import CliRunner

from sparta_lite.ablation.arms import load_arms
from sparta_lite.ablation.grid import Grid, new_grid, open_grid
from sparta_lite.ablation.summary import summarize, write_results
from sparta_lite.commands.app import app
from sparta_lite.errors import SpartaError
from sparta_lite.files import read_json, read_lines, write_json, write_lines
from sparta_lite.show.report import ablation_figures
from sparta_lite.show.report.ablation import ablation_parts, read_ablation
from sparta_lite.show.report.page import write_ablation_report

from ..run_files import evaluation, run_record, run_started, task_figures
from .browser import look, needs_chromium

START = {"ada": 0.5, "ben": 0.25}
ENDS = {  # arm -> per seed what both adapters end at
    "first": [(0.75, 0.5), (0.625, 0.5), (0.75, 0.25)],
    "better": [(0.875, 0.75), (0.75, 0.75), (0.875, 0.625)],
    "worse": [(0.5, 0.25), (0.375, 0.375), (0.375, 0.25)],
    "k=2,unclear": [(0.75, 0.75), (0.5, 0.5), (0.5, 0.5)],
}
MEANS = {arm: np.mean(ends, axis=1) for arm, ends in ENDS.items()}
SECONDS = {"generate": 2.0, "judge": 3.0, "train": 5.0, "evaluate": 100.0}


def leave_run(path: Path, end: tuple[float, float]) -> None:
    """The files of a finished run of one iteration, as far as an ablation reads them."""
    write_json(path / "run.json", run_record(started=1.0))

    def measured(iteration: int, accuracy: dict[str, float]) -> dict[str, Any]:
        return evaluation(iteration, [task_figures("quiz", accuracy)])

    counts = {"generated": 12, "reference_answers": 3, "judgments": 0, "optimizer_steps": 4}
    budget = {"learners": [*START], **counts}
    rows = [measured(0, START), {"kind": "budget", "iteration": 0, **budget}]
    write_lines(path / "metrics.jsonl", [*rows, measured(1, dict(zip(START, end, strict=True)))])
    phases = [
        {"event": "PhaseFinished", "iteration": 0, "phase": name, "seconds": own, "tokens": 0}
        for name, own in SECONDS.items()
    ]
    events = [run_started(START), *phases, {"event": "Warned", "message": "nothing is <learned>"}]
    write_lines(path / "events.jsonl", [{**event, "time": 1.0} for event in events])


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> Grid:
    root = tmp_path_factory.mktemp("ablations") / "what & which"
    made = new_grid(root, load_arms(None, [], dict.fromkeys(ENDS, ())), 3, True)
    made.write()
    for place, ends in enumerate(ENDS.values()):
        for number, end in enumerate(ends):
            run = made.run(place, number).path
            run.mkdir(parents=True)
            leave_run(run, end)
    write_results(root, summarize(made))
    return made


@pytest.fixture(scope="module")
def page(grid: Grid) -> Path:
    out = grid.root / "report.html"
    write_ablation_report(grid.root, out)
    return out


def test_differences_stand_with_their_t_intervals(grid: Grid) -> None:
    rows = read_json(grid.root / "summary.json")["rows"]
    drawn = {trace.name: trace for trace in ablation_figures.differences(rows, judged=False).data}

    assert list(drawn) == ["better", "worse", "k=2,unclear", "best init", "bare base"]
    for arm in ("better", "worse", "k=2,unclear"):
        trace = drawn[arm]
        found = stats.ttest_rel(MEANS[arm], MEANS["first"]).confidence_interval(0.95)
        assert trace.x[0] == pytest.approx(np.mean(MEANS[arm] - MEANS["first"]), rel=1e-4)
        assert trace.x[0] - trace.error_x.arrayminus[0] == pytest.approx(found.low, abs=1e-4)
        assert trace.x[0] + trace.error_x.array[0] == pytest.approx(found.high, abs=1e-4)
        assert trace.marker.symbol == ("circle" if found.low > 0 or found.high < 0 else "circle-open")


def test_curves_are_thick_for_an_arm_and_thin_for_a_run(grid: Grid) -> None:
    summary = read_json(grid.root / "summary.json")
    figure = ablation_figures.curves(summary["arms"], 0, summary["rows"])

    for arm, means in MEANS.items():
        own = [trace for trace in figure.data if trace.meta.get("adapter") == arm]
        *thin, thick = sorted(own, key=lambda trace: trace.line.width)
        assert thick.y == pytest.approx((0.375, np.mean(means)), rel=1e-4)
        assert sorted(trace.y[1] for trace in thin) == pytest.approx(sorted(means), rel=1e-4)
        assert all(trace.opacity < 1 for trace in thin)
    assert {trace.name for trace in figure.data} == {*ENDS, "best init", "bare base"}


def test_a_bar_is_as_long_as_the_seconds_of_the_table(grid: Grid) -> None:
    figure = ablation_figures.costs(read_json(grid.root / "summary.json")["arms"])
    assert [bar.name for bar in figure.data] == ["generate", "judge", "train"]
    assert np.sum([bar.x for bar in figure.data], axis=0) == pytest.approx([10.0] * len(ENDS))


def test_the_headline_says_what_separates_and_what_does_not(page: Path) -> None:
    text = page.read_text()
    [listed] = re.findall('<dl class="verdicts">(.*?)</dl>', text)
    groups = {
        words: re.findall(r'class="adapter a\d">([^<]*)</span> ([^<]*)<', named)
        for words, named in re.findall("<dt>(.*?)</dt><dd>(.*?)</dd>", listed)
    }
    assert groups == {
        "Higher": [("better", "+0.208")],
        "Lower": [("worse", "−0.208")],
        "Not separable from no effect with 3 seeds": [("k=2,unclear", "+0.021")],
    }
    first = MEANS["first"]
    assert f"<strong>{np.mean(first):.3f} ± {np.std(first, ddof=1):.3f}</strong> over 3 seeds" in text


def test_what_is_behind_the_means_is_on_the_page(page: Path) -> None:
    rows = re.findall("<tr>(.*?)</tr>", page.read_text())
    cells = [
        [unescape(re.sub("<.*?>", "", cell)) for cell in re.findall("<td.*?>(.*?)</td>", row)] for row in rows
    ]
    gain = np.mean(MEANS["worse"]) - np.mean([*START.values()])
    [ends] = [row for row in cells if row[:2] == ["worse", "0.375"]]
    assert ends[2] == f"{gain:+.3f}".replace("-", "−")
    assert ["nothing is <learned>", ", ".join(f"{arm} 3" for arm in ENDS)] in cells


def test_links_lead_to_the_runs_from_wherever_the_page_is(grid: Grid, page: Path) -> None:
    away = grid.root.parent / "pages" / "page.html"
    away.parent.mkdir()
    write_ablation_report(grid.root, away)
    for file in (page, away):
        ways = re.findall(r'<a href="([^"]*seed-\d/)"', file.read_text())
        assert len(ways) == 12
        for way in ways:
            assert (file.parent / unquote(unescape(way)) / "metrics.jsonl").is_file()


def test_the_command_on_the_page_takes_the_settings_along(page: Path, tmp_path: Path) -> None:
    *taking, last = unescape(re.findall("<pre>(.*?)</pre>", page.read_text(), re.DOTALL)[0]).splitlines()
    subprocess.run(["bash", "-ec", "\n".join(taking)], cwd=tmp_path, check=True)

    again, grid = open_grid(tmp_path / "again"), open_grid(page.parent)

    assert (again.arms, again.seeds, again.paired) == (grid.arms, grid.seeds, grid.paired)
    assert last == "sparta-lite ablate --resume --out again"


def test_a_judged_task_that_nobody_measured_has_no_figures(tmp_path: Path) -> None:
    """Beside one that was: two tasks, one of them with scores, and a single seed."""
    made = new_grid(tmp_path / "two", load_arms(None, [], dict.fromkeys(["7", "2024-01-05"], ())), 1, True)
    made.write()
    for run in made.runs():
        run.path.mkdir(parents=True)
        leave_run(run.path, (0.75, 0.5))
        rows = read_lines(run.path / "metrics.jsonl")
        for row in rows:
            if row["kind"] == "evaluation":
                tales = {"task": "tales", "judged": True, "accuracy": {"ada": None, "ben": 5.0}, "base": None}
                row["tasks"].append({**row["tasks"][0], **tales})
        write_lines(run.path / "metrics.jsonl", rows)
    write_results(made.root, summarize(made))
    parts = ablation_parts(read_ablation(made.root), tmp_path)

    drawn = {name: figure for part in parts for name, figure in part.figures.items()}
    assert set(drawn) == {"difference-0", "course-0", "course-1", "costs"}
    text = "".join(part.html for part in parts)
    assert set(re.findall(r'id="chart-([a-z0-9-]+)"', text)) == set(drawn)
    assert "Held-out score: tales" in text
    assert "No answer of the first arm could be judged." in text
    assert "1 seed shows no spread to judge it by" in text
    assert "Measured by quiz." in text
    assert not re.search(r"\bnan\b|None", text)
    for name in ("difference-0", "costs"):
        assert (drawn[name].layout.yaxis.type, drawn[name].layout.yaxis.tickmode) == ("category", "array")


def test_what_is_missing_is_named(grid: Grid, tmp_path: Path) -> None:
    root = tmp_path / "cut off"
    shutil.copytree(grid.root, root)
    summary = read_json(root / "summary.json")
    write_json(root / "summary.json", {**summary, "format": 0})
    with pytest.raises(SpartaError, match="not of this version's form, 2; finish it first"):
        write_ablation_report(root, tmp_path / "page.html")
    write_json(root / "summary.json", {**summary, "arms": summary["arms"][:-1]})
    with pytest.raises(SpartaError, match="is older than the last arms or seeds; finish it first"):
        write_ablation_report(root, tmp_path / "page.html")
    (root / "summary.json").unlink()
    with pytest.raises(SpartaError, match="all runs are finished but not summed up"):
        write_ablation_report(root, tmp_path / "page.html")
    (root / "worse" / "seed-1" / "run.json").unlink()

    refused = CliRunner().invoke(app, ["report", str(root)])

    assert refused.exit_code == 2
    assert refused.stderr == (
        f"error: {root}: 1 of 12 runs are not finished (worse with seed 1); finish it first: "
        f"`sparta-lite ablate --resume --out '{root}'`\n"
    )


DAMAGED: dict[str, tuple[Callable[[Any], object], str]] = {
    # what is changed in summary.json, and what is said of it
    "a row too few": (lambda s: s["rows"].pop(), "its table has not a row per arm"),
    "rows of text": (lambda s: s.update(rows="none"), "rows is 'none'"),
    "a mean of text": (lambda s: s["rows"][0].update(mean="high"), "rows.0.mean is 'high'"),
    "too large a mean": (lambda s: s["rows"][0].update(mean=1e300), "rows.0.mean is 1e+300"),
    "half an interval": (lambda s: s["rows"][1].update(low=None), "an interval in its table has one end"),
    "no verdict": (lambda s: s["rows"][1].update(verdict=""), "rows.1.verdict"),
    "no arms": (lambda s: s["arms"].clear(), "is older than the last arms"),
    "an arm without runs": (lambda s: s["arms"][1]["runs"].clear(), "the runs of better are not"),
    "a run elsewhere": (lambda s: s["arms"][1]["runs"][0].update(run="/etc"), "the runs of better are not"),
    "a run without tasks": (lambda s: s["arms"][1]["runs"][0].update(tasks=[]), "arms.1.runs.0.tasks"),
    "another task": (lambda s: s["arms"][1]["runs"][0]["tasks"][0].update(task="x"), "by other tasks"),
    "a point too few": (lambda s: s["arms"][1]["runs"][0]["tasks"][0]["mean"].pop(), "at other iterations"),
    "phases of text": (lambda s: s["arms"][0]["runs"][0].update(phases={"judge": "3"}), "phases.judge is"),
    "a warning of nobody": (lambda s: s["warnings"][0].update(runs={"nobody": 1}), "an arm has no name"),
    "seeds of text": (lambda s: s.update(seeds="3"), "seeds is '3'"),
    "another version": (lambda s: s.update(format=10**30), "not of this version's form, 2"),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_summary_is_named(grid: Grid, tmp_path: Path, damage: str) -> None:
    change, said = DAMAGED[damage]
    path = grid.root / "summary.json"
    before = path.read_bytes()
    summary = json.loads(before)
    change(summary)
    path.write_text(json.dumps(summary))
    try:
        with pytest.raises(SpartaError, match="ablate --resume") as refused:
            write_ablation_report(grid.root, tmp_path / "page.html")
    finally:
        path.write_bytes(before)
    assert "summary.json: " in str(refused.value)
    assert said in str(refused.value)
    assert not (tmp_path / "page.html").exists()


@pytest.mark.parametrize(
    "text",
    [
        "[" * 20_000,
        "{}",
        '{"format": 1}',
        '{"format": 1, "paired": true, "seeds": 0, "arms": []}',
        '{"format": 1, "paired": 1, "seeds": 3, "arms": []}',
        '{"format": 1, "paired": true, "seeds": 3, "arms": [{"name": "a", "settings": []}]}',
        json.dumps({"format": 1, "paired": True, "seeds": 1, "arms": [{"name": "../a", "settings": []}] * 2}),
        json.dumps(
            {"format": 1, "paired": True, "seeds": 1, "arms": [{"name": "first", "settings": []}] * 2}
        ),
    ],
)
def test_a_damaged_record_of_an_ablation_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "ablation.json").write_text(text)
    for command in (["report", str(tmp_path)], ["ablate", "--resume", "--out", str(tmp_path)]):
        refused = CliRunner().invoke(app, command)
        assert refused.exit_code == 2, refused.output
        assert "ablation.json: " in refused.stderr
        assert refused.stderr.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["ablation.json"]


def test_nothing_heavy_is_loaded_to_look_at_files(grid: Grid, tmp_path: Path) -> None:
    code = (
        "import sys\nfrom sparta_lite.commands.app import app\n"
        "try:\n    app()\nfinally:\n    print('torch' in sys.modules, file=sys.stderr)"
    )
    for place, status in ((tmp_path, 2), (grid.root, 0)):
        given = [sys.executable, "-c", code, "report", str(place), "--out", str(tmp_path / "page.html")]
        done = subprocess.run(given, capture_output=True, text=True)
        assert (done.returncode, done.stderr.splitlines()[-1]) == (status, "False")


@needs_chromium
def test_the_page_draws_itself_and_asks_for_nothing(page: Path, tmp_path: Path) -> None:
    seen = look(page, "", tmp_path)

    assert seen.console == []
    assert not {url for url in seen.requests if "example" in url}
    assert "<title>what &amp; which · sparta-lite</title>" in seen.document
    charts = re.findall(r'class="chart[^"]*js-plotly-plot[^"]*" id="chart-([a-z_0-9-]+)"', seen.document)
    assert set(charts) == {"difference-0", "course-0", "costs"}
    assert all(f'<button type="button" class="adapter a{n}"' in seen.document for n in range(len(ENDS)))
