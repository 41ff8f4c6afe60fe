"""TRL on a PEFT view of the resident base against our own training over the same tensors."""

from __future__ import annotations

import gc
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import Qwen2Config, Qwen2ForCausalLM

from sparta_lite.engine.bank import Adapter, Bank
from sparta_lite.engine.base import Base, load_base
from sparta_lite.engine.peft_io import load_bank, read_adapter
from sparta_lite.errors import SpartaError
from sparta_lite.training.dpo import train
from sparta_lite.training.packing import TokenizedPair
from sparta_lite.training.phase import DpoResult, DpoSettings, DpoState, DpoStep, read_state
from sparta_lite.training.sequential import _arguments, _Trainer, train_in_turn
from sparta_lite.training.view import on_one_device, wrap_with_peft

from ..engine.families import family
from ..engine.kin import make

pytestmark = pytest.mark.interpreted

SETTINGS = DpoSettings(learning_rate=1e-3, batch=5, micro_batch=3, warmup=0.4, sft_weight=0.5)
COMMON: dict[str, Any] = {"seed": 1, "iteration": 0, "pad": 0}


def tribe(base: Base, bank: Bank, pairs: list[TokenizedPair], settings: DpoSettings) -> list[DpoStep]:
    steps: list[DpoStep] = []
    train(base.decoder, bank, pairs, settings, on_step=steps.append, **COMMON)
    return sorted(steps, key=lambda step: (bank.slot(step.adapter), step.step))


