"""One process works on a run; those who only look do not keep it from beginning."""

from __future__ import annotations

import fcntl
import threading
from pathlib import Path

import pytest

from sparta_lite.campaign.store import Store
from sparta_lite.errors import SpartaError
from sparta_lite.show.runs import is_held


def test_a_run_begins_although_someone_looks_at_its_lock(tmp_path: Path) -> None:
    (tmp_path / "lock").touch()
    looking = (tmp_path / "lock").open("rb")
    fcntl.flock(looking, fcntl.LOCK_SH)  # as `list` and `watch` do, for an instant
    done = threading.Timer(0.2, looking.close)
    done.start()
    with Store(tmp_path).locked():
        assert is_held(tmp_path)
    done.join()
    assert not is_held(tmp_path)


def test_a_run_that_goes_on_is_left_alone(tmp_path: Path) -> None:
    with (
        Store(tmp_path).locked(),
        pytest.raises(SpartaError, match="another process works on this run"),
        Store(tmp_path).locked(),
    ):
        pytest.fail("two hold it")
