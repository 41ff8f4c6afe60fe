"""The events of a run that another process makes: what stands in its file, then what is added to it."""

from __future__ import annotations

from pathlib import Path

from sparta_lite.campaign.events import Event, EventReader, RunStarted
from sparta_lite.campaign.store import Store, no_run
from sparta_lite.files import clear_errors
from sparta_lite.show.runs import EVENTS, RECORD, is_held, state_of


class Tail:
    """Reads a run's events as they are written. A line counts once it is whole.

    Args:
        run: the run's directory; nothing need stand there yet.
    """

    def __init__(self, run: Path) -> None:
        self._path = run / EVENTS
        self._offset = 0
        self._reader = EventReader(self._path)
        self.started: float | None = None
        """When the latest process began, in seconds since 1970."""
        self.latest: float | None = None
        """When the last event happened."""

    def read(self) -> list[Event]:
        """The events that have come since the last call.

        Raises:
            SpartaError: a whole line is no event of this version.
        """
        if not self._path.is_file():
            return []
        with clear_errors(self._path), self._path.open("rb") as file:
            file.seek(self._offset)
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole)
        return [self._event(line) for line in whole.split(b"\n")[:-1]]

    def _event(self, line: bytes) -> Event:
        told = self._reader.read(line)
        self.latest = told.time
        if isinstance(told.event, RunStarted):
            self.started = told.time
        return told.event


def condition(run: Path) -> str | None:
    """'running', 'finished', 'failed' or 'stopped'; None where no run has begun yet.

    Raises:
        SpartaError: something else stands there.
    """
    if is_held(run):
        return "running"
    if (run / RECORD).is_file():
        return state_of(run)
    if run.is_file() or Store(run).holds_foreign_files():
        raise no_run(run)
    return None