def trl(
    base: Base, bank: Bank, pairs: list[TokenizedPair], settings: DpoSettings, **more: Any
) -> tuple[DpoResult, list[DpoStep]]:
    steps: list[DpoStep] = []
    more = {"wrap": wrap_with_peft, "on_step": steps.append, **COMMON, **more}
    return train_in_turn(base.model, base.tokenizer, bank, pairs, settings, **more), steps


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def distance(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    return float(torch.stack([(one[name] - other[name]).norm() for name in one]).norm())


def alike(ours: list[DpoStep], theirs: list[DpoStep], tolerance: float) -> None:
    assert len(ours) == len(theirs) > 0
    for one, other in zip(ours, theirs, strict=True):
        expected = vars(one)
        for field, value in vars(other).items():
            assert value == (
                pytest.approx(expected[field], rel=tolerance, abs=tolerance)
                if isinstance(value, float)
                else expected[field]
            ), (one.adapter, one.step, field)


@pytest.mark.parametrize(
    "settings",
    [
        SETTINGS,
        replace(SETTINGS, epochs=2, sft_weight=0, max_grad_norm=0.3, max_length=40, max_prompt=20),
        replace(SETTINGS, checkpointing=True, optimizer="adamw-8bit", beta=0.3, warmup=1.0),
    ],
    ids=["uneven-batches", "two-epochs-clipped-and-cut", "checkpointed-through-bitsandbytes"],
)
def test_trl_and_tribe_train_the_same(
    settings: DpoSettings, base: Base, bank: Bank, pairs: list[TokenizedPair]
) -> None:
    bank = bank.part(1, 3)  # ranks, scales and targets differ
    start = bank.snapshot()
    ours = tribe(base, bank, pairs[:8], settings)
    end = bank.snapshot()
    bank.restore(start)
    _, theirs = trl(base, bank, pairs[:8], settings)
    # fp32 on both sides; packing and padding add the same numbers in another order.
    alike(ours, theirs, 1e-5)
    assert distance(bank.snapshot(), end) < 1e-4 * distance(start, end)


def test_no_pair_is_lost_that_trl_itself_would_drop(
    base: Base, bank: Bank, pairs: list[TokenizedPair]
) -> None:
    """Left to itself it drops pairs whose prompt fills ``max_length``; here prompts are cut, and counted."""
    settings = replace(SETTINGS, max_length=24, max_prompt=20, batch=3)
    bank, pairs = bank.part(0, 1), pairs[:3]
    lost = sum(len(pair.prompt) >= settings.max_length for pair in pairs)
    assert 0 < lost < 3
    start = bank.snapshot()
    ours: list[DpoStep] = []
    expected = train(base.decoder, bank, pairs, settings, on_step=ours.append, **COMMON)
    bank.restore(start)
    result, theirs = trl(base, bank, pairs, settings)
    assert result.truncated == expected.truncated
    assert result.truncated.prompts >= lost
    alike(ours, theirs, 1e-5)


@pytest.mark.parametrize("name", ["qwen3_moe", "gemma2", "gpt_oss"])
def test_trl_and_tribe_train_the_same_over_a_wrapped_base(
    name: str, base_path: Path, pairs: list[TokenizedPair], tmp_path: Path
) -> None:
    """Caps, windows and sinks hold in TRL's passes, too, and no router is paid for spreading its tokens."""
    kin = make(family(name), tmp_path, base_path)
    bank = kin.bank.part(1, 2)
    start = bank.snapshot()
    ours = tribe(kin.base, bank, pairs[:6], SETTINGS)
    end = bank.snapshot()
    bank.restore(start)
    _, theirs = trl(kin.base, bank, pairs[:6], SETTINGS)
    alike(ours, theirs, 1e-4)
    assert distance(bank.snapshot(), end) < 1e-2 * distance(start, end)


def test_a_loss_that_trl_lacks_is_refused(base: Base, bank: Bank, pairs: list[TokenizedPair]) -> None:
    with pytest.raises(SpartaError, match="TRL's SPPO knows no win rates"):
        trl(base, bank, pairs, replace(SETTINGS, loss="sppo"))


def test_trl_leaves_the_base_as_it_was(base: Base, bank: Bank, pairs: list[TokenizedPair]) -> None:
    ids = torch.arange(3, 40)[None]
    modules = [(name, type(module)) for name, module in base.model.named_modules()]
    memory = {name: tensor.data_ptr() for name, tensor in base.model.named_parameters()}
    config, generation = base.model.config.to_dict(), base.model.generation_config.to_dict()
    pad = base.tokenizer.pad_token, base.tokenizer.padding_side
    with torch.no_grad():
        before = base.model(ids).logits
    trl(base, bank.part(0, 1), pairs[:2], replace(SETTINGS, checkpointing=True, warmup=0))
    with torch.no_grad():
        assert torch.equal(base.model(ids).logits, before)
    assert [(name, type(module)) for name, module in base.model.named_modules()] == modules
    assert {name: tensor.data_ptr() for name, tensor in base.model.named_parameters()} == memory
    assert not any(parameter.requires_grad for parameter in base.model.parameters())
    assert not base.model.training
    assert not base.model.is_gradient_checkpointing
    assert base.model.config.to_dict() == config
    assert base.model.generation_config.to_dict() == generation
    assert (base.tokenizer.pad_token, base.tokenizer.padding_side) == pad
    assert "forward" not in vars(base.model)
    assert not base.model.get_input_embeddings()._forward_hooks


def test_a_resumed_phase_repeats_one_adapter_at_most_and_ends_byte_for_byte_the_same(
    base: Base, bank: Bank, pairs: list[TokenizedPair], tmp_path: Path
) -> None:
    settings = replace(SETTINGS, batch=2, sft_weight=0)
    start = bank.snapshot()
    saved: list[Path] = []

    def save(state: DpoState) -> None:
        saved.append(tmp_path / f"{state.done}.safetensors")
        save_file(state.tensors(), saved[-1])

    result, steps = trl(base, bank, pairs[:3], settings, save=save)
    end = bank.snapshot()
    assert [path.stem for path in saved] == ["2", "4", "6"]
    for path in saved[1:]:
        bank.restore(start)
        again, repeated = trl(base, bank, pairs[:3], settings, resume=read_state(load_file(path)))
        assert again == result
        assert repeated == steps[int(path.stem) :]
        assert same(bank.snapshot(), end)


def test_a_state_of_the_tribe_trainer_is_refused(base: Base, bank: Bank, pairs: list[TokenizedPair]) -> None:
    states: list[DpoState] = []
    train(base.decoder, bank, pairs[:2], SETTINGS, on_step=lambda _: None, save=states.append, **COMMON)
    with pytest.raises(SpartaError, match="another trainer"):
        trl(base, bank, pairs[:2], SETTINGS, resume=states[0])


def test_no_pairs_change_nothing(base: Base, bank: Bank) -> None:
    result, steps = trl(base, bank, [], SETTINGS)
    assert steps == []
    assert set(result.moved.values()) == {0.0}


def test_a_nan_stops_at_the_last_complete_update(
    base: Base, bank: Bank, pairs: list[TokenizedPair], monkeypatch: pytest.MonkeyPatch
) -> None:
    from trl import DPOTrainer

    good: list[dict[str, Tensor]] = []
    honest = DPOTrainer.compute_loss

    def wrong(self: Any, *arguments: Any) -> Tensor:
        loss: Tensor = honest(self, *arguments)
        return loss * (float("nan") if len(good) == 2 else 1)

    monkeypatch.setattr(DPOTrainer, "compute_loss", wrong)
    settings = replace(SETTINGS, batch=2, sft_weight=0)
    with pytest.raises(SpartaError, match="adapter 'ada', step 2: its loss is NaN"):
        trl(base, bank, pairs[:6], settings, on_step=lambda _: good.append(bank.snapshot()))
    assert len(good) == 2
    assert same(bank.snapshot(), good[-1])
    assert not any("lora" in name for name, _ in base.model.named_modules())


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda self: None, "step 0: its weights did not move"),
        (lambda self: self.param_groups[0]["params"].clear(), "step 0: its weights did not move"),
        (lambda self: self.param_groups[0]["params"][0].fill_(float("inf")), "its weights became infinite"),
    ],
    ids=["no-step", "no-parameters", "infinite"],
)
@pytest.mark.filterwarnings("ignore:.*lr_scheduler.step")
def test_an_update_that_cannot_be_right_is_put_back(
    base: Base,
    bank: Bank,
    pairs: list[TokenizedPair],
    monkeypatch: pytest.MonkeyPatch,
    change: Any,
    complaint: str,
) -> None:
    start = bank.snapshot()
    monkeypatch.setattr(torch.optim.AdamW, "step", torch.no_grad()(lambda self, *_, **__: change(self)))
    with pytest.raises(SpartaError, match=f"adapter 'ada', .*{complaint}"):
        trl(base, bank, pairs[:2], replace(SETTINGS, warmup=0))
    assert same(bank.snapshot(), start)


