"""A device that is ahead of the host, and recorded steps: the same responses, whatever the schedule."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from sparta_lite.engine import decode, graphs, step, warm
from sparta_lite.engine.bank import Bank
from sparta_lite.engine.base import Base
from sparta_lite.engine.cache import Cache
from sparta_lite.engine.decode import Prompt, generate
from sparta_lite.engine.model import FusedDecoder
from sparta_lite.engine.peft_io import load_bank, read_adapter
from sparta_lite.engine.response import Response
from sparta_lite.engine.step import Steps
from sparta_lite.engine.warm import Warm
from sparta_lite.errors import SpartaError
from sparta_lite.kernels import choice, lora, reference
from sparta_lite.kernels.sampling import Sampling

from .kin import Kins

LENGTHS = [(1, "four"), (4, None), (9, "eight"), (30, "four"), (21, "eight"), (66, None), (3, "eight")]
NAMES = ["ada", "ben", "cyd", None]
SAMPLING = Sampling(temperature=1.5, top_k=0, top_p=1.0)
STOPS = frozenset(range(0, 320, 7))


def prompts(count: int) -> list[Prompt]:
    rng = random.Random(11)
    return [
        Prompt(rng.choice(NAMES), tuple(rng.randrange(256) for _ in range(rng.randrange(1, 24))), key=index)
        for index in range(count)
    ]


def go_ahead(monkeypatch: pytest.MonkeyPatch, lag: int, patience: float) -> None:
    monkeypatch.setattr(decode, "_pace", lambda device: decode._Pace(lag, patience, 100))


def require_same(found: list[Response], expected: list[Response]) -> None:
    assert found == expected
    for one, other in zip(found, expected, strict=True):
        assert one.logprob == pytest.approx(other.logprob, abs=1e-5)


def test_a_cpu_is_never_ahead_and_a_gpu_always() -> None:
    assert [decode._pace(torch.device(each)).lag for each in ("cpu", "cuda")] == [0, 1]


@pytest.mark.parametrize("lag", [0, 1, 2])
@pytest.mark.parametrize("patience", [0.0, 1.0, 50.0])
@pytest.mark.parametrize("places", [1, 3, 8])
def test_responses_are_the_same(
    base: Base, bank: Bank, monkeypatch: pytest.MonkeyPatch, lag: int, patience: float, places: int
) -> None:
    asked, stopping = prompts(16), replace(base, stops=STOPS)
    expected = generate(stopping, bank, asked, SAMPLING, 12, 16)
    assert len({len(response.ids) for response in expected}) > 5
    go_ahead(monkeypatch, lag, patience)
    told: list[tuple[int, int]] = []
    found = generate(stopping, bank, asked, SAMPLING, 12, places, lambda *each: told.append(each))
    require_same(found, expected)
    assert sum(items for items, _ in told) == len(asked)
    assert sum(tokens for _, tokens in told) == sum(
        len(prompt.ids) + len(response.ids) - 1 for prompt, response in zip(asked, found, strict=True)
    )


@pytest.mark.parametrize("resident", [1, 2])
def test_behind_a_window(
    base: Base, bank: Bank, adapter_paths: dict[str, Path], monkeypatch: pytest.MonkeyPatch, resident: int
) -> None:
    files = [read_adapter(name, path) for name, path in adapter_paths.items()]
    windowed = load_bank(base.decoder, files, resident=resident)
    asked, stopping = prompts(20), replace(base, stops=STOPS)
    expected = generate(stopping, bank, asked, SAMPLING, 12, 8)
    go_ahead(monkeypatch, 1, 1.0)
    require_same(generate(stopping, windowed, asked, SAMPLING, 12, 4), expected)


def test_until_sees_every_token_once_and_none_behind_the_end(
    base: Base, bank: Bank, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = prompts(7)
    seen: list[tuple[int, ...]] = []

    def until(ids: Any) -> bool:
        seen.append(tuple(ids))
        return len(ids) >= 3 and ids[-1] % 2 == 0

    expected = generate(base, bank, asked, SAMPLING, 12, 3, until=until)
    assert "text" in {response.stop for response in expected}
    for response in expected:
        if response.stop == "text":
            assert response.ids[-1] % 2 == 0
            assert all(token % 2 for token in response.ids[2:-1])
    first, seen = sorted(seen), []
    go_ahead(monkeypatch, 1, 1.0)
    require_same(generate(base, bank, asked, SAMPLING, 12, 3, until=until), expected)
    assert sorted(seen) == first


def test_an_unsound_adapter_is_named(base: Base, bank: Bank, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its rows draw a token or two more before anybody looks."""
    go_ahead(monkeypatch, 2, 1.0)
    state = bank.snapshot()
    try:
        next(bank.modules(bank.slot("ben")))[2].fill_(float("nan"))
        with pytest.raises(SpartaError, match="adapter 'ben' gives NaN or infinite logits on prompt 1"):
            generate(base, bank, [Prompt("ada", (1, 2)), Prompt("ben", (1, 2))], SAMPLING, 6, 4)
    finally:
        bank.restore(state)


