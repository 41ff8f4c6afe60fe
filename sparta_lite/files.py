"""Files that are either whole or absent."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import threading
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from sparta_lite.errors import SpartaError
from sparta_lite.typed import RESTORE, parse, read_bytes, whole_lines


@contextlib.contextmanager
def clear_errors(path: Path) -> Iterator[None]:
    """Turn an operating-system failure at ``path`` into one line for the user.

    Raises:
        SpartaError: the disk is full, the place is not writable, or the file cannot be read.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise SpartaError(
            f"{path}: {reason}; free some space or choose a directory that you may write to"
        ) from error


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Hold Ctrl-C back until the block is done; then it takes its usual effect."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    caught: list[tuple[int, FrameType | None]] = []
    usual = signal.signal(signal.SIGINT, lambda number, frame: caught.append((number, frame)))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, usual)
    if caught and callable(usual):
        usual(*caught[0])


def write_whole(path: Path, write: Callable[[Path], None]) -> None:
    """Let ``write`` fill a temporary file beside ``path``, then put it in place in one step.

    After a crash at any instant ``path`` holds either its old content or the new one.

    Raises:
        SpartaError: the file could not be written; nothing is left behind.
    """
    temporary = path.with_name(f".{path.name}.partial")
    with uninterrupted(), clear_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            write(temporary)
            sync(temporary)
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise
        sync(path.parent)


def write_text(path: Path, text: str) -> None:
    """Write ``text`` as UTF-8, whole or not at all."""
    write_whole(path, lambda temporary: write_bytes(temporary, text.encode()))


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON, whole or not at all. NaN is refused (``ValueError``)."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def write_lines(path: Path, rows: Iterable[Any]) -> None:
    """Write ``rows`` as JSON lines, whole or not at all."""
    write_text(path, "".join(line(row) for row in rows))


def line(row: Any) -> str:
    """One JSON line, newline included. NaN is refused (``ValueError``)."""
    return json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n"


def read_json(path: Path, keys: Collection[str] = ()) -> Any:
    """Read one JSON document; where there are ``keys``, an object that has them.

    Raises:
        SpartaError: the file is missing or is not JSON, or lacks one of ``keys``.
    """
    return _with_keys(parse(read_bytes(path), str(path)), keys, str(path))


def read_lines(path: Path, keys: Collection[str] = ()) -> list[Any]:
    """Read JSON lines; a last line without its newline (a write that was cut off) is left out.

    Raises:
        SpartaError: the file is missing, or a whole line is not JSON or lacks one of ``keys``.
    """
    return [
        _with_keys(parse(text, where), keys, where) for text, where in whole_lines(read_bytes(path), path)
    ]


def _with_keys(value: Any, keys: Collection[str], where: str) -> Any:
    lacking = [key for key in keys if not isinstance(value, dict) or key not in value]
    if lacking:
        raise SpartaError(f"{where}: lacks {', '.join(lacking)}; {RESTORE}")
    return value


class Journal:
    """A file of JSON lines that only grows; a line counts once it is whole.

    Opening it cuts off what a killed process left unfinished at its end.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with clear_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("a+b", buffering=0)
            self._file.seek(0)
            data = self._file.read()
            self.size = data.rfind(b"\n") + 1
            self._file.truncate(self.size)
        self._sha = hashlib.sha256(data[: self.size])

    @property
    def sha256(self) -> str:
        """Of all that stands in it."""
        return self._sha.hexdigest()

    def append(self, rows: Iterable[Any], *, durable: bool = True) -> None:
        """Add ``rows``; with ``durable`` they stand on the disk when this returns.

        Raises:
            SpartaError: the disk is full or gone; what was whole before still is.
        """
        data = "".join(map(line, rows)).encode()
        with uninterrupted(), clear_errors(self.path):
            try:
                left = data
                while left:
                    left = left[self._file.write(left) :]
                if durable:
                    os.fsync(self._file.fileno())
            except OSError:
                self._file.truncate(self.size)
                raise
            self.size += len(data)
            self._sha.update(data)

    def sync(self) -> None:
        """Wait until every row stands on the disk."""
        with clear_errors(self.path):
            os.fsync(self._file.fileno())

    def cut(self, size: int) -> None:
        """Keep the first ``size`` bytes alone."""
        with uninterrupted(), clear_errors(self.path):
            self._file.truncate(size)
            os.fsync(self._file.fileno())
            self._file.seek(0)
            self._sha = hashlib.sha256(self._file.read())
            self.size = size

    def close(self) -> None:
        self._file.close()


def write_bytes(path: Path, data: bytes) -> None:
    """``Path.write_bytes`` without its result, as ``write_whole`` wants it."""
    path.write_bytes(data)


def sync(path: Path) -> None:
    """Wait until a file or a directory stands on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
