"""What a call of ``generate`` leaves for the next: each size recorded once in a run, the newest weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sparta_lite.engine.bank import Bank
from sparta_lite.engine.base import Base
from sparta_lite.engine.decode import Prompt, generate
from sparta_lite.engine.peft_io import load_bank, read_adapter
from sparta_lite.engine.response import Response
from sparta_lite.engine.step import Steps
from sparta_lite.engine.warm import Warm
from sparta_lite.kernels.sampling import Sampling
from sparta_lite.training.dpo import DpoSettings, train
from sparta_lite.training.packing import TokenizedPair

from .test_decode_ahead import SAMPLING, STOPS, Recorder, go_ahead, prompts, require_same

GREEDY = Sampling(temperature=0)
PAIRS = [TokenizedPair((1, 2, key), (7, 8, 9, key), (9, 8, 7)) for key in range(6)]


@pytest.fixture
def stopping(base: Base) -> Base:
    return replace(base, stops=STOPS, warm=Warm())


@pytest.fixture
def mine(base: Base, adapter_paths: dict[str, Path]) -> Bank:
    """A bank that a test may train."""
    return load_bank(base.decoder, [read_adapter(name, path) for name, path in adapter_paths.items()])


def learn(base: Base, bank: Bank, seed: int) -> None:
    settings = DpoSettings(learning_rate=1e-2, batch=3, micro_batch=2)
    train(base.decoder, bank, PAIRS, settings, seed=seed, iteration=0, pad=0, on_step=lambda step: None)


def addresses(bank: Bank) -> list[int]:
    return [tensor.data_ptr() for _, tensor in bank.tensors()]


def answers(base: Base, bank: Bank, sampling: Sampling, keep: bool = True) -> list[Response]:
    found = generate(base, bank, prompts(16), sampling, 12, 5)
    if not keep:
        base.warm.release()
    return found


def test_a_run_records_each_size_once(stopping: Base, mine: Bank, monkeypatch: pytest.MonkeyPatch) -> None:
    """Five iterations of two parts of answers and a greedy evaluation, with other weights in each."""
    start = mine.snapshot()

    def run(keep: bool) -> list[list[Response]]:
        mine.restore(start)
        found = []
        for _ in range(5):
            found += [answers(stopping, mine, each, keep) for each in (SAMPLING, SAMPLING, GREEDY)]
            for _, tensor in mine.tensors():
                tensor.mul_(0.7)
        stopping.warm.release()
        return found

    expected = run(keep=False)
    assert len({tuple(row.ids for row in each) for each in expected}) > 8, "the weights change no answer"
    recorder = Recorder(monkeypatch)
    go_ahead(monkeypatch, 1, 1.0)
    counts = {}
    for keep in (False, True):
        recorder.recorded = 0
        assert run(keep) == expected
        counts[keep] = recorder.recorded
    assert counts[True] <= 2 * 6  # of 5, 4, 2 and 1 places, with and without adapters, by two samplings
    assert counts[False] >= 4 * counts[True]


def test_a_recording_computes_with_the_weights_that_stand_in_the_bank_now(
    stopping: Base, mine: Bank, base: Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Training, taking a state back, and the next run's adapters leave every tensor where it was."""
    recorder = Recorder(monkeypatch)
    asked = [Prompt(name, (1, 2, 3, key), key) for key in range(2) for name in ("ada", "ben")]

    def ask(base: Base, bank: Bank) -> list[Response]:
        return generate(base, bank, asked, GREEDY, 8, 4)

    where, start = addresses(mine), mine.snapshot()
    first = ask(stopping, mine)
    recorded = recorder.recorded
    assert recorded
    learn(base, mine, 1)
    assert addresses(mine) == where
    learned = ask(stopping, mine)
    assert [each.logprob for each in learned] != [each.logprob for each in first]
    require_same(learned, ask(replace(stopping, warm=Warm()), mine))
    recorder.recorded = recorded
    mine.restore(start)
    require_same(ask(stopping, mine), first)
    assert (addresses(mine), recorder.recorded) == (where, recorded)


