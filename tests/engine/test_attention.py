"""Which attention is taken, and that each computes the textbook's."""

from __future__ import annotations

import math
import sys
from types import ModuleType

import pytest
import torch
from torch import Tensor

from sparta_lite.engine import attention
from sparta_lite.engine.attention import additive, causal, choose_attention, masked, needs_no_mask
from sparta_lite.engine.device import choose_device, choose_dtype
from sparta_lite.engine.mixing import AttentionSpec
from sparta_lite.engine.packing import Row, lay_out
from sparta_lite.engine.sequences import WholeSequences
from sparta_lite.errors import SpartaError

CPU, CARD = torch.device("cpu"), torch.device("cuda")


def textbook(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor, softcap: float | None = None, sinks: Tensor | None = None
) -> Tensor:
    """softmax(q k^T / sqrt(d)) v, head by head; query heads share key heads in order."""
    shared = q.shape[1] // k.shape[1]
    out = torch.empty_like(q)
    for row in range(len(q)):
        for head in range(q.shape[1]):
            scores = q[row, head] @ k[row, head // shared].T / math.sqrt(q.shape[-1])
            if softcap:
                scores = softcap * torch.tanh(scores / softcap)
            scores = scores.masked_fill(~mask[row, 0], -math.inf)
            if sinks is not None:
                scores = torch.cat([scores, sinks[head].expand(len(scores), 1)], dim=-1)
            out[row, head] = scores.softmax(-1)[:, : k.shape[2]] @ v[row, head // shared]
    return out


@pytest.fixture
def qkv() -> tuple[Tensor, Tensor, Tensor]:
    dice = torch.Generator().manual_seed(3)
    return tuple(torch.randn(2, heads, 7, 8, generator=dice) for heads in (4, 2, 2))  # type: ignore[return-value]


def test_causal_and_masked_are_the_textbooks(qkv: tuple[Tensor, Tensor, Tensor]) -> None:
    triangle = torch.ones(2, 1, 7, 7, dtype=torch.bool).tril()
    torch.testing.assert_close(causal(*qkv), textbook(*qkv, triangle))
    dice = torch.Generator().manual_seed(4)
    some = (torch.rand(2, 1, 7, 7, generator=dice) < 0.5) | torch.eye(7, dtype=torch.bool)
    torch.testing.assert_close(masked(*qkv, additive(some, torch.float32)), textbook(*qkv, some))


def test_flash_attn_gets_its_own_layout(
    qkv: tuple[Tensor, Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in with flash-attn's signature: [rows, length, heads, head_dim], key heads shared."""

    def flash_attn_func(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tensor:
        assert q.shape == (2, 7, 4, 8)
        assert k.shape == v.shape == (2, 7, 2, 8)
        assert causal
        triangle = torch.ones(2, 1, 7, 7, dtype=torch.bool).tril()
        return textbook(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), triangle).transpose(1, 2)

    expected = causal(*qkv)
    monkeypatch.setattr(attention, "_flash", lambda device, dtype: flash_attn_func)
    torch.testing.assert_close(causal(*qkv), expected)


@pytest.mark.parametrize("window", [1, 3, 6, 7, 20])
@pytest.mark.parametrize("softcap", [None, 0.7])
def test_windows_and_caps_go_to_flash_attn_as_it_names_them(
    qkv: tuple[Tensor, Tensor, Tensor], monkeypatch: pytest.MonkeyPatch, window: int, softcap: float | None
) -> None:
    """The stand-in counts a window as flash-attn does: tokens to the left, the query's own not among them."""

    def flash_attn_func(
        q: Tensor, k: Tensor, v: Tensor, causal: bool, window_size: tuple[int, int], softcap: float = 0.0
    ) -> Tensor:
        left, right = window_size
        assert (causal, right) == (True, 0)
        open_ = torch.ones(7, 7, dtype=torch.bool).tril().triu(-left).expand(2, 1, 7, 7)
        q, k, v = (each.transpose(1, 2) for each in (q, k, v))
        return textbook(q, k, v, open_, softcap or None).transpose(1, 2)

    q, k, v = qkv
    spec = AttentionSpec(2, 8, window, softcap)
    expected = WholeSequences([spec]).attend(0, q, k, v)
    earlier = torch.ones(7, 7, dtype=torch.bool).tril().triu(1 - window).expand(2, 1, 7, 7)
    torch.testing.assert_close(expected, textbook(q, k, v, earlier, softcap))
    monkeypatch.setattr(attention, "_flash", lambda device, dtype: flash_attn_func)
    assert needs_no_mask(q, spec)
    torch.testing.assert_close(WholeSequences([spec]).attend(0, q, k, v), expected)


def test_sinks_take_their_share_and_go_to_no_flash_attn(
    qkv: tuple[Tensor, Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    sinks = torch.tensor([-1.0, 0.0, 0.5, 2.0])
    spec = AttentionSpec(2, 8, sinks=sinks)
    monkeypatch.setattr(attention, "_flash", lambda device, dtype: pytest.fail)
    assert not needs_no_mask(qkv[0], spec)
    found = WholeSequences([spec]).attend(0, *qkv)
    earlier = torch.ones(2, 1, 7, 7, dtype=torch.bool).tril()
    torch.testing.assert_close(found, textbook(*qkv, earlier, None, sinks))


def test_a_packed_rows_window_counts_in_positions_of_its_sequences() -> None:
    """Two sequences of 5 and 6 tokens share their first 3: row, positions and mask by hand."""
    dice = torch.Generator().manual_seed(5)
    layout = lay_out([Row((1, 2, 3), ((4, 5), (6, 7, 8)))])
    q, k, v = (torch.randn(1, heads, 8, 8, generator=dice) for heads in (4, 2, 2))
    spec = AttentionSpec(2, 8, window=4)
    found = layout.mixing([spec]).attend(0, q, k, v)
    for places in ([0, 1, 2, 3, 4], [0, 1, 2, 5, 6, 7]):
        alone = WholeSequences([spec]).attend(0, *(each[:, :, places] for each in (q, k, v)))
        torch.testing.assert_close(found[:, :, places], alone)


def test_what_is_unusual_is_recorded() -> None:
    assert attention.choices([AttentionSpec(2, 8)]) == {}
    layers = [AttentionSpec(2, 8, 512), AttentionSpec(2, 8), AttentionSpec(2, 8, 512, sinks=torch.ones(4))]
    assert attention.choices(layers) == {
        "windows": "512 tokens in 2 of 3 layers (flash-attn, else masks)",
        "scores": "in memory, by torch, but in the steps of Triton's kernels (sinks)",
    }


def test_shared_key_heads_may_be_spelt_out(qkv: tuple[Tensor, Tensor, Tensor]) -> None:
    q, k, v = qkv
    triangle = torch.ones(2, 1, 7, 7, dtype=torch.bool).tril()
    keys, values = attention._for_every_head(q, k, v)
    assert keys.shape == values.shape == q.shape
    torch.testing.assert_close(textbook(q, keys, values, triangle), textbook(*qkv, triangle))
    assert attention._for_every_head(k, k, v)[0] is k


@pytest.mark.parametrize(
    ("dtype", "capability", "computes"),
    [
        (torch.bfloat16, (8, 6), True),
        (torch.float16, (9, 0), True),
        (torch.float16, (7, 5), False),
        (torch.float32, (9, 0), False),
    ],
)
def test_where_they_have_to_be(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, capability: tuple[int, int], computes: bool
) -> None:
    pretend(monkeypatch, capability, None)
    assert attention._flash_computes(CARD, dtype) is computes


def pretend(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], installed: ModuleType | None
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(attention, "find_spec", lambda name: installed)
    if installed is not None:
        monkeypatch.setitem(sys.modules, "flash_attn", installed)


def test_flash_attn_is_taken_where_it_can_be(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, (8, 0), ModuleType("flash_attn"))
    assert choose_attention(CARD, torch.bfloat16)[0] == "flash-attn"


@pytest.mark.parametrize(
    ("device", "dtype", "capability", "installed", "reason"),
    [
        (CPU, torch.bfloat16, (9, 0), True, "needs a CUDA device"),
        (CARD, torch.float32, (9, 0), True, "computes in 16 bits, the base in float32"),
        (CARD, torch.float16, (7, 5), True, "compute capability 8.0"),
        (CARD, torch.bfloat16, (9, 0), False, "not installed"),
    ],
)
def test_why_it_is_not(
    monkeypatch: pytest.MonkeyPatch,
    device: torch.device,
    dtype: torch.dtype,
    capability: tuple[int, int],
    installed: bool,
    reason: str,
) -> None:
    pretend(monkeypatch, capability, ModuleType("flash_attn") if installed else None)
    kind, why = choose_attention(device, dtype)
    assert kind == "sdpa"
    assert reason in why


def test_a_flash_attn_that_is_broken_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> ModuleType:
        raise ImportError("undefined symbol")

    pretend(monkeypatch, (9, 0), ModuleType("flash_attn"))
    monkeypatch.setattr(attention, "import_module", broken)
    assert choose_attention(CARD, torch.bfloat16) == ("sdpa", "flash-attn cannot be imported (ImportError)")


@pytest.mark.parametrize(("native", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
def test_a_card_computes_in_what_it_has(
    monkeypatch: pytest.MonkeyPatch, native: bool, dtype: torch.dtype
) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: native)
    assert choose_dtype("auto", CARD)[0] == dtype
    assert choose_dtype("auto", CPU)[0] == torch.float32
    assert choose_dtype("bfloat16", CPU) == (torch.bfloat16, "as the settings say")


def test_a_gpu_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == CPU
    with pytest.raises(SpartaError, match="torch sees no CUDA device"):
        choose_device("cuda")


def test_repeated_keys_and_values_are_what_stays_for_the_backward_pass() -> None:
    """What the plan counts on a card: of every token q, and k and v for each of its heads, and the output."""
    rows, heads, length, width = 2, 8, 16, 8
    generator = torch.Generator().manual_seed(0)
    q, k, v = (
        torch.randn(rows, count, length, width, generator=generator, requires_grad=True)
        for count in (heads, 1, 1)
    )
    mask = attention.additive(torch.ones(1, 1, length, length, dtype=torch.bool).tril(), q.dtype)
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        out = torch.nn.functional.scaled_dot_product_attention(
            q, *attention._for_every_head(q, k, v), attn_mask=mask
        )
    kept.pop(mask.untyped_storage().data_ptr(), None)
    sums = rows * heads * length * 4  # the logarithms of the weights' sums
    assert sum(kept.values()) == pytest.approx(4 * q.nbytes + sums, rel=0.02)
    assert out.shape == q.shape