def test_without_an_interpreter_a_cpu_is_refused(
    base: Base, bank: Bank, pairs: list[TokenizedPair], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    with pytest.raises(SpartaError, match="set the trainer to tribe"):
        trl(base, bank, pairs, SETTINGS)


def test_in_four_bits_trl_and_tribe_train_the_same(
    base_path: Path, adapter_paths: dict[str, Path], pairs: list[TokenizedPair]
) -> None:
    base = load_base(base_path, torch.device("cpu"), quantization="nf4")
    bank = load_bank(base.decoder, [read_adapter(name, adapter_paths[name]) for name in ("ada", "ben")])
    start = bank.snapshot()
    settings = replace(SETTINGS, warmup=0.5)  # AdamW's very first step would blow up what is rounded
    ours = tribe(base, bank, pairs[:7], settings)
    end = bank.snapshot()
    bank.restore(start)
    _, theirs = trl(base, bank, pairs[:7], settings)
    # Both multiply by the same dequantised matrices in fp32, and TRL's turning adapters into bf16 is undone.
    alike(ours, theirs, 1e-5)
    assert distance(bank.snapshot(), end) < 1e-4 * distance(start, end)


def test_an_optimizer_without_memory_is_one_line(
    base: Base, bank: Bank, pairs: list[TokenizedPair], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(_Trainer, "train", full)
    with pytest.raises(SpartaError, match=r"training: out of memory: .*adamw-8bit"):
        trl(base, bank, pairs[:2], SETTINGS)


def test_other_gpus_get_no_copy_of_the_base(base: Base, tmp_path: Path) -> None:
    arguments = _arguments(SETTINGS, 1, str(tmp_path), base.model)
    arguments._n_gpu = 4  # as on a machine with four
    on_one_device(arguments)
    assert arguments.n_gpu == 1


@pytest.mark.parametrize(("dtype", "half"), [(torch.float32, False), (torch.bfloat16, True)])
def test_products_are_in_the_dtype_of_the_base(tmp_path: Path, dtype: torch.dtype, half: bool) -> None:
    config = Qwen2Config(vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1)
    config.num_attention_heads = config.num_key_value_heads = 1
    model = Qwen2ForCausalLM(config).to(dtype)
    assert _arguments(SETTINGS, 1, str(tmp_path), model).bf16 is half
    assert _arguments(replace(SETTINGS, dtype="bf16"), 1, str(tmp_path), model).bf16


def test_an_adapter_leaves_no_memory_to_the_next(
    base: Base, bank: Bank, pairs: list[TokenizedPair], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor may that wait for the garbage collector, which knows nothing of a card."""
    alive: list[weakref.ref[Any]] = []

    def wrap(model: Any, adapter: Adapter, checkpointing: bool) -> Any:
        assert [each() for each in alive] == [None] * len(alive)
        view = wrap_with_peft(model, adapter, checkpointing)
        alive.extend(weakref.ref(each) for name, each in view.named_parameters() if "lora_" in name)
        return view

    gc.collect()
    gc.disable()
    try:
        trl(base, bank.part(1, 3), pairs[:2], SETTINGS, wrap=wrap)
    finally:
        gc.enable()
    assert alive