def test_the_next_run_takes_the_memory_of_the_last(
    stopping: Base, mine: Bank, base: Base, adapter_paths: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = Recorder(monkeypatch)
    first = answers(stopping, mine, SAMPLING)
    recorded, where = recorder.recorded, addresses(mine)
    learn(base, mine, 1)
    files = [read_adapter(name, path) for name, path in adapter_paths.items()]
    bank = load_bank(base.decoder, files, into=stopping.warm.bank)
    assert addresses(bank) == where
    for (_, one), (_, other) in zip(bank.tensors(), load_bank(base.decoder, files).tensors(), strict=True):
        assert torch.equal(one, other)
    require_same(answers(stopping, bank, SAMPLING), first)
    assert recorder.recorded == recorded
    fewer = load_bank(base.decoder, files[:2], into=stopping.warm.bank)
    assert not set(addresses(fewer)) & set(where)
    windowed = load_bank(base.decoder, files, resident=2, into=stopping.warm.bank)
    assert windowed.limit == 2
    assert not set(addresses(windowed)) & set(where)
    assert addresses(load_bank(base.decoder, files, resident=3, into=stopping.warm.bank)) == where


@pytest.mark.parametrize("change", ["places", "length", "bank"])
def test_what_does_not_serve_makes_room(
    stopping: Base, mine: Bank, bank: Bank, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    Recorder(monkeypatch)
    asked = prompts(16)
    generate(stopping, mine, asked, SAMPLING, 12, 5)
    kept = stopping.warm._kept
    assert kept is not None
    places, length = 6 if change == "places" else 5, 120 if change == "length" else 12
    other = bank if change == "bank" else mine
    found = generate(stopping, other, asked, SAMPLING, length, places)
    assert stopping.warm._kept is not kept
    stopping.warm.release()
    require_same(found, generate(stopping, other, asked, SAMPLING, length, 16))


def test_smaller_work_is_served(stopping: Base, mine: Bank, monkeypatch: pytest.MonkeyPatch) -> None:
    Recorder(monkeypatch)
    generate(stopping, mine, prompts(16), SAMPLING, 30, 8)
    kept, few = stopping.warm._kept, prompts(3)
    found = generate(stopping, mine, few, GREEDY, 5, 8)
    assert stopping.warm._kept is kept is not None
    stopping.warm.release()
    require_same(found, generate(stopping, mine, few, GREEDY, 5, 8))


def test_steps_have_as_many_rows_whatever_is_kept(
    base: Base, mine: Bank, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kernels may round by the size: a run that was killed and goes on has nothing kept."""
    Recorder(monkeypatch)
    endless, step, sizes = replace(base, stops=frozenset(), warm=Warm()), Steps._step, list[int]()

    def counted(self: Steps, rows: int, *given: Any) -> Tensor:
        sizes.append(rows)
        return step(self, rows, *given)

    monkeypatch.setattr(Steps, "_step", counted)

    def ask() -> list[int]:
        """The last part of an iteration has fewer prompts than places."""
        sizes.clear()
        generate(endless, mine, prompts(5), SAMPLING, 12, 8)
        return list(sizes)

    assert ask() == [5] * 11
    endless.warm.release()
    generate(endless, mine, prompts(16), SAMPLING, 12, 8)
    kept = endless.warm._kept
    assert ask() == [5] * 11
    assert endless.warm._kept is kept is not None


def test_a_failure_leaves_nothing(stopping: Base, mine: Bank, monkeypatch: pytest.MonkeyPatch) -> None:
    """What stands in the cache is not to be trusted, and may be what the memory ran out for."""
    recorder = Recorder(monkeypatch)
    generate(stopping, mine, prompts(16), SAMPLING, 12, 5)
    before = recorder.recorded

    def fail(*_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generate(stopping, mine, prompts(16), SAMPLING, 12, 5, fail)
    assert stopping.warm.bank is None
    generate(stopping, mine, prompts(16), SAMPLING, 12, 5)
    assert recorder.recorded == 2 * before


def test_a_cpu_keeps_nothing(stopping: Base, mine: Bank) -> None:
    generate(stopping, mine, prompts(4), SAMPLING, 4, 2)
    assert stopping.warm.bank is None
