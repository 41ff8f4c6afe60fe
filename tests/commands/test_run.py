"""``sparta-lite run``: what it hands to the campaign, what it prints, and how it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import types
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from sparta_lite.campaign.config import Config, load_config, show_config
from sparta_lite.campaign.events import Evaluated, Listener, RunFinished, Scored, Warned, to_row
from sparta_lite.commands.app import app
from sparta_lite.errors import SpartaError

from ..run_files import run_record

ROOT = Path(__file__).parents[2]


@dataclass
class Campaign:
    """Stands in for the campaign: remembers its calls and does as it is told."""

    calls: list[tuple[Config, Path, bool]] = field(default_factory=list)
    act: Callable[[Path, Listener], None] = lambda out, listener: None

    def run(self, config: Config, out: Path, resume: bool, listener: Listener) -> None:
        self.calls.append((config, out, resume))
        self.act(out, listener)


@pytest.fixture
def campaign(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Campaign:
    monkeypatch.chdir(tmp_path)
    stand_in = Campaign()
    module = types.ModuleType("sparta_lite.campaign.loop")
    module.run = stand_in.run  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "sparta_lite.campaign.loop", module)
    return stand_in


def call(*args: str) -> Result:
    return CliRunner().invoke(app, args, prog_name="sparta-lite")


def record(run: Path, status: str, config: Config | None = None) -> None:
    """The files by which a run's directory is known."""
    run.mkdir(parents=True, exist_ok=True)
    (run / "config.yaml").write_text(show_config(config or load_config(None)))
    (run / "run.json").write_text(json.dumps(run_record(status=status)))


def assert_refused(result: Result, *said: str) -> None:
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    for text in said:
        assert text in result.stderr


# --- where a run goes


def test_without_arguments_the_pocket_tribe_runs(campaign: Campaign) -> None:
    assert call("run", "--plain").exit_code == 0
    assert campaign.calls == [(load_config(None), Path("runs/pocket-0"), False)]


def test_file_seed_and_sets_reach_the_campaign(campaign: Campaign) -> None:
    Path("mine.yaml").write_text("duels: 5\niterations: 2\n")
    result = call("run", "mine.yaml", "--seed", "3", "--set", "duels=6", "--set", "pairs.minimum_margin=1")
    assert result.exit_code == 0
    [(config, out, resume)] = campaign.calls
    assert (config.seed, config.duels, config.iterations, config.pairs.minimum_margin) == (3, 6, 2, 1.0)
    assert (out, resume) == (Path("runs/mine-3"), False)


def test_a_taken_name_gets_a_number_and_a_note_about_what_is_unfinished(campaign: Campaign) -> None:
    record(Path("runs/pocket-0"), "interrupted")
    record(Path("runs/pocket-0-2"), "finished")
    result = call("run", "--plain")
    assert result.exit_code == 0
    assert campaign.calls[0][1] == Path("runs/pocket-0-3")
    assert "`sparta-lite run --resume --out runs/pocket-0` goes on with it" in result.stderr


@pytest.mark.parametrize(
    ("status", "said"),
    [
        ("finished", "holds a finished run"),
        ("running", "go on with it by --resume"),
        ("failed", "go on with it by --resume"),
    ],
)
def test_a_new_run_does_not_touch_another_one(campaign: Campaign, status: str, said: str) -> None:
    record(Path("there"), status)
    assert_refused(call("run", "--out", "there"), "there: ", said)
    assert campaign.calls == []


def test_a_new_run_does_not_touch_what_is_not_a_runs(campaign: Campaign) -> None:
    Path("thesis").mkdir()
    Path("thesis/chapter.tex").touch()
    assert_refused(call("run", "--out", "thesis"), "thesis: holds files that are no run's")
    assert_refused(call("run", "--out", "thesis/chapter.tex"), "is a file")


def test_an_empty_directory_and_one_where_nothing_began_yet_are_free(campaign: Campaign) -> None:
    Path("empty").mkdir()
    Path("begun").mkdir()
    for name in ("lock", "config.yaml", ".run.json.partial"):
        Path("begun", name).touch()
    assert call("run", "--out", "empty").exit_code == 0
    assert call("run", "--out", "begun").exit_code == 0


