"""``sparta-lite chat``: the answers are those that PEFT gives, side by side."""

from __future__ import annotations

import io
import shutil
import sys
from pathlib import Path

import pytest
import torch
import yaml
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner, Result

from sparta_lite.commands.app import app
from sparta_lite.commands.chat import _questions, _show
from sparta_lite.errors import SpartaError

from ..run_files import forget_digests

QUESTION = "double 4"


@pytest.fixture(scope="module")
def greedy(small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run, as if it had answered greedily."""
    path = tmp_path_factory.mktemp("greedy") / "run"
    shutil.copytree(small_run, path)
    forget_digests(path)
    config = yaml.safe_load((path / "config.yaml").read_text())
    config["generation"] |= {"temperature": 0.0, "max_new_tokens": 12, "system": "Be brief."}
    (path / "config.yaml").write_text(yaml.safe_dump(config))
    return path


def chat(run: Path, *args: str, says: str = f"{QUESTION}\n") -> Result:
    return CliRunner().invoke(app, ["chat", str(run), *args], input=says)


def reference(base_path: Path, adapter: Path | None) -> str:
    """transformers' own greedy answer."""
    model = AutoModelForCausalLM.from_pretrained(base_path)
    if adapter is not None:
        model = PeftModel.from_pretrained(model, adapter)
    tokenizer = AutoTokenizer.from_pretrained(base_path)
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": QUESTION}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    ids = torch.tensor([tokenizer(text)["input_ids"]])
    out = model.generate(input_ids=ids, do_sample=False, max_new_tokens=12)[0, ids.shape[1] :]
    answer: str = tokenizer.decode(out, skip_special_tokens=True)
    return answer


def test_adapters_and_base_answer_side_by_side(greedy: Path, base_path: Path) -> None:
    result = chat(greedy, "--adapter", "ada", "--adapter", "base", "--adapter", "cyd")
    trained = greedy / "iteration-00" / "adapters"
    answers = {"ada": trained / "ada", "base": None, "cyd": trained / "cyd"}
    assert result.exit_code == 0, result.output
    assert result.stdout == "".join(f"{name}: {reference(base_path, at)}\n" for name, at in answers.items())


def test_an_earlier_iteration_answers_as_it_was(
    greedy: Path, base_path: Path, adapter_paths: dict[str, Path]
) -> None:
    before = chat(greedy, "--adapter", "ada", "--iteration", "0").stdout
    assert before == f"ada: {reference(base_path, adapter_paths['ada'])}\n"
    assert before != chat(greedy, "--adapter", "ada").stdout


def test_every_line_is_a_question_of_its_own(greedy: Path) -> None:
    once = chat(greedy, "--adapter", "ben").stdout
    assert chat(greedy, "--adapter", "ben", says=f"{QUESTION}\n\n{QUESTION}\n").stdout == 2 * once
    assert chat(greedy, "--adapter", "ben", says="").stdout == ""


def test_the_runs_sampling_follows_from_its_seed(small_run: Path) -> None:
    answers = [chat(small_run, "--adapter", "ada", "--adapter", "ben").stdout for _ in range(2)]
    assert answers[0] == answers[1]
    alone = chat(small_run, "--adapter", "ben").stdout
    assert answers[0].endswith(alone)  # who answers beside it changes nothing


def test_the_bare_base_answers_alone(greedy: Path, base_path: Path) -> None:
    assert chat(greedy, "--adapter", "base").stdout == f"base: {reference(base_path, None)}\n"


def test_who_does_not_exist_is_refused(greedy: Path) -> None:
    result = chat(greedy, "--adapter", "dan")
    assert (result.exit_code, result.stderr) == (
        2,
        f"error: {greedy}: has no adapter 'dan'; its tribe is ada, ben, cyd\n",
    )


def test_a_question_that_is_not_utf8_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    # Python's standard input carries such bytes as half surrogates.
    monkeypatch.setattr(sys, "stdin", io.StringIO(b"d\xffbl 4\n".decode("utf-8", "surrogateescape")))
    with pytest.raises(SpartaError, match="a question is not UTF-8"):
        list(_questions())


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_on_a_terminal_answers_stand_in_columns_and_nothing_escapes(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Terminal()
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setenv("COLUMNS", "60")
    _show(("ada", "ben"), ("[bold]one[/]\ntwo", "\x1b[2Jthree"))
    lines = screen.getvalue().splitlines()
    [row] = [line for line in lines if "[bold]one[/]" in line]
    assert row.index("three") > 30
    assert any("two" in line for line in lines[lines.index(row) + 1 :])
    assert "\x1b[2J" not in screen.getvalue()


@pytest.mark.parametrize("end", ["", None])
def test_an_empty_line_or_the_end_of_input_ends_it(monkeypatch: pytest.MonkeyPatch, end: str | None) -> None:
    typed = iter(["one ", " two", end, "never"])

    def ask(_: str) -> str:
        line = next(typed)
        if line is None:
            raise EOFError
        return line

    monkeypatch.setattr(sys, "stdin", Terminal())
    monkeypatch.setattr("builtins.input", ask)
    assert list(_questions()) == ["one", "two"]
