"""A bank behind a window gives what a bank gives that stands on the device as a whole."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from sparta_lite.engine.bank import Bank
from sparta_lite.engine.base import Base, load_base
from sparta_lite.engine.chat import ScoreTokens
from sparta_lite.engine.decode import Prompt, generate
from sparta_lite.engine.likelihood import Continuation, log_probabilities
from sparta_lite.engine.peft_io import load_bank, read_adapter, write_adapter
from sparta_lite.engine.score import expected_scores
from sparta_lite.errors import SpartaError
from sparta_lite.kernels.sampling import Sampling
from sparta_lite.training.dpo import train
from sparta_lite.training.packing import TokenizedPair
from sparta_lite.training.phase import DpoSettings, DpoState, read_state

NAMES = ("ada", "ben", "cyd", "dot", "eli")
SAMPLING = Sampling(temperature=1.0, top_k=0, top_p=1.0)
TOKENS = ScoreTokens(prefix=(91, 5, 32), digits=(17, 18, 19, 20, 21, 22, 23, 24, 25), ten=(17, 16))

Load = Callable[[int | None], Bank]


def prompts(count: int) -> list[Prompt]:
    rng = random.Random(2)
    return [
        Prompt(
            rng.choice([*NAMES, None]),
            tuple(rng.randrange(256) for _ in range(rng.randrange(1, 20))),
            key=index,
        )
        for index in range(count)
    ]


def pairs(count: int) -> list[TokenizedPair]:
    rng = random.Random(3)
    return [
        TokenizedPair(*(tuple(rng.randrange(256) for _ in range(rng.randrange(2, 8))) for _ in range(3)))
        for _ in range(count)
    ]


@pytest.fixture(scope="module")
def load(base: Base, adapter_paths: dict[str, Path]) -> Load:
    """A tribe of five, its fourth and fifth made from the first two."""
    files = [read_adapter(name, path) for name, path in adapter_paths.items()]
    sources = [*adapter_paths.values()]
    files += [read_adapter(name, sources[index]) for index, name in enumerate(NAMES[3:])]

    def load(resident: int | None) -> Bank:
        bank = load_bank(base.decoder, files, resident=resident)
        for slot in (3, 4):
            for _, a, b in bank.modules(slot):
                a.mul_(-1.5)
                b.mul_(0.5 + slot)
        return bank

    return load


@pytest.fixture(scope="module")
def whole(load: Load) -> Bank:
    return load(None)


def same(one: Bank, other: Bank) -> bool:
    pairs = zip(one.tensors(), other.tensors(), strict=True)
    return all(name == again and torch.equal(a, b) for (name, a), (again, b) in pairs)


def test_a_bank_that_fits_has_no_window(load: Load) -> None:
    assert (load(None).window, load(5).window, load(7).window) == (None, None, None)
    assert (load(None).limit, load(4).limit, load(1).limit) == (5, 4, 1)


@pytest.mark.parametrize("resident", [1, 2, 4])
@pytest.mark.parametrize("places", [1, 3, 16])
def test_generation_is_the_same(base: Base, load: Load, whole: Bank, resident: int, places: int) -> None:
    stopping = replace(base, stops=frozenset(range(0, 320, 9)))
    asked = prompts(30)
    expected = generate(stopping, whole, asked, SAMPLING, 12, 16)
    assert generate(stopping, load(resident), asked, SAMPLING, 12, places) == expected


def test_places_stay_filled_as_far_as_the_limit_allows(
    base: Base, load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Six prompts each, all of ten tokens, in four places: one adapter after another fills them all."""
    bank, endless = load(1), replace(base, stops=frozenset())
    asked = [Prompt(name, (1, 2, each), key=each) for each in range(6) for name in NAMES]
    lora, batches = Bank.lora, []

    def watched(self: Bank, names: list[str], *rest: Any, **more: Any) -> Any:
        batches.append(list(names))
        return lora(self, names, *rest, **more)

    monkeypatch.setattr(Bank, "lora", watched)
    generate(endless, bank, asked, Sampling(temperature=0), 10, 4)
    assert all(len(set(batch)) == 1 for batch in batches)
    for name in NAMES:
        # Prefill and step of four rows; prefill and step of the two that were left.
        assert [len(batch) for batch in batches if batch[0] == name] == [4, 4, 2, 2]