def test_patience_spares_passes_over_fresh_prompts(
    base: Base, bank: Bank, monkeypatch: pytest.MonkeyPatch
) -> None:
    hidden, passes = FusedDecoder.hidden, 0

    def counted(self: FusedDecoder, *given: Any, **more: Any) -> Tensor:
        nonlocal passes
        passes += len(given) > 4  # a pass over prompts says which states it keeps
        return hidden(self, *given, **more)

    monkeypatch.setattr(FusedDecoder, "hidden", counted)
    asked = [Prompt("ada", (1, 2, key), key) for key in range(40)]
    stopping, counts = replace(base, stops=STOPS), []
    for patience in (0.0, 1.0):
        passes = 0
        go_ahead(monkeypatch, 1, patience)
        generate(stopping, bank, asked, SAMPLING, 30, 8)
        counts.append(passes)
    assert counts[1] <= counts[0] / 2


@torch.no_grad()
def test_rows_that_are_over_disturb_nothing(base: Base, bank: Bank) -> None:
    """One row goes on far behind the end of its place; then a fresh one takes it."""
    names, keys = ["ada", "ben"], [5, 6]
    ids = [(1, 2, 3), tuple(range(9))]

    def begin(steps: Steps, chosen: list[int], places: list[int]) -> Tensor:
        adapters = bank.lora([names[each] for each in chosen])
        return steps.begin(places, [ids[each] for each in chosen], [keys[each] for each in chosen], adapters)

    cache = Cache(base.decoder, 3, 20)
    steps = Steps(base.decoder, bank, cache, SAMPLING)
    begin(steps, [0, 1], [0, 1])
    for done in range(40):
        steps.advance(names, min(10 + done, 20))
    layers = map(cache.keys_values, range(len(cache.layers)))
    assert not any(tensor[2].any() for layer in layers for tensor in (layer.keys, layer.values))
    again = [begin(steps, [0], [0])]
    again += [steps.advance(names, 20)[:, :1] for _ in range(8)]

    alone = Steps(base.decoder, bank, Cache(base.decoder, 1, 20), SAMPLING)
    expected = [begin(alone, [0], [0])]
    expected += [alone.advance(["ada"], 4 + done) for done in range(8)]
    torch.testing.assert_close(torch.cat(again, 1), torch.cat(expected, 1), rtol=0, atol=1e-5)


def from_tables(
    outputs: Sequence[Tensor],
    x: Tensor,
    a: Tensor,
    b: Sequence[Tensor],
    routing: lora.Routing,
    gain: Tensor | None,
) -> list[Tensor]:
    tables, (rows, length, _) = routing.segments(x.shape[1]), x.shape
    order, back = tables.order.long(), tables.order.argsort()
    flat = [output.flatten(0, 1)[order] for output in outputs]
    scales, bounds = tables.scales.tolist()[:-1], tables.bounds.tolist()[:-1]
    results = reference.grouped_lora(flat, x.flatten(0, 1)[order], a, b, scales, bounds, gain)
    return [result[back].view(rows, length, -1) for result in results]


def from_counts(q: Tensor, keys: Tensor, values: Tensor, counts: Tensor, *more: Any) -> Tensor:
    return reference.newest_attention(q, keys[: len(q)], values[: len(q)], counts.tolist(), *more)


