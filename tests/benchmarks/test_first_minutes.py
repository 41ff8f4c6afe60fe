"""The script for the first minutes on a card: every step on a CPU, and what becomes of one that fails."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def benchmarks(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)


@pytest.fixture
def card(tmp_path):
    from card_base import describe_base
    from card_tools import Card
    from first_minutes import sizes_for

    sizes = sizes_for(0, 0, rehearsal=True)
    describe_base(tmp_path / "base", sizes.shape)
    return Card(torch.device("cpu"), torch.float32, sizes, tmp_path / "base")


@pytest.mark.interpreted
def test_every_step_on_a_cpu(card, tmp_path, monkeypatch, capsys):
    """In this process; what the script starts in processes of their own is called here in their place."""
    import card_runs
    import card_unsloth
    from card_install import about
    from card_table import show
    from card_work import read, work
    from first_minutes import STEPS, steps_of

    def start(command, environment, fine=(0,)):
        if "pytest" in command:
            return "3 passed in 0.1s\n"
        return json.dumps(card_unsloth.learn(Path(command[-1])))

    monkeypatch.setattr(card_runs, "_started", start)
    file = tmp_path / "found.json"
    work(card, steps_of(True), list(STEPS), file, about(card))
    report = read(file)
    assert {name: ended.get("error") for name, ended in report["steps"].items()} == dict.fromkeys(STEPS)
    found = {name: ended["found"] for name, ended in report["steps"].items()}
    assert found["soundness"]["all_sound"]
    assert len(found["soundness"]["kernels"]) == 4 * 2 + 2 + 4 * 2
    assert found["decode"]["decode"].keys() == found["unpacked"]["decode"].keys()
    assert found["unpacked"]["setting"] == "engine.unpack"
    learned = found["unsloth"]
    assert learned["trl"]["moved"] == pytest.approx(learned["tribe"]["moved"], rel=1e-2)
    assert found["run"]["pairs"]
    show(STEPS, report)
    printed = capsys.readouterr().out
    assert all(name in printed for name in STEPS)


def test_a_base_made_in_memory_is_the_one_that_its_checkpoint_loads(card, tmp_path):
    from card_base import save_base

    from sparta_lite.engine.base import load_base
    from sparta_lite.engine.sequences import WholeSequences

    save_base(card.base, tmp_path / "saved")
    card.base.tokenizer.save_pretrained(tmp_path / "saved")
    ids = torch.arange(5, 40)[None]
    found = [
        base.decoder.hidden(ids, torch.arange(35)[None], WholeSequences(base.decoder.mixers), None)
        for base in (card.base, load_base(tmp_path / "saved", card.device))
    ]
    assert card.base.four_bit
    assert torch.equal(*found)


def test_a_step_that_fails_or_lasts_is_noted_and_the_next_goes_on(card, tmp_path, monkeypatch):
    from card_work import Step, read, work

    def broken(_):
        raise RuntimeError("first line\n\n  CUDA error: it is broken  \n")

    def endless(_):
        while True:
            with contextlib.suppress(Exception):
                time.sleep(0.01)

    def fine(_):
        return {"value": float("nan"), "list": (1, float("inf"))}

    module = type(sys)("steps_of_a_test")
    module.broken, module.endless, module.fine = broken, endless, fine
    monkeypatch.setitem(sys.modules, module.__name__, module)
    steps = {name: Step(module.__name__, name, 1, 0.2) for name in ("broken", "endless", "fine")}
    file = tmp_path / "found.json"
    work(card, steps, list(steps), file, {"device": "none"})
    ended = read(file)["steps"]
    assert ended["broken"]["error"] == "RuntimeError: CUDA error: it is broken"
    assert ended["endless"]["status"] == "out of time"
    assert ended["fine"]["found"] == {"value": None, "list": [1, None]}
    work(card, steps, ["fine"], file, {}, until=time.time() - 1)
    assert read(file)["steps"]["fine"]["status"] == "left out"


def test_a_card_that_answers_no_more_ends_the_worker_after_its_step_is_noted(card, tmp_path, monkeypatch):
    import card_work
    from card_work import Step, read, work

    monkeypatch.setattr(card_work, "answers", lambda _: False)
    steps = {"gone": Step("no_such_module", "gone", 1, 5)}
    with pytest.raises(SystemExit) as ended:
        work(card, steps, ["gone"], tmp_path / "found.json", {})
    assert ended.value.code == card_work.LOST
    assert read(tmp_path / "found.json")["steps"]["gone"]["status"] == "failed"


WORKER = """
import json, os, sys, time
file, names = sys.argv[1], sys.argv[sys.argv.index("--only") + 1].split(",")
for name in names:
    report = json.load(open(file))
    report["steps"][name] = {"status": "running", "since": time.time()}
    json.dump(report, open(file, "w"))
    if name == "dies":
        os._exit(9)
    if name == "hangs":
        time.sleep(60)
    report["steps"][name] = {"status": "done", "found": {}}
    json.dump(report, open(file, "w"))
