"""The process in which chat templates are rendered: one JSON request a line in, one JSON answer a line out.

``rendering.py`` starts it. It knows Jinja and the standard library alone, so that it is there at once, and it
bounds itself: a rendering that computes for too long ends the process, one of too much memory is refused.
"""

from __future__ import annotations

import contextlib
import json
import random
import resource
import signal
import sys
from collections.abc import Callable
from datetime import datetime
from functools import lru_cache
from typing import Any

from jinja2 import Template, TemplateError
from jinja2.ext import Extension, loopcontrols
from jinja2.nodes import CallBlock, Node
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

_MEMORY = 1 << 30  # bytes beyond what the process holds before it renders anything


class TooLong(Exception):  # noqa: N818
    """What was rendered has more characters than it may have."""


def serve() -> None:
    """Answer requests until there are no more: ``seconds`` of computing, and the arguments of ``render``."""
    answers, sys.stdout = sys.stdout, sys.stderr
    signal.signal(signal.SIGPROF, signal.SIG_DFL)  # the system ends the process, whatever it is doing
    _bound_memory()
    for line in sys.stdin:
        request = json.loads(line)
        signal.setitimer(signal.ITIMER_PROF, request.pop("seconds"))
        try:
            answer = {"text": render(**request)}
        except TooLong as error:
            answer = {"limit": str(error)}
        except MemoryError:
            answer = {"limit": f"takes more than {_MEMORY >> 30} GiB of memory"}
        except Exception as error:  # a template is a program, and fails as one
            answer = {"error": str(error).strip() or type(error).__name__}
        signal.setitimer(signal.ITIMER_PROF, 0)
        print(json.dumps(answer), file=answers, flush=True)


def render(
    template: str, messages: list[dict[str, Any]], date: str, characters: int, variables: dict[str, Any]
) -> str:
    """A conversation as text. The same request gives the same text, whenever and wherever it is made.

    Args:
        template: Jinja source.
        messages: role and content of every message.
        date: in ISO's form; what the template takes for now.
        characters: the most that the text may have.
        variables: what else the template can ask for.

    Raises:
        TooLong: the text has more characters.
        Exception: whatever the template's own errors raise.
    """
    random.seed(0)  # for Jinja's `random` and `lipsum`
    given = {"tools": None, "documents": None, "strftime_now": datetime.fromisoformat(date).strftime}
    text = _compiled(template).render(messages=messages, **given, **variables)
    if len(text) > characters:
        raise TooLong(f"writes more than {characters:,} characters")
    return text


class _Generation(Extension):
    """``{% generation %}`` marks what an assistant says, for trainers; here it is like any other text."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return CallBlock(self.call_method("_said"), [], [], body).set_lineno(line)

    @staticmethod
    def _said(caller: Callable[[], str]) -> str:
        return caller()


@lru_cache(maxsize=8)
def _compiled(template: str) -> Template:
    """In the environment that transformers gives to chat templates, less its clock."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise
    return environment.from_string(template)


def _to_json(value: Any, ensure_ascii: bool = False, **how: Any) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, **how)


def _raise(message: str) -> None:
    raise TemplateError(message)


def _bound_memory() -> None:
    with contextlib.suppress(OSError, ValueError), open("/proc/self/statm") as pages:
        held = int(pages.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (held + _MEMORY, held + _MEMORY))
