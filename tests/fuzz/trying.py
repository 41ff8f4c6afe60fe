"""Many inputs of one kind, each tried once: it is taken, or refused in one line, and nothing else happens.

An input follows from its kind and a number alone, so that one that fails can be repeated by
``SPARTA_FUZZ_FIRST=<number> SPARTA_FUZZ_COUNT=1 pytest tests/fuzz -k <kind>``. ``make test`` tries fixed
ones; ``SPARTA_FUZZ_SECONDS`` goes on from there for so long in every kind, and ``SPARTA_FUZZ_REPORT`` names a
file for the counts.
"""

from __future__ import annotations

import contextlib
import faulthandler
import hashlib
import io
import os
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from random import Random
from types import FrameType
from typing import Any

import psutil
import pytest
from typer.main import get_command

from sparta_lite.commands.app import app
from sparta_lite.errors import LONGEST, SpartaError

PATIENCE = 60  # seconds for one input
MEMORY = 6 * 10**9  # bytes that one may take beyond what the process has
CODES = (0, 2, 130)
MOST_SHOWN = 12  # failures of one kind

_STEPS = """accept add ask call change check choose compare convert correct delete download export free get
give install keep leave let list lower make mend merge move name pick put quote raise read remove rename
repair restore resume run save see set shows split start state take train try use wait write"""
_CHOICES = """did you mean|go on|should be|would fit|needs|must|its columns|it has|its tribe is|the tasks"""
ADVICE = re.compile(rf"[;:,?] .*?\b({'|'.join(_STEPS.split())}|{_CHOICES})\b")
"""A message names the next step, or what there is to choose from."""


_COMMAND = get_command(app)  # made once: a test runner makes it anew for every call


class Hung(BaseException):
    """An input took too long. Nobody's ``except Exception`` swallows it."""


class Found(Exception):  # noqa: N818
    """An input did what none may do."""


def command(arguments: Sequence[str]) -> str:
    """Run a command as the command line does; what it came to: 'taken', 'refused' or 'interrupted'."""
    out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    err = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="backslashreplace")
    code: Any = 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            _COMMAND(list(arguments), prog_name="sparta-lite")
        except SystemExit as stop:
            code = stop.code or 0
    said = [stream.buffer.getvalue().decode() for stream in (out, err) if stream.flush() is None]  # type: ignore
    if code not in CODES:
        raise Found(f"exit code {code}: {said[1][-500:]}")
    if "Traceback" in "".join(said):
        raise Found(f"a traceback was printed: {''.join(said)[-1500:]}")
    if code == 2:
        refusal(said[1])
        return "refused"
    return "taken" if code == 0 else "interrupted"


def refusal(stderr: str) -> None:
    """What is printed for people: one line, short, without control characters, with a next step."""
    said = [line for line in stderr.split("\n") if line.startswith("error: ")]
    last = stderr.rstrip("\n").rpartition("\n")[2]
    if len(said) != 1 or last != said[0]:
        raise Found(f"not one line of error at the end: {stderr[-700:]!r}")
    require_plain(said[0])


def require_plain(line: str) -> None:
    if len(line) > LONGEST or not line.isprintable():
        raise Found(f"{len(line)} characters, or not printable: {line!r}")
    if not ADVICE.search(line):
        raise Found(f"names no next step: {line}")


def call(work: Callable[[], object]) -> str:
    """The same for a function that a command would call: it may raise SpartaError."""
    try:
        work()
    except SpartaError as error:
        require_plain(f"error: {error}"[:LONGEST])
        return "refused"
    return "taken"


