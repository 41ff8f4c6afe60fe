"""How far a run's files count, what is noticed of changes, and what a kill between two writes leaves."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from sparta_lite.campaign.config import load_config
from sparta_lite.campaign.journals import Log, Records
from sparta_lite.campaign.loop import run
from sparta_lite.campaign.records import JUDGMENTS, Judgment
from sparta_lite.campaign.store import Store
from sparta_lite.campaign.training_state import read_training, write_training
from sparta_lite.errors import SpartaError
from sparta_lite.training.phase import DpoState

from ..run_files import forget_digests, run_record


def vote(duel: int, score: float = 5.0) -> Judgment:
    return Judgment(duel, "ada", (score, 2.5), (None, None), (0.75, None), (0, 0), (-1.0, None))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A run that has only begun."""
    store = Store(tmp_path / "run")
    store.root.mkdir()
    store.update_run(**run_record(status="running"))
    return store


def opened(store: Store) -> Records[Judgment]:
    return Records(Store(store.root), store.judgments(0), JUDGMENTS.of, Judgment.to_row)


@pytest.fixture
def states(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Path], list[Path]]]:
    """Copies of a directory as a kill would leave it, one from before every write that is made durable."""
    taken: list[Path] = []
    watched: list[Path] = []

    def taking(call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*arguments: Any) -> Any:
            for place in watched:
                if place.exists():
                    copy = tmp_path / "states" / str(len(taken)) / place.name
                    taken.append(Path(shutil.copytree(place, copy)))
            return call(*arguments)

        return wrapper

    for name in ("fsync", "replace", "rename"):
        monkeypatch.setattr(os, name, taking(getattr(os, name)))

    def watch(place: Path) -> list[Path]:
        watched.append(place)
        return taken

    yield watch
    watched.clear()


def test_rows_that_a_kill_left_uncounted_are_made_again(
    store: Store, states: Callable[[Path], list[Path]]
) -> None:
    """Whatever is cut off, what is read is a beginning of what was written, in whole parts."""
    votes = [vote(number) for number in range(5)]
    taken = states(store.root)
    log = opened(store)
    for start, end in ((0, 2), (2, 3), (3, 5)):
        log.add(votes[start:end])
    whole = store.judgments(0).read_bytes()
    assert len(taken) >= 12
    read = [opened(Store(state)) for state in taken]
    assert {len(each.rows) for each in read} == {0, 2, 3, 5}
    for state, each in zip(list(taken), read, strict=True):
        assert each.rows == votes[: len(each.rows)]
        assert whole.startswith(Store(state).judgments(0).read_bytes())
        each.add(votes[len(each.rows) :])
        assert Store(state).judgments(0).read_bytes() == whole


def test_a_cut_that_was_killed_leaves_a_file_that_counts(
    store: Store, states: Callable[[Path], list[Path]]
) -> None:
    log = opened(store)
    log.add([vote(number) for number in range(5)])
    taken = states(store.root)
    log.cut(2)
    assert [row.duel for row in log.rows] == [0, 1]
    assert {len(opened(Store(state)).rows) for state in [*taken, store.root]} == {5, 2}
    log.add([vote(7)])
    assert [row.duel for row in opened(store).rows] == [0, 1, 7]


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-1],
        lambda data: data[: data.index(b"\n") + 1],
        lambda data: data.replace(b"5.0", b"5.5", 1),
        lambda data: b"",
        lambda data: b"\n".join(reversed(data.split(b"\n"))),
    ],
)
def test_what_counts_must_be_what_was_written(store: Store, damage: Callable[[bytes], bytes]) -> None:
    opened(store).add([vote(0), vote(1, 6.0)])
    path = store.judgments(0)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(SpartaError, match=r"judgments\.jsonl: was changed since it was written"):
        opened(store)
    path.unlink()
    with pytest.raises(SpartaError, match=r"judgments\.jsonl: no such file"):
        opened(store)


def test_a_run_of_an_earlier_version_counts_by_whole_lines(store: Store) -> None:
    opened(store).add([vote(0), vote(1)])
    forget_digests(store.root)
    path = store.judgments(0)
    path.write_bytes(path.read_bytes().replace(b"5.0", b"6.0") + b'{"duel": 2')
    log = opened(store)
    assert [row.scores[0] for row in log.rows] == [6.0, 6.0]
    log.add([vote(2)])
    assert len(path.read_bytes().splitlines()) == 3
    assert "files" not in json.loads(store.run.read_text())


