"""Chat templates as transformers renders them, the same bytes at any time, and within limits."""

from __future__ import annotations

import io
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from sparta_lite.engine import rendering, template_process
from sparta_lite.engine.rendering import Renderer, RenderingLimit
from sparta_lite.engine.template import Template, TurnsError
from sparta_lite.errors import SpartaError

from .templates import FAMILIES, Family, tokenizer_of

DATE = datetime(2024, 2, 29, 23, 59, 58)
TALK = [("user", ' 2 < 3? "é"\n'), ("assistant", " <think>\nhm\n</think>\n yes "), ("user", "sure?")]
SLOW = "{% for each in range(4000) %}{% for other in range(4000) %}{% endfor %}{% endfor %}"  # a second or so


@pytest.fixture
def renderer() -> Iterator[Renderer]:
    """One of its own, which may be ended."""
    own = Renderer()
    yield own
    own.close()


def ask(renderer: Renderer, template: str, **limits: Any) -> str:
    return renderer.render(template, [{"role": "user", "content": "hi"}], DATE.isoformat(), {}, **limits)


def transformers_text(tokenizer: Any, turns: list[tuple[str, str]], **how: Any) -> str:
    """The library's own, its clock set to the same date."""
    messages = [{"role": role, "content": content} for role, content in turns]
    text: str = tokenizer.apply_chat_template(messages, tokenize=False, strftime_now=DATE.strftime, **how)
    return text


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_a_conversation_reads_as_transformers_renders_it(family: Family) -> None:
    tokenizer = tokenizer_of(family)
    template = Template(tokenizer, DATE)
    for turns in (TALK, TALK[:1], TALK[:2]):
        for answer in (False, True):
            asked = {"add_generation_prompt": answer}
            assert template.render(turns, answer=answer) == transformers_text(tokenizer, turns, **asked)
            for thinking in (False, True):
                assert template.render(turns, answer=answer, thinking=thinking) == transformers_text(
                    tokenizer, turns, **asked, enable_thinking=thinking
                )
    begun = [*TALK[:1], ("assistant", " The ")]
    assert template.render(begun, open_end=True) == transformers_text(
        tokenizer, begun, continue_final_message=True
    )


@pytest.mark.parametrize(
    "template",
    [
        "{%- for m in messages %}\n    {%- if loop.first %}{% continue %}{% endif %}\n  {{ m.role }}\n"
        "{%- endfor %}",
        "{% for m in messages %}\n  {% break %}\n{% endfor %}x",
        "{{ messages | tojson }}{{ {'b': 1, 'a': '<é>'} | tojson(indent=2, sort_keys=true) }}",
        "{{ tools is none }}{{ documents is none }}{{ tools is defined }}{{ other is defined }}{{ other }}",
        "{% set x = 1 %}{% generation %}{% set x = 2 %}{{ x }}{% endgeneration %}{{ x }}",
        "{% macro say(m) %}{{ m.role }}: {{ strftime_now('%A %-d %B %Y, %H:%M:%S') }}{% endmacro %}"
        "{{ say(messages[0]) }}",
        "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + m.content | length %}"
        "{% endfor %}{{ ns.n }} {{ eos_token }} {{ bos_token is defined }}",
    ],
)
def test_what_templates_can_ask_for_is_what_transformers_gives(template: str) -> None:
    tokenizer = tokenizer_of(FAMILIES["llama-2"])
    tokenizer.chat_template = template
    assert Template(tokenizer, DATE).render(TALK) == transformers_text(tokenizer, TALK)


@pytest.mark.parametrize(
    "template",
    [
        "{{ raise_exception('not today') }}",
        "{{ messages + 1 }}",
        "{% for %}",
        "{{ messages.append(1) }}",
        "{{ ''.__class__.__mro__ }}",
        "{{ range(1000000) }}",
    ],
)
def test_what_transformers_refuses_is_refused(template: str) -> None:
    tokenizer = tokenizer_of(FAMILIES["llama-2"])
    tokenizer.chat_template = template
    with pytest.raises(Exception) as theirs:  # noqa: PT011
        transformers_text(tokenizer, TALK)
    with pytest.raises(TurnsError, match=r"base: its chat template refuses the turns user, ass") as ours:
        Template(tokenizer, DATE).render(TALK)
    assert str(theirs.value).strip().partition("\n")[0][:100] in str(ours.value)


def test_a_refusal_is_one_short_line_with_a_way_out() -> None:
    tokenizer = tokenizer_of(FAMILIES["llama-2"])
    tokenizer.chat_template = "{{ raise_exception('no' * 5000 + '\n' + 'more') }}"
    with pytest.raises(SpartaError) as caught:
        Template(tokenizer, DATE).render(TALK * 50, advice="leave the system prompt out")
    assert len(str(caught.value)) <= 300
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith("; leave the system prompt out")


def test_chance_in_a_template_is_the_same_in_every_process(renderer: Renderer) -> None:
    template = "{{ range(1000) | random }} {{ lipsum(1, false, 5, 9) }}"
    assert len({ask(each, template) for each in (renderer, renderer, rendering.renderer)}) == 1


def test_a_rendering_that_takes_too_long_is_ended_and_the_next_one_works(renderer: Renderer) -> None:
    assert ask(renderer, "{{ messages[0].content }}") == "hi"
    with pytest.raises(RenderingLimit, match=r"takes more than 0\.05 s of computing"):
        ask(renderer, SLOW, seconds=0.05)
    assert ask(renderer, "{{ messages[0].content }}") == "hi"