def test_a_run_does_not_overwrite_the_settings_that_it_reads(campaign: Campaign) -> None:
    Path("there").mkdir()
    Path("there/config.yaml").write_text("duels: 5  # mine\n")
    assert_refused(call("run", "there/config.yaml", "--out", "there"), "the run would overwrite it")
    assert campaign.calls == []


def test_what_the_system_refuses_is_one_line(campaign: Campaign) -> None:
    assert_refused(call("run", "--out", "x" * 300), "File name too long")


# --- resuming


def test_resume_takes_the_runs_own_settings(campaign: Campaign) -> None:
    config = load_config(None, ["duels=3"], seed=9)
    record(Path("there"), "running", config)
    assert call("run", "--resume", "--out", "there").exit_code == 0
    assert campaign.calls == [(config, Path("there"), True)]


def test_resume_without_a_directory_takes_the_unfinished_run_that_was_written_last(
    campaign: Campaign,
) -> None:
    for age, (name, status) in enumerate(
        [("newest", "finished"), ("wanted", "running"), ("older", "interrupted")]
    ):
        record(Path("runs", name), status)
        for file in Path("runs", name).iterdir():
            times = (2e9 - age, 2e9 - age)
            os.utime(file, times)
    assert call("run", "--resume").exit_code == 0
    assert campaign.calls[0][1] == Path("runs/wanted")


def test_resume_needs_something_to_resume(campaign: Campaign) -> None:
    assert_refused(call("run", "--resume"), "holds no unfinished run")
    assert_refused(call("run", "--resume", "--out", "nowhere"), "nowhere: no run to resume there")