def fuzz(kind: str, count: int, attempt: Callable[[int, Random, Path], str]) -> None:
    """Try ``count`` inputs of a kind, and fail with all that was found.

    Args:
        kind: names it.
        count: inputs in `make test`.
        attempt: makes the input of a number in the directory ``inputs`` of the place that it is given, tries
            it, and says what it came to. Beside ``inputs`` it may leave what it likes.
    """
    first = int(os.environ.get("SPARTA_FUZZ_FIRST", "0"))
    count = int(os.environ.get("SPARTA_FUZZ_COUNT", str(count)))
    seconds = float(os.environ.get("SPARTA_FUZZ_SECONDS", "0"))
    ends = time.monotonic() + seconds
    came_to: Counter[str] = Counter()
    found: dict[str, str] = {}
    number = first
    while number < first + count or time.monotonic() < ends:
        try:
            came_to[_once(kind, number, attempt)] += 1
        except (Exception, Hung) as error:
            came_to["found"] += 1
            found.setdefault(_where(error), f"{kind} {number}: {_tail(error)}")
            if len(found) == MOST_SHOWN:
                break
        number += 1
    _report(kind, came_to)
    if found:
        pytest.fail("\n\n".join(found.values()), pytrace=False)


def _once(kind: str, number: int, attempt: Callable[[int, Random, Path], str]) -> str:
    place = Path(tempfile.mkdtemp(prefix="sparta-fuzz-"))
    (place / "inputs").mkdir()
    was = Path.cwd()
    os.chdir(place)
    try:
        with _watchdog(f"{kind} {number}"), _memory():
            return attempt(number, Random(f"{kind} {number}"), place)
    finally:
        os.chdir(was)
        shutil.rmtree(place, ignore_errors=True)


@contextlib.contextmanager
def unchanged(tree: Path) -> Iterator[None]:
    """No file in ``tree`` is changed, added or removed."""
    before = _hashes(tree)
    yield
    after = _hashes(tree)
    if changed := sorted(name for name in {*before, *after} if before.get(name) != after.get(name)):
        raise Found(f"changed: {', '.join(changed[:5])}")


def _hashes(tree: Path) -> dict[str, str]:
    return {
        str(path.relative_to(tree)): hashlib.sha1(path.read_bytes()).hexdigest()
        for path in sorted(tree.rglob("*"))
        if path.is_file()
    }


@contextlib.contextmanager
def _watchdog(name: str) -> Iterator[None]:
    """`Hung` after ``PATIENCE``; where even that cannot get through, the end of the process."""

    def bark(number: int, frame: FrameType | None) -> None:
        raise Hung(f"{name}: still at it after {PATIENCE} s")

    before = signal.signal(signal.SIGALRM, bark)
    signal.setitimer(signal.ITIMER_REAL, PATIENCE)
    print(f"fuzz: {name}", file=sys.stderr)  # what pytest shows of a process that had to be ended
    faulthandler.dump_traceback_later(3 * PATIENCE, exit=True)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def _memory() -> Iterator[None]:
    """`MemoryError` for what asks for far more than any input needs, before the machine is out of it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (psutil.Process().memory_info().vms + MEMORY, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _where(error: BaseException) -> str:
    """One failure of a kind is enough: by its type and the last line of ours that it went through."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "sparta_lite" in frame.filename]
    place = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else ""
    text = re.sub(r"\d+|'[^']*'|/\S+|\(.*\)", "", str(error))[:80] if isinstance(error, Found) else ""
    return f"{type(error).__name__} {place} {text}"


def _tail(error: BaseException) -> str:
    if isinstance(error, Found):
        return str(error)
    lines = traceback.format_exception(error, limit=-6, chain=False)
    return "".join(lines)[-1500:]


def _report(kind: str, came_to: Counter[str]) -> None:
    line = f"{kind}: {sum(came_to.values())} inputs, " + ", ".join(
        f"{count} {what}" for what, count in sorted(came_to.items())
    )
    print(line)
    if path := os.environ.get("SPARTA_FUZZ_REPORT"):
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(line + "\n")


def pick(random: Random, weighted: dict[Any, float]) -> Any:
    return random.choices(list(weighted), list(weighted.values()))[0]