"""


def test_where_a_process_is_lost_a_new_one_goes_on(tmp_path, monkeypatch):
    import card_work
    from card_work import Step, drive, read, write

    monkeypatch.setattr(card_work, "GRACE", 0.0)
    (tmp_path / "worker.py").write_text(WORKER)
    file = tmp_path / "found.json"
    write({"steps": {}}, file)
    steps = {name: Step("", "", 1, 1) for name in ("first", "dies", "hangs", "last")}
    drive(steps, list(steps), file, [sys.executable, str(tmp_path / "worker.py"), str(file)])
    ended = read(file)["steps"]
    assert [ended[name]["status"] for name in steps] == ["done", "failed", "failed", "done"]
    assert ended["dies"]["error"] == "its process ended with code 9"
    drive(steps, ["first"], file, [sys.executable, "-c", "import sys; sys.exit(5)"])
    assert "first" in read(file)["steps"]


def test_sizes_follow_the_memory():
    from first_minutes import sizes_for

    large, small, least = (sizes_for(int(size), int(size), False) for size in (80e9, 24e9, 4e9))
    assert (large.shape, large.rows, large.caps) == ("7b", (128, 256), (80 * 10**9, 24 * 10**9))
    assert (small.shape, small.caps) == ("7b", (24 * 10**9,))
    assert small.judged < large.judged
    assert least.shape == "small"
    assert least.caps[0] < 4e9


def test_a_step_that_is_not_there_is_refused(monkeypatch, capsys):
    import first_minutes

    monkeypatch.setattr(sys, "argv", ["first_minutes.py", "--only", "decode,decoding"])
    with pytest.raises(SystemExit, match="decoding: no such step; there are install, "):
        first_minutes.main()


def test_a_decode_step_is_counted_behind_those_that_compile_and_record(tmp_path, monkeypatch):
    """The arithmetic by torch's own counter; the runs whose difference is taken by their lengths."""
    import limits
    import tiny_tribe

    monkeypatch.setattr(tiny_tribe, "NAMES", tiny_tribe.NAMES[:2])
    few = {"rows": 4, "prompt": 16, "steps": 6, "duels": 2, "question": 30, "answer": 20, "batch": 2}
    setup = limits.small(tmp_path)
    setup = replace(setup, sizes=replace(setup.sizes, **few))
    limits.require_counted(setup)
    calls = []
    monkeypatch.setattr(limits, "decode", lambda setup, steps, bare=False: calls.append(steps))
    for name in ("judge", "learn"):
        monkeypatch.setattr(limits, name, lambda *_, **__: None)
    limits.measure(setup, 1)
    assert set(calls) == {limits.FIRST, limits.FIRST + 6}
    assert limits.FIRST >= 2  # one runs as it is, the next is recorded
