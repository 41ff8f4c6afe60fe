"""One process works on a run; those who only look do not keep it from beginning."""

from __future__ import annotations

import fcntl
import threading
from pathlib import Path

import pytest

from sparta_lite.campaign import lock
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


def refuse(root: Path, *written: Path) -> None:
    """A run that ends before it has begun, or after it has ``written`` something."""
    try:
        with Store(root).locked():
            assert is_held(root)
            for path in written:
                path.touch()
            raise SpartaError("refused")
    except SpartaError:
        assert not is_held(root)


@pytest.mark.parametrize("before", [None, [], ["config.yaml"], [".run.json.partial", "config.yaml"]])
def test_a_run_that_is_refused_leaves_everything_as_it_was(tmp_path: Path, before: list[str] | None) -> None:
    root = tmp_path / "some" / "where" / "run"
    if before is not None:
        root.mkdir(parents=True)
        for name in before:
            (root / name).touch()
    paths = sorted(tmp_path.rglob("*"))
    refuse(root)
    assert sorted(tmp_path.rglob("*")) == paths


def test_a_run_that_began_keeps_its_lock_and_one_that_stood_there_stays(tmp_path: Path) -> None:
    refuse(tmp_path / "run", tmp_path / "run" / "run.json")
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["lock", "run.json"]
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "lock").touch()
    refuse(tmp_path / "old")
    assert (tmp_path / "old" / "lock").exists()


def test_what_others_put_beside_it_in_the_meantime_stays(tmp_path: Path) -> None:
    refuse(tmp_path / "new" / "run", tmp_path / "new" / "notes.txt")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["notes.txt"]


def test_a_lock_that_was_removed_while_one_waited_for_it_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run that was refused removes its file; who had it open must take the one that stands there now."""
    honest = fcntl.flock
    removed: list[int] = []

    def flock(handle: int, operation: int) -> None:
        if not removed:
            removed.append(1)
            (tmp_path / "lock").unlink()
        honest(handle, operation)

    monkeypatch.setattr(lock.fcntl, "flock", flock)
    with Store(tmp_path).locked():
        assert is_held(tmp_path)