def test_a_resumed_view_knows_what_happened_before(campaign: Campaign) -> None:
    record(Path("there"), "running")
    rows = [to_row(Warned("the disk is slow"), 1.0)]
    Path("there/events.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"event": "Wa')
    assert call("run", "--resume", "--out", "there", "--plain").exit_code == 0


# --- what it prints


def test_show_config_prints_settings_that_can_be_run(campaign: Campaign) -> None:
    result = call("run", "--show-config", "--set", "duels=7")
    assert result.exit_code == 0
    Path("shown.yaml").write_text(result.stdout)
    assert load_config(Path("shown.yaml")) == load_config(None, ["duels=7"])
    assert campaign.calls == []
    assert not Path("runs").exists()


def test_json_is_one_event_a_line(campaign: Campaign) -> None:
    campaign.act = lambda out, listener: (
        [listener(event) for event in (Warned("x"), RunFinished(1.0))] and None
    )
    result = call("run", "--json")
    assert [json.loads(line)["event"] for line in result.stdout.splitlines()] == ["Warned", "RunFinished"]


def test_without_a_terminal_lines_are_plain(campaign: Campaign) -> None:
    campaign.act = lambda out, listener: listener(Warned("look here"))
    result = call("run")
    assert "look here" in result.stdout
    assert result.stdout.splitlines()[0] == "loading ..."
    assert result.stdout.splitlines()[-1].startswith("all of it is in ")
    assert "\x1b" not in result.stdout


@pytest.mark.parametrize(("form", "said"), [("--plain", b"loading ...\n"), ("--json", b"")])
def test_plain_lines_begin_before_the_libraries_are_loaded(
    campaign: Campaign, monkeypatch: pytest.MonkeyPatch, form: str, said: bytes
) -> None:
    written: list[bytes] = []

    def look_up(name: str) -> object:
        written.append(sys.stdout.buffer.getvalue())  # type: ignore[attr-defined]  # click's, in memory
        return getattr(campaign, name)

    module = types.ModuleType("sparta_lite.campaign.loop")
    module.__getattr__ = look_up  # type: ignore[method-assign]
    monkeypatch.setitem(sys.modules, "sparta_lite.campaign.loop", module)
    assert call("run", form).exit_code == 0
    assert written[0] == said


def test_the_last_line_offers_nothing_that_would_be_refused(campaign: Campaign) -> None:
    assert call("run", "--plain", "--out", "a").stdout.splitlines()[-1] == (
        "all of it is in a; look at it with `sparta-lite report a` or `audit`, "
        "go on with `chat` or `export --adapter NAME`"
    )
    for event in (Evaluated(0, {"ada": 0.5}, 0.5), Scored(0, {"ada": 5.0}, 5.0, "own", {})):
        campaign.act = lambda out, listener, event=event: listener(event)  # type: ignore[misc]
        last = call("run", "--plain", "--out", type(event).__name__).stdout.splitlines()[-1]
        assert last.endswith("or `audit`, go on with `eval`, `chat` or `export`")


# --- how it ends


def test_wrong_settings_are_one_line(campaign: Campaign) -> None:
    Path("bad.yaml").write_text("iteration: 3\nduels: many\n")
    assert_refused(
        call("run", "bad.yaml"), "iteration is unknown; did you mean iterations?", "duels is 'many'"
    )
    assert_refused(call("run", "none.yaml"), "none.yaml: no such file")
    assert_refused(call("run", "--set", "x"), "--set x: give key=value")
    assert_refused(call("run", "--plain", "--json"), "choose one")


@pytest.mark.parametrize(
    "arguments", [["run", "--nope"], ["run", "a", "b"], ["nothing"], ["run", "--seed", "x"]]
)
def test_wrong_usage_exits_with_2(campaign: Campaign, arguments: list[str]) -> None:
    result = call(*arguments)
    assert result.exit_code == 2
    assert "Traceback" not in result.output


def test_what_the_campaign_refuses_is_one_line(campaign: Campaign) -> None:
    def refuse(out: Path, listener: Listener) -> None:
        raise SpartaError("disk full\nreally")

    campaign.act = refuse
    assert_refused(call("run", "--json"), "error: disk full really")


def test_ctrl_c_says_how_to_resume_and_exits_with_130(campaign: Campaign) -> None:
    def interrupt(out: Path, listener: Listener) -> None:
        record(out, "interrupted")
        raise KeyboardInterrupt

    campaign.act = interrupt
    result = call("run", "--plain", "--out", "my run")
    assert result.exit_code == 130
    assert "sparta-lite run --resume --out 'my run'" in result.stderr


def test_ctrl_c_before_there_is_anything_to_resume_says_only_so(campaign: Campaign) -> None:
    def interrupt(out: Path, listener: Listener) -> None:
        raise KeyboardInterrupt

    campaign.act = interrupt
    result = call("run", "--plain")
    assert (result.exit_code, result.stderr) == (130, "interrupted\n")


# --- as a process


@pytest.mark.parametrize(
    "command", [[str(Path(sys.executable).with_name("sparta-lite"))], [sys.executable, str(ROOT / "cli.py")]]
)
def test_a_real_process_ends_with_2_and_one_line(command: list[str], tmp_path: Path) -> None:
    done = subprocess.run([*command, "run", "none.yaml"], capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "error: none.yaml: no such file; `sparta-lite run --show-config` prints one to start from\n"
    )


def test_from_a_checkout_the_folder_kernels_is_not_the_package_kernels() -> None:
    code = (
        "import importlib.util, runpy; runpy.run_path('cli.py'); "
        "print(importlib.util.find_spec('kernels'), importlib.util.find_spec('sparta_lite.kernels').origin)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.startswith("None ")


def test_the_command_line_answers_without_importing_torch() -> None:
    code = (
        "import sys; from typer.testing import CliRunner; from sparta_lite.commands.app import app; "
        "codes = [CliRunner().invoke(app, each).exit_code for each in (['--help'], ['--version'], "
        "['run', '--show-config'], ['replay', '--help'], ['forge', 'pocket', '--help'])]; "
        "sys.exit(str(codes) if any(codes) else 'torch' in sys.modules or 'transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd="/").returncode == 0


def test_ctrl_c_in_a_real_process(tmp_path: Path) -> None:
    code = (
        "import sys, time, types\n"
        "def run(config, out, resume, listener):\n"
        "    out.mkdir(parents=True)\n"
        "    (out / 'run.json').write_text('{}')\n"
        "    sys.stderr.write('ready\\n'); sys.stderr.flush()\n"
        "    time.sleep(60)\n"
        "sys.modules['sparta_lite.campaign.loop'] = types.SimpleNamespace(run=run)\n"
        "sys.argv = ['sparta-lite', 'run', '--plain']\n"
        "from sparta_lite.commands import main\n"
        "main()\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True, cwd=tmp_path)
    assert process.stderr is not None
    assert process.stderr.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=30)
    assert process.returncode == 130
    assert error == "interrupted; go on with `sparta-lite run --resume --out runs/pocket-0`\n"