def test_two_adapters_share_a_batch_and_a_third_enters_when_one_has_left(
    base: Base, load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    bank = load(2)
    hidden, seen = Bank.lora, []

    def watched(self: Bank, names: list[str], *rest: Any, **more: Any) -> Any:
        seen.append(set(names))
        return hidden(self, names, *rest, **more)

    monkeypatch.setattr(Bank, "lora", watched)
    asked = [Prompt(name, (1, 2, each), key=each) for each in range(3) for name in (*NAMES, None)]
    generate(base, bank, asked, Sampling(temperature=0), 4, 8)
    assert max(len(batch - {None}) for batch in seen) == 2
    assert set.union(*seen) == {*NAMES, None}


@pytest.mark.parametrize("resident", [1, 2])
def test_scores_are_the_same_to_the_bit(base: Base, load: Load, whole: Bank, resident: int) -> None:
    asked, bank = prompts(30), load(resident)
    rows = [Continuation(each.adapter, each.ids, (3, 1, 4)) for each in asked]
    assert expected_scores(base, bank, asked, TOKENS, 0, 100) == expected_scores(
        base, whole, asked, TOKENS, 0, 100
    )
    for one, other in zip(
        log_probabilities(base, bank, rows, 100), log_probabilities(base, whole, rows, 100), strict=True
    ):
        assert torch.equal(one, other)


@pytest.mark.parametrize(("resident", "at_once"), [(1, None), (2, None), (2, 1), (4, 2)])
def test_training_is_the_same_to_the_bit_also_when_resumed(
    base: Base, load: Load, resident: int, at_once: int | None
) -> None:
    def learn(bank: Bank, at_once: int | None, **more: Any) -> tuple[dict[str, float], list[Any]]:
        states: list[Any] = []

        def save(state: DpoState) -> None:
            states.append({name: tensor.clone() for name, tensor in state.tensors().items()})

        chosen = DpoSettings(learning_rate=1e-3, batch=4, micro_batch=2, adapters_at_once=at_once)
        result = train(
            base.decoder,
            bank,
            pairs(9),
            chosen,
            seed=1,
            iteration=0,
            pad=0,
            on_step=lambda step: None,
            save=save,
            save_every=2,
            **more,
        )
        return result.moved, states

    bank, reference = load(resident), load(None)
    together = min(resident, at_once or resident)
    moved, states = learn(bank, at_once)
    expected, known = learn(reference, together)
    assert moved == expected
    assert same(bank, reference)
    assert len(states) == len(known) > 3
    for state, other in zip(states, known, strict=True):
        assert state.keys() == other.keys()
        assert all(torch.equal(tensor, other[name]) for name, tensor in state.items())
    again = load(resident)
    learn(again, at_once, resume=read_state(states[3]))
    assert same(again, reference)


def test_a_failed_update_leaves_the_last_complete_one_in_the_master(base: Base, load: Load) -> None:
    bank, seen = load(2), []

    def stop(step: object) -> None:
        seen.append(step)
        if len(seen) == 4:
            raise KeyboardInterrupt

    chosen = DpoSettings(learning_rate=1e-3, batch=4, micro_batch=2, warmup=0)
    with pytest.raises(KeyboardInterrupt):
        train(base.decoder, bank, pairs(8), chosen, seed=1, iteration=0, pad=0, on_step=stop)
    start = load(None)
    changed = [
        any(
            not torch.equal(mine[slot], before[slot])
            for (_, mine), (_, before) in zip(bank.tensors(), start.tensors(), strict=True)
        )
        for slot in range(5)
    ]
    assert changed == [True, True, False, False, False]


def test_a_part_is_a_copy_that_can_be_taken_back(load: Load, whole: Bank) -> None:
    bank = load(2)
    part = bank.part(1, 4)
    assert part.window is None
    assert [adapter.name for adapter in part.adapters] == ["ben", "cyd", "dot"]
    for _, tensor in part.tensors():
        tensor.add_(1)
    assert same(bank, whole)
    bank.take_back(1, part)
    for (_, mine), (_, before), (_, taken) in zip(
        bank.tensors(), whole.tensors(), part.tensors(), strict=True
    ):
        assert torch.equal(mine[1:4], taken)
        assert torch.equal(mine[[0, 4]], before[[0, 4]])


def test_taking_back_what_shares_memory_changes_nothing(load: Load, whole: Bank) -> None:
    bank = load(None)
    bank.take_back(1, bank.part(1, 3))
    assert same(bank, whole)


def test_an_adapter_is_written_from_the_master(load: Load, whole: Bank, tmp_path: Path) -> None:
    bank = load(1)
    bank.lora(["cyd"])
    for number, each in enumerate((bank, whole)):
        write_adapter(tmp_path / str(number), each, "ben", {"r": 4})
    written = [(tmp_path / number / "adapter_model.safetensors").read_bytes() for number in "01"]
    assert written[0] == written[1]


def _restore(bank: Bank) -> None:
    bank.restore({name: tensor * 2 for name, tensor in bank.tensors()})


def _take_back(bank: Bank) -> None:
    part = bank.part(0, 2)
    for _, tensor in part.tensors():
        tensor.mul_(2)
    bank.take_back(0, part)


def _modules(bank: Bank) -> None:
    for slot in (0, 1):
        for _, a, b in bank.modules(slot):
            a.mul_(2)
            b.copy_(b * 2)


@pytest.mark.parametrize("write", [_restore, _take_back, _modules])
@pytest.mark.parametrize("resident", [1, 2, 4])
def test_nothing_stale_is_used(base: Base, load: Load, write: Callable[[Bank], None], resident: int) -> None:
    """Both adapters stand in the window, one of them only prefetched, when the master changes."""
    rows = [Continuation(name, (1, 2, 3), (4, 5)) for name in ("ada", "ben", "eli")]
    bank, reference = load(resident), load(None)
    before = log_probabilities(base, bank, rows, 100)
    bank.lora(["ada"])
    bank.prefetch(["ben"])
    write(bank)
    bank.prefetch(["ben"])
    for name, tensor in reference.tensors():
        if write is _restore:
            tensor.mul_(2)
        else:
            tensor[:2].mul_(2)
        assert torch.equal(tensor, dict(bank.tensors())[name])
    after = log_probabilities(base, bank, rows, 100)
    for one, other in zip(after, log_probabilities(base, reference, rows, 100), strict=True):
        assert torch.equal(one, other)
    assert not torch.equal(after[0], before[0])


def test_too_many_adapters_in_one_batch_are_refused(load: Load) -> None:
    bank = load(2)
    assert bank.lora(["ada", "ben", None, "ada"]) is not None
    with pytest.raises(SpartaError, match=r"3 adapters in one batch; tribe\.resident lets 2"):
        bank.lora(["ada", "ben", "cyd"])
    with pytest.raises(SpartaError, match="3 adapters in one batch"):
        bank.lora(["ada"], beside=["ben", "cyd"])


def test_rows_of_the_bare_base_alone_bring_nothing_in(base: Base, load: Load, whole: Bank) -> None:
    bank = load(1)
    assert bank.lora([None, None]) is None
    rows = [Continuation(None, (1, 2, 3), (4, 5))]
    assert torch.equal(log_probabilities(base, bank, rows, 9)[0], log_probabilities(base, whole, rows, 9)[0])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device; torch sees none")
@pytest.mark.parametrize("resident", [1, 2])
def test_on_a_card_results_are_those_of_the_whole_bank(
    base_path: Path, adapter_paths: dict[str, Path], resident: int
) -> None:
    base = load_base(base_path, torch.device("cuda"))
    files = [read_adapter(name, path) for name, path in adapter_paths.items()]
    bank, whole = (load_bank(base.decoder, files, resident=each) for each in (resident, None))
    assert all(tensor.is_pinned() for _, tensor in bank.tensors())
    asked = [Prompt(files[each % 3].adapter.name, tuple(range(each, each + 9)), each) for each in range(24)]
    rows = [Continuation(each.adapter, each.ids, (3, 1, 4)) for each in asked]
    assert generate(base, bank, asked, SAMPLING, 12, 5) == generate(base, whole, asked, SAMPLING, 12, 5)
    for one, other in zip(
        log_probabilities(base, bank, rows, 50), log_probabilities(base, whole, rows, 50), strict=True
    ):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