def kept(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cos: Tensor,
    sin: Tensor,
    keys: Tensor,
    values: Tensor,
    lengths: Tensor,
) -> Tensor:
    turned, *caches = reference.rotate_and_keep(q, k, v, cos, sin, keys, values, lengths.tolist())
    keys.copy_(caches[0])
    values.copy_(caches[1])
    return turned


def both(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    return reference.rotate(q, cos, sin), reference.rotate(k, cos, sin)


class Recorder:
    """Stands in for CUDA's graphs: work is called again with what it held when it was recorded, as long as
    its tensors stand where they stood.

    For Triton's kernels their definitions stand in, which read the same tables.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.recorded = self.replayed = 0
        monkeypatch.setattr(choice, "choose_kernels", lambda device, dtype: ("triton", "for this test"))
        monkeypatch.setattr(lora, "by_triton", from_tables)
        monkeypatch.setattr("sparta_lite.kernels.triton_attention.newest_attention", from_counts)
        monkeypatch.setattr("sparta_lite.kernels.triton_elementwise.add_norm", reference.add_norm)
        monkeypatch.setattr("sparta_lite.kernels.triton_elementwise.swiglu", reference.swiglu)
        monkeypatch.setattr("sparta_lite.kernels.triton_rotary.rotate_both", both)
        monkeypatch.setattr("sparta_lite.kernels.triton_rotary.rotate_and_keep", kept)
        for module in (step, warm):
            monkeypatch.setattr(module, "recordable", lambda decoder, bank: True)
        monkeypatch.setattr(graphs, "_record", self.record)

    def record(self, work: graphs.Work, pool: object) -> tuple[Callable[[], None], Tensor]:
        self.recorded += 1
        result = torch.full((2, 16), torch.nan, dtype=torch.float64)

        def replay() -> None:
            self.replayed += 1
            drawn = work()
            result[:, : drawn.shape[1]] = drawn

        return replay, result


def cold(base: Base) -> Base:
    """Nothing is left from another test, nor for one."""
    return replace(base, warm=Warm())


@pytest.fixture(scope="module")
def answered(base: Base, bank: Bank) -> tuple[Base, list[Prompt], list[Response]]:
    """Five places of changing adapters, drained in the end, once with no adapter at all."""
    asked = [*prompts(14), *(Prompt(None, (9, each), 77 + each) for each in range(3))]
    stopping = replace(base, stops=STOPS)
    return stopping, asked, generate(stopping, bank, asked, SAMPLING, 12, 16)


@pytest.fixture
def few(answered: tuple[Base, list[Prompt], list[Response]]) -> tuple[Base, list[Prompt], list[Response]]:
    return cold(answered[0]), *answered[1:]


@pytest.mark.parametrize("lag", [0, 1])
def test_recorded_steps_draw_the_same(
    few: tuple[Base, list[Prompt], list[Response]], bank: Bank, monkeypatch: pytest.MonkeyPatch, lag: int
) -> None:
    base, asked, expected = few
    recorder = Recorder(monkeypatch)
    go_ahead(monkeypatch, lag, 0.0)
    require_same(generate(base, bank, asked, SAMPLING, 12, 5), expected)
    assert 2 <= recorder.recorded <= 6  # of 5, 4, 2 and 1 places, with adapters and without
    assert recorder.replayed > 2 * recorder.recorded


@pytest.mark.parametrize("name", ["mistral", "qwen2, windows"])
def test_recorded_steps_know_windows(kins: Kins, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """A ring's entries, and how many of them count, come from the lengths on the device."""
    kin = kins(name)
    asked = [Prompt(adapter, tuple(range(9, 9 + length)), length) for length, adapter in LENGTHS]
    expected = generate(kin.base, kin.bank, asked, SAMPLING, 12, 16)
    recorder = Recorder(monkeypatch)
    require_same(generate(cold(kin.base), kin.bank, asked, SAMPLING, 12, 4), expected)
    assert recorder.replayed > 2 * recorder.recorded


@pytest.mark.parametrize("name", ["mistral", "gemma2", "gpt_oss"])
def test_a_step_of_windows_caps_and_sinks_in_tritons_kernels(
    kins: Kins, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    pytest.importorskip("triton")
    kin = kins(name)
    asked = [Prompt("four", (1, 2, 3), 5), Prompt("eight", tuple(range(4, 13)), 6)]
    expected = generate(kin.base, kin.bank, asked, SAMPLING, 4, 2)
    monkeypatch.setattr(choice, "choose_kernels", lambda device, dtype: ("triton", "for this test"))
    require_same(generate(kin.base, kin.bank, asked, SAMPLING, 4, 2), expected)
    assert choice.failure() is None


def test_a_step_made_of_tritons_kernels(base: Base, bank: Bank, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU they run interpreted."""
    pytest.importorskip("triton")
    asked = [Prompt("ben", (1, 2, 3), 5), Prompt("ada", (4,), 6)]
    expected = generate(base, bank, asked, SAMPLING, 2, 2)
    monkeypatch.setattr(choice, "choose_kernels", lambda device, dtype: ("triton", "for this test"))
    require_same(generate(base, bank, asked, SAMPLING, 2, 2), expected)
    assert choice.failure() is None


def test_what_cannot_be_recorded_runs_as_it_is(
    few: tuple[Base, list[Prompt], list[Response]], bank: Bank, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, asked, expected = few
    Recorder(monkeypatch)
    tried = 0

    def refuse(*_: object) -> None:
        nonlocal tried
        tried += 1
        raise RuntimeError("operation not permitted when stream is capturing\nand more")

    monkeypatch.setattr(graphs, "_record", refuse)
    with pytest.warns(UserWarning, match="without CUDA graphs, recording failed: operation not") as warned:
        require_same(generate(base, bank, asked, SAMPLING, 12, 4), expected)
    assert (tried, len(warned)) == (1, 1)


@pytest.mark.parametrize("ended", [False, True])
def test_a_recording_that_fails_leaves_stream_and_allocator_as_they_were(
    monkeypatch: pytest.MonkeyPatch, ended: bool
) -> None:
    """Stand-ins do what torch does: the stream comes back and the allocator hears of the end only where the
    driver ends the recording."""
    before = SimpleNamespace(device_index=3)
    torch_is: dict[str, Any] = {"stream": before, "underway": False, "pools": 0}

    @contextmanager
    def recording(graph: object, pool: object, capture_error_mode: str) -> Iterator[None]:
        torch_is.update(stream="a stream of its own", underway=True, pools=1)
        try:
            yield
        finally:
            if not ended:
                raise RuntimeError("operation failed due to a previous error during capture")
            torch_is.update(stream=before, underway=False, pools=0)

    def end(device: int, pool: object) -> None:
        assert (device, pool) == (3, (0, 7))
        if not torch_is["underway"]:
            raise RuntimeError("not currently recording to mempool_id")
        torch_is["underway"] = False

    def release(device: int, pool: object) -> None:
        torch_is["pools"] -= 1

    monkeypatch.setattr(torch.cuda, "CUDAGraph", object)
    monkeypatch.setattr(torch.cuda, "graph", recording)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: before)
    monkeypatch.setattr(torch.cuda, "set_stream", lambda stream: torch_is.update(stream=stream))
    monkeypatch.setattr(torch._C, "_cuda_endAllocateToPool", end)
    monkeypatch.setattr(torch._C, "_cuda_releasePool", release)

    def work() -> Tensor:
        raise ValueError("no")

    with pytest.raises(ValueError if ended else RuntimeError):
        graphs._record(work, (0, 7))
    assert torch_is == {"stream": before, "underway": False, "pools": 0}


def test_a_recording_that_does_not_fit_into_memory_shrinks_the_batch(
    few: tuple[Base, list[Prompt], list[Response]], bank: Bank, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, asked, expected = few
    recorder = Recorder(monkeypatch)

    def full(work: graphs.Work, pool: object) -> tuple[Callable[[], None], Tensor]:
        if not shrunk:
            try:
                raise torch.OutOfMemoryError("CUDA out of memory")
            except torch.OutOfMemoryError:
                raise RuntimeError("operation failed due to a previous error during capture")  # noqa: B904
        return recorder.record(work, pool)

    monkeypatch.setattr(graphs, "_record", full)
    shrunk: list[tuple[str, int, int]] = []
    found = generate(base, bank, asked, SAMPLING, 12, 4, on_shrink=lambda *each: shrunk.append(each))
    require_same(found, expected)
    assert shrunk == [("generation", 4, 2)]
