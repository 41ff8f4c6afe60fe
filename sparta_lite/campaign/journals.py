"""The files of a run that grow: their rows as objects, and how far they count in the run's record."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Generic, TypeVar

from sparta_lite.campaign.metrics import Metric, read_metric, to_row
from sparta_lite.campaign.run_record import Digest, digest_of
from sparta_lite.campaign.store import Store
from sparta_lite.files import Journal
from sparta_lite.typed import whole_lines

T = TypeVar("T")


class Log:
    """A journal whose digest stands in the run's record."""

    def __init__(self, store: Store, path: Path) -> None:
        self._store = store
        self._journal = Journal(path)

    @property
    def digest(self) -> Digest:
        return Digest(self._journal.size, self._journal.sha256)

    def append(self, rows: Iterable[Any], *, durable: bool = True) -> None:
        """See ``Journal.append``; what is ``durable`` counts from now on."""
        self._journal.append(rows, durable=durable)
        if durable:
            self._count()

    def sync(self) -> None:
        """Wait until every row stands on the disk; then it counts."""
        self._journal.sync()
        self._count()

    def close(self) -> None:
        self._journal.close()

    def _count(self) -> None:
        self._store.record({self._journal.path: self.digest})


def open_metrics(store: Store) -> Records[Metric]:
    """The run's metrics, to be read and added to.

    Raises:
        SpartaError: see ``Records``.
    """
    return Records(store, store.metrics, read_metric, to_row)


def recorded(store: Store, path: Path) -> bytes:
    """What counts of a file that grows: its whole lines, up to where the run's record says that it ends.

    Raises:
        SpartaError: it does not begin with what was written.
    """
    digest = store.digest(path)
    if digest is None and (store.digests() is not None or not path.exists()):
        return b""
    data = store.content(path)
    return data[: digest.bytes if digest is not None else data.rfind(b"\n") + 1]


class Records(Log, Generic[T]):
    """A log that is read again, and goes on where the run's record says that it ends.

    Args:
        store: the run's.
        path: the file; it need not be there.
        read: makes a row of a line and of what to call it.
        to_row: the reverse.

    Raises:
        SpartaError: the file does not begin with what was written, or a row is none.
    """

    def __init__(
        self, store: Store, path: Path, read: Callable[[bytes, str], T], to_row: Callable[[T], Any]
    ) -> None:
        data = recorded(store, path)
        self.rows = [read(text, where) for text, where in whole_lines(data, path)]
        self._to_row = to_row
        super().__init__(store, path)
        if self._journal.size > len(data):
            self._journal.cut(len(data))

    def add(self, rows: Iterable[T], *, durable: bool = True) -> None:
        """``append`` objects."""
        rows = list(rows)
        self.append(map(self._to_row, rows), durable=durable)
        self.rows += rows

    def cut(self, rows: int) -> None:
        """Keep the first so many rows alone."""
        if rows == len(self.rows):
            return
        lines = self._journal.path.read_bytes().split(b"\n")[:rows]
        data = b"".join(text + b"\n" for text in lines)
        self._store.record({self._journal.path: digest_of(data)})
        self._journal.cut(len(data))
        self.rows = self.rows[:rows]