def test_each_rendering_has_its_time_for_itself(renderer: Renderer) -> None:
    part = SLOW.replace("4000", "600")  # some hundredths of a second
    for _ in range(40):  # longer than the limit, all together
        assert ask(renderer, part, seconds=0.25) == ""


def test_time_that_is_spent_waiting_does_not_count(renderer: Renderer) -> None:
    assert ask(renderer, "x", seconds=0.2) == "x"
    time.sleep(0.3)
    assert ask(renderer, "y", seconds=0.2) == "y"


def test_a_result_that_is_too_long_is_refused_and_long_messages_are_none(renderer: Renderer) -> None:
    with pytest.raises(RenderingLimit, match="writes more than 102 characters"):
        ask(renderer, "{{ 'x' * 103 }}", characters=100)
    assert ask(renderer, "{{ 'x' * 102 }}", characters=100) == "x" * 102
    long = [{"role": "user", "content": "long" * 100}]
    assert (
        renderer.render("{{ messages[0].content }}", long, DATE.isoformat(), {}, characters=0) == "long" * 100
    )


def test_memory_that_runs_out_is_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(**_: Any) -> str:
        raise MemoryError

    monkeypatch.setattr(template_process, "render", full)
    monkeypatch.setattr(template_process, "_bound_memory", lambda: None)
    monkeypatch.setattr(sys, "stdin", io.StringIO('{"seconds": 5}\n'))
    monkeypatch.setattr(sys, "stdout", answers := io.StringIO())
    template_process.serve()
    assert json.loads(answers.getvalue()) == {"limit": "takes more than 1 GiB of memory"}


@pytest.mark.skipif(not Path("/proc").exists(), reason="the system does not tell")
def test_the_process_is_bounded_in_memory(renderer: Renderer) -> None:
    ask(renderer, "x")
    assert renderer._process is not None
    limits = Path(f"/proc/{renderer._process.pid}/limits").read_text().splitlines()
    [line] = [each for each in limits if each.startswith("Max address space")]
    assert 1 << 30 < int(line.split()[3]) < 2 << 30


def test_any_thread_may_ask(renderer: Renderer) -> None:
    found: dict[int, str] = {}

    def work(number: int) -> None:
        for _ in range(20):
            found[number] = ask(renderer, f"{number} {{{{ messages[0].content }}}}")

    def slow() -> None:
        with pytest.raises(RenderingLimit):
            ask(renderer, SLOW, seconds=0.05)
        found[99] = "ended"

    threads = [threading.Thread(target=work, args=[number]) for number in range(4)]
    threads.append(threading.Thread(target=slow))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {**{number: f"{number} hi" for number in range(4)}, 99: "ended"}


def test_ctrl_c_ends_a_rendering_at_once_and_leaves_nothing_behind(renderer: Renderer) -> None:
    ask(renderer, "x")
    assert renderer._process is not None
    process = renderer._process
    pressed = threading.Timer(0.1, os.kill, [os.getpid(), signal.SIGINT])
    pressed.start()
    with pytest.raises(KeyboardInterrupt):
        ask(renderer, SLOW, seconds=60)
    pressed.join()
    assert process.poll() is not None
    assert ask(renderer, "{{ messages[0].content }}") == "hi"


def test_a_process_that_was_ended_from_outside_is_started_again(renderer: Renderer) -> None:
    ask(renderer, "x")
    assert renderer._process is not None
    renderer._process.kill()
    renderer._process.wait()
    assert ask(renderer, "y") == "y"


def test_a_process_that_dies_over_a_template_is_a_limit(
    renderer: Renderer, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask(renderer, "x")

    def exchange(process: Any, request: str) -> str:
        process.kill()
        return '{"text": "ha'

    monkeypatch.setattr(rendering, "_exchange", exchange)
    with pytest.raises(RenderingLimit, match=r"ends the process that renders it \(-9\)"):
        ask(renderer, "y")


def test_a_fork_has_a_process_of_its_own() -> None:
    ask(rendering.renderer, "x")
    there, here = os.pipe()[::-1]
    child = os.fork()
    if child == 0:
        try:
            os.write(there, ask(rendering.renderer, "{{ messages[0].content }} from the fork").encode())
        finally:
            rendering.renderer.close()
            os._exit(0)
    os.waitpid(child, 0)
    assert os.read(here, 100) == b"hi from the fork"
    os.close(here)
    os.close(there)
    assert ask(rendering.renderer, "y") == "y"


def test_no_file_of_the_folder_that_one_stands_in_is_imported(
    renderer: Renderer, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "jinja2.py").write_text("raise SystemExit(3)")
    (tmp_path / "random.py").write_text("raise SystemExit(3)")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    assert ask(renderer, "x") == "x"


def test_a_template_that_takes_too_long_is_one_line_of_the_bases(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = tokenizer_of(FAMILIES["llama-2"])
    tokenizer.chat_template = SLOW
    honest = Renderer.render

    def hurried(self: Renderer, *asked: Any) -> str:
        return honest(self, *asked, seconds=0.05)

    monkeypatch.setattr(Renderer, "render", hurried)
    with pytest.raises(
        SpartaError, match=r"base: its chat template takes more than .* use another base"
    ) as caught:
        Template(tokenizer, DATE).render(TALK)
    assert not isinstance(caught.value, TurnsError)
