"""Chat templates rendered under a limit on time, memory and size: a template is a program, and not ours."""

from __future__ import annotations

import atexit
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

SECONDS = 5.0
"""Of computing, for one conversation; real templates take milliseconds."""
CHARACTERS = 1_000_000
"""That a template may write beside the conversation's own."""

_ROOT = Path(__file__).parents[2]
_START = (
    "import sys; sys.path[:] = sys.argv[1:]; from sparta_lite.engine.template_process import serve; serve()"
)


class RenderingError(Exception):
    """The template raised an error; the message is its own."""


class RenderingLimit(Exception):  # noqa: N818
    """The template did not come to an end within its limits; the message says which, as in "it takes ..."."""


class Renderer:
    """A process beside this one that renders templates, started when it is first needed.

    Nothing in Python interrupts one long operation, such as a power of large numbers, and outside of the main
    thread no signal interrupts a loop either. A process ends whatever it is doing.
    """

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Leave the process to whoever has started it."""
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None

    def render(
        self,
        template: str,
        messages: Sequence[Mapping[str, Any]],
        date: str,
        variables: Mapping[str, Any],
        seconds: float = SECONDS,
        characters: int = CHARACTERS,
    ) -> str:
        """See ``template_process.render``; any thread may ask.

        Args:
            template, messages, date, variables: see there.
            seconds: of computing.
            characters: that the text may have beyond those of the messages.

        Raises:
            RenderingError: the template refuses, or is none.
            RenderingLimit: it takes too long or too much memory, or writes too much.
        """
        request = {
            "template": template,
            "messages": messages,
            "date": date,
            "characters": characters + sum(len(str(message.get("content"))) for message in messages),
            "variables": variables,
            "seconds": seconds,
        }
        with self._lock:
            answer = self._ask(json.dumps(request, default=str), seconds)
        if "error" in answer:
            raise RenderingError(answer["error"])
        if "limit" in answer:
            raise RenderingLimit(answer["limit"])
        return str(answer["text"])

    def close(self) -> None:
        """End the process, if there is one."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate()

    def _ask(self, request: str, seconds: float) -> dict[str, Any]:
        process = self._running()
        try:
            line = _exchange(process, request)
        except BaseException:  # Ctrl-C, for one: the answer must not be taken for that to the next request
            self.close()
            raise
        if line.endswith("\n"):
            answer: dict[str, Any] = json.loads(line)
            return answer
        self.close()
        if process.returncode == -signal.SIGPROF:
            raise RenderingLimit(f"takes more than {seconds:g} s of computing")
        raise RenderingLimit(f"ends the process that renders it ({process.returncode})")

    def _running(self) -> subprocess.Popen[str]:
        if self._process is None or self._process.poll() is not None:
            self.close()
            self._process = subprocess.Popen(
                [sys.executable, "-S", "-c", _START, *sys.path, str(_ROOT)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                encoding="ascii",  # as JSON writes itself
                start_new_session=True,  # Ctrl-C is for the one who asks
                env={**os.environ, "PYTHONHASHSEED": "0"},
            )
        return self._process


def _exchange(process: subprocess.Popen[str], request: str) -> str:
    """One request and its answer; less than a line when the process has ended."""
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(request + "\n")
        process.stdin.flush()
        return process.stdout.readline()
    except BrokenPipeError:
        return ""


renderer = Renderer()
"""That of this program."""

atexit.register(renderer.close)
os.register_at_fork(after_in_child=renderer.forget)