def test_a_log_may_be_longer_than_what_is_told_of_it(store: Store) -> None:
    """Of a run that goes on: who looks at it sees all whole lines."""
    log = Log(store, store.events)
    log.append([{"a": 1}])
    log.append([{"b": 2}], durable=False)
    assert Store(store.root).content(store.events) == b'{"a": 1}\n{"b": 2}\n'
    store.update_run(status="finished")
    with pytest.raises(SpartaError, match="was changed since it was written"):
        Store(store.root).content(store.events)
    log.sync()
    assert len(Store(store.root).content(store.events)) == 18


def test_a_record_that_was_edited_is_refused(store: Store) -> None:
    assert store.read_run().sha256 is not None
    text = store.run.read_text()
    store.run.write_text(text.replace('"cpu"', '"cuda"'))
    again = Store(store.root)
    for look in (again.read_run, again.digests, lambda: again.update_run(status="failed")):
        with pytest.raises(SpartaError, match=r"run\.json: was changed since it was written"):
            look()
    store.run.write_text(text)
    store.update_run(further={"kept": [1, 2.5, None]})
    assert json.loads(store.run.read_text())["further"] == {"kept": [1, 2.5, None]}
    assert store.read_run().status == "running"


def state(done: int) -> DpoState:
    numbers = torch.arange(24.0)
    return DpoState(
        done,
        numbers.view(3, 4, 2) / 7,
        {"0.q.a": numbers.view(3, 2, 4).to(torch.bfloat16)},
        {"0.q.a.exp_avg": -numbers, "0.q.a.state1": torch.arange(7, dtype=torch.uint8)},
    )


def test_a_training_state_comes_back_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "training.safetensors"
    for done in (0, 41):
        write_training(path, state(done))
        read = read_training(path)
        assert read is not None
        assert read.done == done
        for name, tensor in state(done).tensors().items():
            assert torch.equal(read.tensors()[name], tensor)
            assert read.tensors()[name].dtype == tensor.dtype


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[:7],
        lambda data: data[:-3],
        lambda data: b"\xff" * 8 + data[8:],
        lambda data: data[:8] + b"[" * 60 + data[68:],
        lambda data: data[:-1] + bytes([data[-1] ^ 1]),
        lambda data: data.replace(b"exp_avg", b"exp_bvg"),
    ],
)
def test_a_damaged_training_state_is_named(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "training.safetensors"
    write_training(path, state(3))
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(SpartaError, match=r"training\.safetensors: .*; restore it from a copy, or delete it"):
        read_training(path)


def test_a_training_state_of_an_earlier_version_is_left(tmp_path: Path) -> None:
    path = tmp_path / "training.safetensors"
    write_training(path, state(3))
    save_file(load_file(path), path)
    assert read_training(path) is None


def test_a_run_killed_while_it_loads_is_begun_by_its_settings(
    tiny_config: Path, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, killed = tmp_path / "run", tmp_path / "killed"

    def kill(*_: object) -> None:
        shutil.copytree(out, killed)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("sparta_lite.campaign.loop.load_inputs", kill)
        with pytest.raises(KeyboardInterrupt):
            run(load_config(tiny_config), out, False, lambda event: None)
    assert not out.exists()  # interrupted, it is as if it had never been
    assert {path.name for path in killed.iterdir()} == {"lock", "config.yaml"}
    again = load_config(killed / "config.yaml")
    with pytest.raises(SpartaError, match="was started with other settings"):
        run(load_config(tiny_config, ["duels=11"]), killed, True, lambda event: None)
    run(again, killed, True, lambda event: None)
    for name in ("metrics.jsonl", "iteration-01/reputation.json", "config.yaml"):
        assert (killed / name).read_bytes() == (finished / name).read_bytes()


def test_a_refused_run_gives_back_what_a_killed_one_has_left(tiny_config: Path, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("seed: 3\n")
    with pytest.raises(SpartaError, match="too few held-out questions"):
        run(load_config(tiny_config, ["evaluation.items=100000"]), tmp_path, False, lambda event: None)
    assert (tmp_path / "config.yaml").read_text() == "seed: 3\n"
    assert not (tmp_path / "run.json").exists()
