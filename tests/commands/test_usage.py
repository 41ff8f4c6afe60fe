"""A command line that cannot be taken is refused in one plain line that names the next step."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from sparta_lite.commands.app import app

CLI = CliRunner()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["run", "--seed", "x"],
            "--seed x: give a whole number; `sparta-lite run --help` shows what it takes",
        ),
        (["run", "--seed", "9" * 5000], "--seed 999"),
        (["forge", "--rank", "0", "--base", "a", "--data", "b"], "--rank 0: give at least 1;"),
        (["forge", "--alpha", "much", "--base", "a", "--data", "b"], "--alpha much: give a number;"),
        (
            ["forge", "pocket", "--seed", "1.5"],
            "--seed 1.5: give a whole number; `sparta-lite forge pocket --help`",
        ),
        (
            ["export", "x", "--to", "y" * 900],
            "is not one of 'peft', 'merged', 'gguf-lora', 'hub'; `sparta-lite",
        ),
        (["run", "a", "b" * 5000], "got unexpected extra argument"),
        (["eval"], "missing argument 'RUN'; `sparta-lite eval --help` shows what it takes"),
        (["plan", "--set"], "option '--set' requires an argument;"),
        (["nix"], "no such command 'nix'; `sparta-lite --help` shows what it takes"),
        (["--nix"], "no such option: --nix; `sparta-lite --help` shows what it takes"),
        (["run", "--" + "x" * 5000], "no such option: --xxx"),
        (["plan", "--vram", "9" * 5000 + "GB"], "give a size such as 24GB"),
    ],
)
def test_it_is_one_plain_line(arguments: list[str], said: str) -> None:
    result = CLI.invoke(app, arguments, prog_name="sparta-lite")
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert said in result.stderr
    assert result.stderr.count("\n") == 1
    assert len(result.stderr) <= 301
    assert "Input should" not in result.stderr


def test_no_arguments_print_the_help() -> None:
    result = CLI.invoke(app, [], prog_name="sparta-lite")
    assert "Usage: sparta-lite" in result.output
    assert "error" not in result.output


@pytest.mark.parametrize("place", ["x" * 5000, "/proc/self/mem", "/"])
def test_a_place_that_the_system_refuses_is_one_line_with_advice(place: str) -> None:
    for arguments in (["run", place], ["run", "--out", place, "--set", "iterations=1"], ["report", place]):
        result = CLI.invoke(app, arguments)
        assert result.exit_code == 2, result.output
        assert result.stderr.count("\n") == 1
        assert len(result.stderr) <= 301
        assert not isinstance(result.exception, OSError)


def test_a_file_that_is_no_utf_8_is_named(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_bytes(b"seed: \xe9\n")
    result = CLI.invoke(app, ["plan", str(tmp_path / "c.yaml")])
    assert result.exit_code == 2
    assert "not UTF-8" in result.stderr
