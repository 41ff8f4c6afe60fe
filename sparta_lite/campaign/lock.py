"""One process works on a run's directory; the system lets go of its lock when the process ends."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from sparta_lite.errors import SpartaError
from sparta_lite.files import clear_errors

_PATIENCE = 1.0  # seconds; whoever looks whether a run is held keeps its lock for an instant


@contextlib.contextmanager
def hold(root: Path) -> Iterator[None]:
    """Hold a directory for this process. Where nothing comes of it, everything is as it was before.

    Raises:
        SpartaError: another process holds it, or it cannot be written.
    """
    lock = root / "lock"
    with clear_errors(root):
        missing = [place for place in (root, *root.parents) if not place.exists()]
        before = None if lock.exists() else {lock.name, *(() if missing else os.listdir(root))}
        handle = _taken(lock)
    if handle is None:
        raise SpartaError(f"{root}: another process works on this run; wait for it or choose another --out")
    with handle:
        try:
            yield
        finally:
            with contextlib.suppress(OSError):  # a directory that is not empty is not removed
                if before == set(os.listdir(root)):
                    lock.unlink()
                    for place in missing:
                        place.rmdir()


def _taken(lock: Path) -> IO[str] | None:
    """The lock, at once or after those who only tried it have let go of it; None: someone keeps it."""
    end = time.monotonic() + _PATIENCE
    while True:
        lock.parent.mkdir(parents=True, exist_ok=True)
        handle = lock.open("w")
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _stands(lock, handle):
                return handle
        except BlockingIOError:
            if time.monotonic() > end:
                handle.close()
                return None
            time.sleep(0.01)
        handle.close()


def _stands(lock: Path, handle: IO[str]) -> bool:
    """Whether the locked file is the one that others find: a run that is refused removes its own."""
    try:
        return os.path.samestat(lock.stat(), os.fstat(handle.fileno()))
    except FileNotFoundError:
        return False
