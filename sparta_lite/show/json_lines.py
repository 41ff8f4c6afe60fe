"""One event a line, for programs."""

from __future__ import annotations

import json
import time
from types import TracebackType
from typing import TextIO

from sparta_lite.campaign.events import Event, to_row
from sparta_lite.show.outlet import Outlet


class JsonView:
    """Writes every event to ``stream`` as one line of ASCII JSON, at once."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = Outlet(stream)

    def __enter__(self) -> JsonView:
        return self

    def __call__(self, event: Event) -> None:
        self._stream.write(json.dumps(to_row(event, time.time()), allow_nan=False) + "\n")
        self._stream.flush()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        pass
