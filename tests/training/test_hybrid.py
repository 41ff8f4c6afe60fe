"""An epoch on a base with the delta rule: ours, TRL's trainer by itself, and TRL on a view of our base."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, Qwen3_5TextConfig

from sparta_lite.engine.base import load_base
from sparta_lite.engine.peft_io import load_bank, read_adapter, write_adapter
from sparta_lite.engine.sequences import WholeSequences
from sparta_lite.training.dpo import train
from sparta_lite.training.packing import TokenizedPair
from sparta_lite.training.phase import DpoSettings
from sparta_lite.training.sequential import train_in_turn
from sparta_lite.training.view import wrap_with_peft

from ..engine.models import SIZES, save_model
from .test_trl import ITERATION, SEED, distance, named, trl

SETTINGS = DpoSettings(learning_rate=1e-3, warmup=0.4, batch=2, micro_batch=2, beta=0.3)


@pytest.fixture(scope="module")
def paths(base_path: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Path]]:
    """A base of one layer with the delta rule and one with attention, and two adapters of it."""
    linear = {"linear_num_key_heads": 1, "linear_num_value_heads": 2}
    widths = {"linear_key_head_dim": 8, "linear_value_head_dim": 16, "head_dim": 8}
    kinds = ["linear_attention", "full_attention"]
    settings: dict[str, Any] = {**SIZES, **linear, **widths, "initializer_range": 0.1, "layer_types": kinds}
    base = save_model(Qwen3_5TextConfig(**settings), tmp_path_factory.mktemp("hybrid"), base_path)
    adapters = {}
    for rank, name in ((2, "two"), (4, "four")):
        lora = LoraConfig(task_type="CAUSAL_LM", r=rank, lora_alpha=8, target_modules="all-linear")
        model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), lora)
        with torch.random.fork_rng():
            torch.manual_seed(rank)
            for key, parameter in model.named_parameters():
                if "lora_" in key:
                    torch.nn.init.normal_(parameter, std=0.05)
        adapters[name] = base / name
        model.save_pretrained(adapters[name])
    return base, adapters


@pytest.mark.interpreted
def test_an_epoch_equals_trl(
    paths: tuple[Path, dict[str, Path]],
    texts: list[dict[str, str]],
    pairs: list[TokenizedPair],
    tmp_path: Path,
) -> None:
    at, adapters = paths
    base = load_base(at, torch.device("cpu"))
    files = [read_adapter(name, path) for name, path in adapters.items()]
    bank = load_bank(base.decoder, files)
    common: dict[str, Any] = {"seed": SEED, "iteration": ITERATION, "pad": 0, "on_step": lambda _: None}
    settings = replace(SETTINGS, warmup=0.0)  # TRL would spend one of the two steps at rate 0
    start = bank.snapshot()
    train_in_turn(base.model, base.tokenizer, bank, pairs[:4], settings, wrap=wrap_with_peft, **common)
    through_view = bank.snapshot()
    bank.restore(start)
    train(base.decoder, bank, pairs[:4], settings, **common)
    run = trl(at, adapters["four"], texts[:4], settings, tmp_path)
    apart = distance(named(bank, bank.slot("four"), run.end), run.end)
    assert apart < 1e-4 * distance(run.start, run.end)
    ours = bank.snapshot()
    moved = sum(float((ours[name] - start[name]).square().sum()) for name in ours) ** 0.5
    apart = sum(float((ours[name] - through_view[name]).square().sum()) for name in ours) ** 0.5
    assert apart < 1e-4 * moved

    write_adapter(tmp_path / "four", bank, "four", files[1].config)
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(at), tmp_path / "four").eval()
    ids = torch.arange(20, 60)[None]
    with torch.no_grad():
        expected = model(ids).logits
        lora = bank.lora(["four"])
        mixing = WholeSequences(base.decoder.mixers)
        found = base.decoder.logits(base.decoder.hidden(ids, torch.arange(40)[None], mixing, lora))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
