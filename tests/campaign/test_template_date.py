"""A chat template that prints the date: all that is done with a run keeps the one that it began with."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from sparta_lite.ablation.arms import grid, load_arms
from sparta_lite.ablation.grid import new_grid
from sparta_lite.ablation.running import RunBegins, run_all
from sparta_lite.campaign.config import load_config
from sparta_lite.campaign.events import Event, PhaseStarted
from sparta_lite.campaign.forging import ForgePlan, forge_tribe
from sparta_lite.campaign.loop import run
from sparta_lite.data.conversations import Columns
from sparta_lite.engine.chat import Chat
from sparta_lite.errors import SpartaError
from sparta_lite.outcome.finished import open_run
from sparta_lite.outcome.talking import open_talk
from sparta_lite.training.sft import Lesson, SftSettings

from ..run_files import forget_digests

MONDAY, TUESDAY = datetime(2026, 3, 30, 23, 59, 59), datetime(2026, 3, 31, 0, 0, 1)
PRINTED = "Today: {{ strftime_now('%d %b %Y') }}\n"
SAME = ("duels.jsonl", "judgments.jsonl", "reputation.json", "preferences.jsonl", "metrics.jsonl")


@pytest.fixture(scope="module")
def dated_config(
    tiny_settings: dict[str, Any], base_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    root = tmp_path_factory.mktemp("dated")
    shutil.copytree(base_path, root / "base")
    template = root / "base" / "chat_template.jinja"
    template.write_text(PRINTED + template.read_text())
    settings = {
        **tiny_settings,
        "base": str(root / "base"),
        "duels": 5,
        "evaluation": {"items": 2, "max_new_tokens": 2},
    }
    settings["judge"] = {**settings["judge"], "max_tokens": 500}
    (root / "dated.yaml").write_text(yaml.safe_dump(settings))
    return root / "dated.yaml"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[datetime], None]:
    """Sets it for whatever begins from now on."""

    def turn(moment: datetime) -> None:
        for user in (
            "campaign.loop.today",
            "campaign.resident.now",
            "campaign.forging.now",
            "ablation.running.now",
        ):
            monkeypatch.setattr(f"sparta_lite.{user}", lambda: moment)

    return turn


def contents(out: Path) -> dict[str, bytes]:
    files = [path for path in out.rglob("*") if path.name in SAME or path.suffix == ".safetensors"]
    return {str(path.relative_to(out)): path.read_bytes() for path in files}


def ignore(event: Event) -> None:
    pass


def stop_in_the_second(event: Event) -> None:
    if isinstance(event, PhaseStarted) and event.iteration == 1 and event.phase == "match":
        raise KeyboardInterrupt


def date_of(out: Path) -> str:
    return str(json.loads((out / "run.json").read_text())["date"])


def test_a_run_that_goes_on_the_next_day_ends_with_the_same_bytes(
    dated_config: Path, tmp_path: Path, clock: Callable[[datetime], None]
) -> None:
    config = load_config(dated_config)
    clock(MONDAY)
    run(config, tmp_path / "whole", False, ignore)
    with pytest.raises(KeyboardInterrupt):
        run(config, tmp_path / "stopped", False, stop_in_the_second)
    clock(TUESDAY)
    run(config, tmp_path / "stopped", True, ignore)
    assert contents(tmp_path / "stopped") == contents(tmp_path / "whole")
    assert date_of(tmp_path / "stopped") == date_of(tmp_path / "whole") == "2026-03-30T23:59:59"
    run(config, tmp_path / "later", False, ignore)
    assert contents(tmp_path / "later") != contents(tmp_path / "whole")  # else the date would reach no answer
    assert date_of(tmp_path / "later") == "2026-03-31T00:00:01"


@pytest.fixture(scope="module")
def dated_run(dated_config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "dated"
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr("sparta_lite.campaign.loop.today", lambda: MONDAY)
        run(load_config(dated_config, ["iterations=1"]), out, False, ignore)
    return out


def asked(chat: Chat) -> str:
    text: str = chat.tokenizer.decode(chat.question("hi", 400).ids)
    return text


def test_who_talks_to_a_run_has_its_date(dated_run: Path) -> None:
    chat = open_talk(open_run(dated_run), ["ada"]).resident.chat
    assert asked(chat).startswith("Today: 30 Mar 2026\n")
    paper = chat.judge("hi", chat.text("ho"), 500)
    assert paper is not None
    assert chat.tokenizer.decode(paper.ids).startswith("Today: 30 Mar 2026\n")


def test_what_is_measured_or_audited_anew_has_the_runs_date(
    dated_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sparta_lite.outcome import evaluation
    from sparta_lite.outcome.audit import auditing

    dates: list[datetime | None] = []

    class EnoughError(Exception):
        pass

    def load(*_: Any, date: datetime | None, **__: Any) -> Any:
        dates.append(date)
        raise EnoughError

    finished = open_run(dated_run)
    for module, work in (
        (evaluation, lambda: evaluation.measure(finished, finished.config, ["ada"], (), None, None, print)),
        (auditing, lambda: auditing._convene(finished)),
    ):
        monkeypatch.setattr(module, "load_resident", load)
        with pytest.raises(EnoughError):
            work()
    assert dates == [MONDAY, MONDAY]


def test_the_harness_has_the_runs_date(dated_run: Path) -> None:
    pytest.importorskip("lm_eval", reason="lm-evaluation-harness is not installed")
    from sparta_lite.engine.harness import HarnessModel

    finished = open_run(dated_run)
    talk = open_talk(finished, ["ada"])
    base, bank = talk.resident.base, talk.resident.bank
    model = HarnessModel(base, bank, None, 256, 2, 0, date=finished.date)
    text = model.apply_chat_template([{"role": "user", "content": "hi"}])
    assert text.startswith("Today: 30 Mar 2026\n")


def test_a_run_from_before_dates_were_recorded_has_that_of_its_start(dated_run: Path, tmp_path: Path) -> None:
    forget_digests(shutil.copytree(dated_run, tmp_path / "run"))
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    del record["date"]
    record["started"] = TUESDAY.timestamp() + 0.25
    (tmp_path / "run" / "run.json").write_text(json.dumps(record))
    assert open_run(tmp_path / "run").date == TUESDAY


@pytest.mark.parametrize("date", ["yesterday", 5, {}, "2026-02-30T00:00:00"])
def test_a_damaged_date_is_one_line(dated_run: Path, tmp_path: Path, date: Any) -> None:
    forget_digests(shutil.copytree(dated_run, tmp_path / "run"))
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    (tmp_path / "run" / "run.json").write_text(json.dumps({**record, "date": date}))
    with pytest.raises(SpartaError, match=r"run\.json"):
        _ = open_run(tmp_path / "run").date


def test_all_runs_of_an_ablation_have_one_date(
    dated_config: Path, tmp_path: Path, clock: Callable[[datetime], None]
) -> None:
    arms = load_arms(dated_config, ["iterations=1", "duels=4"], grid(["reputation.scale=20,0.1"]))
    ablation = new_grid(tmp_path / "ablation", arms, 1, True)
    clock(MONDAY)

    def stop_at_the_second(event: object) -> None:
        if isinstance(event, RunBegins) and event.number == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_all(ablation, stop_at_the_second)
    clock(TUESDAY)
    run_all(ablation, lambda event: None)
    assert {date_of(each.path) for each in ablation.runs()} == {"2026-03-30T23:59:59"}


def test_a_forge_that_goes_on_the_next_day_makes_the_same(
    dated_config: Path, tmp_path: Path, clock: Callable[[datetime], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"prompt": f"q{n}", "response": f"a{n}", "by": "abc"[n % 3]} for n in range(6)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = SftSettings(rank=2, alpha=2.0, learning_rate=1e-3)
    plan = ForgePlan(
        str(dated_config.parent / "base"),
        str(tmp_path / "rows.jsonl"),
        "by",
        Columns("prompt"),
        None,
        None,
        "none",
        0,
        settings,
    )
    clock(MONDAY)
    seen: dict[str, list[Lesson]] = {}

    from sparta_lite.campaign import forging

    honest = forging.train_adapter

    def train(base: Any, lessons: Any, *asked: Any, **how: Any) -> Any:
        seen[how["name"]] = lessons
        assert base.tokenizer.decode(lessons[0].ids).startswith("Today: 30 Mar 2026\n")
        return honest(base, lessons, *asked, **how)

    monkeypatch.setattr(forging, "train_adapter", train)
    forge_tribe(plan, tmp_path / "out")
    before = contents(tmp_path / "out")
    shutil.rmtree(tmp_path / "out" / "b")
    clock(TUESDAY)
    seen.clear()
    forge_tribe(plan, tmp_path / "out")
    assert list(seen) == ["b"]
    assert contents(tmp_path / "out") == before
