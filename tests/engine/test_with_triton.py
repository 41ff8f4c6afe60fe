"""The engine with Triton's kernels under it, interpreted: what it gives in torch, and what PEFT gives."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModelForCausalLM

from sparta_lite.engine.bank import Bank
from sparta_lite.engine.base import Base
from sparta_lite.engine.cache import Cache, Step
from sparta_lite.engine.decode import Prompt, generate
from sparta_lite.engine.model import Decoder
from sparta_lite.engine.peft_io import load_bank, read_adapter
from sparta_lite.engine.sequences import WholeSequences
from sparta_lite.engine.wrapped import WrappedDecoder
from sparta_lite.kernels import choice, lora
from sparta_lite.kernels.sampling import Sampling

triton = pytest.importorskip("triton")

from sparta_lite.kernels import triton_launch  # noqa: E402

pytestmark = pytest.mark.skipif(
    not triton.knobs.runtime.interpret, reason="kernels on a CPU need TRITON_INTERPRET=1"
)

NAMES: list[str | None] = ["cyd", None, "ada", "ben", "ada"]
TOLERANCE = 2e-5  # sums of at most 128 products in fp32, through two layers


@pytest.fixture
def triton_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "use_triton", lambda x: True)
    monkeypatch.setattr(choice, "_give_up", _raise)


def _raise(error: Exception) -> None:
    raise error


def inputs() -> tuple[Tensor, Tensor]:
    return torch.arange(5, 5 + len(NAMES) * 7).view(-1, 7), torch.arange(7).expand(len(NAMES), -1)


@torch.no_grad()
def hidden(decoder: Decoder, bank: Bank) -> Tensor:
    return decoder.hidden(*inputs(), WholeSequences(decoder.mixers), bank.lora(NAMES))


def test_a_mixed_batch_equals_torch_and_peft(
    base: Base, bank: Bank, peft_model: PeftModel, request: pytest.FixtureRequest
) -> None:
    in_torch = hidden(base.decoder, bank)
    request.getfixturevalue("triton_here")
    found = hidden(base.decoder, bank)
    torch.testing.assert_close(found, in_torch, rtol=TOLERANCE, atol=TOLERANCE)
    ids, _ = inputs()
    with torch.no_grad():
        logits = base.decoder.logits(found)
        for row, name in enumerate(NAMES):
            if name is None:
                with peft_model.disable_adapter():
                    expected = peft_model(ids[row : row + 1]).logits[0]
            else:
                peft_model.set_adapter(name)
                expected = peft_model(ids[row : row + 1]).logits[0]
            torch.testing.assert_close(logits[row], expected, rtol=1e-4, atol=1e-4)


def test_a_wrapped_model_goes_through_the_same_kernels(
    base_path: Path, adapter_paths: dict[str, Path], monkeypatch: pytest.MonkeyPatch, triton_here: None
) -> None:
    decoder = WrappedDecoder(AutoModelForCausalLM.from_pretrained(base_path))
    bank = load_bank(decoder, [read_adapter(name, path) for name, path in adapter_paths.items()])
    calls: list[tuple[int, ...]] = []
    by_triton = lora.by_triton

    def counted(outputs: list[Tensor], x: Tensor, *others: Any) -> list[Tensor]:
        calls.append(tuple(x.shape))
        return by_triton(outputs, x, *others)

    monkeypatch.setattr(lora, "by_triton", counted)
    found = hidden(decoder, bank)
    assert len(calls) == sum(len(sites) for sites in bank.layers)
    monkeypatch.setattr(choice, "use_triton", lambda x: False)
    torch.testing.assert_close(found, hidden(decoder, bank), rtol=TOLERANCE, atol=TOLERANCE)


def test_tables_are_made_once_a_batch(base: Base, bank: Bank, triton_here: None) -> None:
    loras = bank.lora(NAMES)
    assert loras is not None
    segments = loras[1].segments(7)
    with torch.no_grad():
        base.decoder.hidden(*inputs(), WholeSequences(base.decoder.mixers), loras)
    assert loras[1].segments(7) is segments
    assert set(loras[1]._sorted) == {7}
    assert "grid" not in vars(loras[1])  # torch's tables are not made for nothing


class Counted(TorchDispatchMode):
    """Operations of torch but for views and new memory, beside the launches of Triton's kernels."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        views = [each for each in function._schema.returns if each.alias_info is not None]
        name = function.overloadpacket.__name__
        if name not in ("empty", "_unsafe_view") and (not views or name.endswith("_")):
            self.names.append(name)
        return result


def test_a_layer_of_a_step_is_seventeen_launches(
    base: Base, bank: Bank, triton_here: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four products, two kernels for the adapters of each, two norms, SwiGLU, attention, and rotary embedding
    with what it writes to the cache."""
    cache, lengths = Cache(base.decoder, len(NAMES), 20), torch.tensor([3, 0, 7, 19, 5])
    ids, lora, layers = torch.full((len(NAMES), 1), 7), bank.lora(NAMES), base.decoder.layers
    assert lora is not None
    lora[1].segments(1)

    def names(count: int) -> Counter[str]:
        monkeypatch.setattr(base.decoder, "layers", layers[:count])
        with Counted() as counted, monkeypatch.context() as nothing_runs, torch.no_grad():
            nothing_runs.setattr(
                triton_launch.Launch,
                "__call__",
                lambda self, *_: counted.names.append(self._kernel.fn.__name__),
            )
            base.decoder.hidden(ids, lengths[:, None], Step(cache, lengths, 20), lora)
        return Counter(counted.names)

    found = names(2) - names(1)
    assert found == {
        "addmm": 1, "mm": 3, "_shrink_kernel": 4, "_expand_kernel": 4, "_norm_kernel": 2, "_swiglu_kernel": 1,
        "_keep_kernel": 1, "_span_kernel": 1,
    }  # fmt: skip
    assert found.total() == 17


def test_greedy_answers_are_the_same(base: Base, bank: Bank, request: pytest.FixtureRequest) -> None:
    prompts = [Prompt(name, tuple(range(start, start + 3))) for start, name in enumerate(NAMES)]
    in_torch = generate(base, bank, prompts, Sampling(temperature=0), 2, places=5)
    request.getfixturevalue("triton_here")
    found = generate(base, bank, prompts, Sampling(temperature=0), 2, places=5)
    assert [each.ids for each in found] == [each.ids for each in in_torch]
