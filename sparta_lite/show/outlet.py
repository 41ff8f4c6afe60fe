"""Standard output that may vanish: a reader that goes away must not take the run with it."""

from __future__ import annotations

import io
import os
from typing import IO


class Outlet(io.TextIOBase):
    """A text stream in front of ``stream`` that falls silent for good once a write has failed.

    ``... | head`` closes the pipe, a terminal hangs up: the run and its files go on. Characters that the
    stream cannot encode are replaced.
    """

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self.silent = False

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return getattr(self._stream, "encoding", None) or "utf-8"

    def isatty(self) -> bool:
        return self._stream.isatty()

    def fileno(self) -> int:
        return self._stream.fileno()

    def write(self, text: str) -> int:
        if not self.silent:
            try:
                self._stream.write(text.encode(self.encoding, "replace").decode(self.encoding))
            except OSError:
                self._fall_silent()
        return len(text)

    def flush(self) -> None:
        if not self.silent:
            try:
                self._stream.flush()
            except OSError:
                self._fall_silent()

    def _fall_silent(self) -> None:
        self.silent = True
        # What is left in the stream's buffer would fail again when the interpreter flushes it at exit.
        try:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)
        except OSError:  # the stream has no file of its own
            pass
