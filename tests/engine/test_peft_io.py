"""Adapters in and out of the bank, with PEFT as the reference on either side."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, PromptTuningConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, Phi3Config, PhiConfig, PreTrainedConfig

from sparta_lite.engine.bank import Bank
from sparta_lite.engine.base import Base, load_base
from sparta_lite.engine.peft_io import load_bank, new_adapter, read_adapter, write_adapter
from sparta_lite.errors import SpartaError

from .kinds import CONFIG, WEIGHTS, our_logprobs, peft_logprobs
from .models import SIZES, save_model

KINDS: dict[str, dict[str, Any]] = {
    "attention": {"r": 8, "lora_alpha": 16, "target_modules": ["q_proj", "v_proj"]},
    "one module, rank 1": {"r": 1, "lora_alpha": 3, "target_modules": ["down_proj"]},
    "full name": {"r": 2, "lora_alpha": 4, "target_modules": ["model.layers.0.mlp.gate_proj"]},
    "regex": {"r": 5, "lora_alpha": 7, "target_modules": r".*layers\.1\..*(k|o|up)_proj"},
    "all-linear": {"r": 4, "lora_alpha": 32, "target_modules": "all-linear"},
    "rslora": {"r": 16, "lora_alpha": 16, "target_modules": "all-linear", "use_rslora": True},
    "one layer": {
        "r": 3,
        "lora_alpha": 6,
        "target_modules": ["q_proj", "up_proj"],
        "layers_to_transform": [1],
    },
    "excluded": {"r": 4, "lora_alpha": 8, "target_modules": "all-linear", "exclude_modules": ["o_proj"]},
    "gaussian": {"r": 4, "lora_alpha": 8, "target_modules": ["k_proj"], "init_lora_weights": "gaussian"},
}


def peft_save(base_path: Path, target: Path, seed: int = 0, **settings: Any) -> Path:
    """A PEFT adapter with random weights, saved by PEFT."""
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(base_path), LoraConfig(task_type="CAUSAL_LM", **settings)
    )
    generator = torch.Generator().manual_seed(seed)
    for key, parameter in model.named_parameters():
        if "lora_" in key:
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.1
    model.save_pretrained(target)
    return target


@pytest.fixture(scope="module")
def kinds(base_path: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("kinds")
    return {
        name: peft_save(base_path, root / str(number), number, **settings)
        for number, (name, settings) in enumerate(KINDS.items())
    }


@pytest.fixture(scope="module")
def mixed(base: Base, kinds: dict[str, Path]) -> Bank:
    """All kinds in one bank, ranks 1 to 16."""
    return load_bank(base.decoder, [read_adapter(name, path) for name, path in kinds.items()])


@pytest.mark.parametrize("kind", KINDS)
def test_peft_and_the_bank_agree_in_both_directions(
    base: Base, base_path: Path, kinds: dict[str, Path], mixed: Bank, kind: str, tmp_path: Path
) -> None:
    reference = peft_logprobs(base_path, kinds[kind])
    assert (our_logprobs(base, mixed, None) - reference).abs().max() > 1e-3
    torch.testing.assert_close(our_logprobs(base, mixed, kind), reference, rtol=0, atol=1e-5)
    write_adapter(tmp_path / "ours", mixed, kind, read_adapter(kind, kinds[kind]).config)
    torch.testing.assert_close(peft_logprobs(base_path, tmp_path / "ours"), reference, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_writing_what_was_read_gives_the_same_tensors_and_always_the_same_bytes(
    kinds: dict[str, Path], mixed: Bank, kind: str, tmp_path: Path
) -> None:
    config = read_adapter(kind, kinds[kind]).config
    for name in ("first", "second"):
        write_adapter(tmp_path / name, mixed, kind, config)
    before, after = load_file(kinds[kind] / WEIGHTS), load_file(tmp_path / "first" / WEIGHTS)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert json.loads((tmp_path / "first" / CONFIG).read_text()) == json.loads(
        (kinds[kind] / CONFIG).read_text()
    )
    assert {path.name for path in (tmp_path / "first").iterdir()} == {CONFIG, WEIGHTS}
    for file in (CONFIG, WEIGHTS):
        assert (tmp_path / "first" / file).read_bytes() == (tmp_path / "second" / file).read_bytes()


def test_an_adapter_that_changed_in_the_bank_is_written_as_it_stands(
    base: Base, base_path: Path, kinds: dict[str, Path], tmp_path: Path
) -> None:
    bank = load_bank(base.decoder, [read_adapter(kind, path) for kind, path in kinds.items()])
    kind = "rslora"
    for _, a, b in bank.modules(bank.slot(kind)):
        a.mul_(1.5)
        b.sub_(0.01)
    write_adapter(tmp_path, bank, kind, read_adapter(kind, kinds[kind]).config)
    torch.testing.assert_close(
        our_logprobs(base, bank, kind), peft_logprobs(base_path, tmp_path), rtol=0, atol=1e-5
    )
    assert (our_logprobs(base, bank, kind) - peft_logprobs(base_path, kinds[kind])).abs().max() > 1e-2


def test_modules_are_views_of_the_bank(mixed: Bank) -> None:
    storages = {tensor.untyped_storage().data_ptr() for _, tensor in mixed.tensors()}
    for slot, adapter in enumerate(mixed.adapters):
        for _, a, b in mixed.modules(slot):
            assert (a.shape[0], b.shape[1]) == (adapter.rank, adapter.rank)
            assert {a.untyped_storage().data_ptr(), b.untyped_storage().data_ptr()} <= storages


def test_a_part_of_the_bank_shares_its_memory(mixed: Bank) -> None:
    part = mixed.part(2, 5)
    assert part.adapters == mixed.adapters[2:5]
    for (_, whole), (_, some) in zip(mixed.tensors(), part.tensors(), strict=True):
        assert some.data_ptr() == whole[2:].data_ptr()
        assert torch.equal(some, whole[2:5])


def test_restoring_a_snapshot_undoes_every_change(base: Base, kinds: dict[str, Path]) -> None:
    bank = load_bank(base.decoder, [read_adapter(kind, path) for kind, path in kinds.items()])
    before = our_logprobs(base, bank, "regex")
    kept = bank.snapshot()
    for _, tensor in bank.tensors():
        tensor.add_(1)
    bank.restore(kept)
    assert torch.equal(our_logprobs(base, bank, "regex"), before)


def test_padding_beyond_an_adapters_rank_and_modules_is_zero(kinds: dict[str, Path], mixed: Bank) -> None:
    slot = mixed.slot("one module, rank 1")
    own = sum(tensor.count_nonzero() for tensor in load_file(kinds["one module, rank 1"] / WEIGHTS).values())
    assert sum(tensor[slot].count_nonzero() for _, tensor in mixed.tensors()) == own


def test_half_precision_adapters_are_read_exactly(base: Base, kinds: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(kinds["regex"], tmp_path / "half")
    half = {key: tensor.bfloat16() for key, tensor in load_file(kinds["regex"] / WEIGHTS).items()}
    save_file(half, tmp_path / "half" / WEIGHTS)
    file = read_adapter("half", tmp_path / "half")
    bank = load_bank(base.decoder, [file])
    for module, a, b in bank.modules(0):
        if module in file.weights:
            assert torch.equal(a, half[f"base_model.model.model.{module}.lora_A.weight"].float())
            assert torch.equal(b, half[f"base_model.model.model.{module}.lora_B.weight"].float())


def test_no_setting_of_a_plain_adapter_is_refused(base_path: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "target_modules": ["q_proj"],
        "lora_dropout": 0.1,
        "layers_to_transform": [0, 1],
        "layers_pattern": "layers",
        "revision": "main",
        "init_lora_weights": "orthogonal",
        "ensure_weight_tying": True,
    }
    path = peft_save(base_path, tmp_path, **settings)
    written = json.loads((path / CONFIG).read_text())
    assert set(written) >= {field.name for field in fields(LoraConfig)} - {"runtime_config"}
    assert read_adapter("plain", path).config == written


def edit(**changes: Any) -> Callable[[Path], None]:
    def apply(path: Path) -> None:
        config = json.loads((path / CONFIG).read_text())
        (path / CONFIG).write_text(json.dumps({**config, **changes}))

    return apply


def alter(change: Callable[[dict[str, Tensor]], object]) -> Callable[[Path], None]:
    def apply(path: Path) -> None:
        tensors = load_file(path / WEIGHTS)
        change(tensors)
        save_file(tensors, path / WEIGHTS)

    return apply


def only_pickle(path: Path) -> None:
    torch.save(load_file(path / WEIGHTS), path / "adapter_model.bin")
    (path / WEIGHTS).unlink()


def into(dtype: torch.dtype) -> Callable[[Path], None]:
    def change(all: dict[str, Tensor]) -> None:
        all[f"{Q}.lora_A.weight"] = all[f"{Q}.lora_A.weight"].to(dtype)

    return alter(change)


Q = "base_model.model.model.layers.0.self_attn.q_proj"
EXPERT = "base_model.model.model.layers.0.mlp.experts"
DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "no configuration": (lambda path: (path / CONFIG).unlink(), "no adapter_config.json"),
    "no directory": (shutil.rmtree, "no adapter_config.json"),
    "broken JSON": (lambda path: (path / CONFIG).write_text('{"r": 8,'), "cannot be read"),
    "JSON of another kind": (lambda path: (path / CONFIG).write_text("[1]"), "holds no JSON object but list"),
    "bytes that are no text": (lambda path: (path / CONFIG).write_bytes(b"\xff\xfe{"), "cannot be read"),
    "another method": (edit(peft_type="IA3"), "only LoRA is supported"),
    "DoRA": (edit(use_dora=True), "use_dora = true is not supported"),
    "biases": (edit(bias="lora_only"), "bias = 'lora_only' is not supported"),
    "LoRA biases": (edit(lora_bias=True), "lora_bias = true is not supported"),
    "saved modules": (edit(modules_to_save=["norm"]), r"modules_to_save = \['norm'\] is not supported"),
    "ranks by module": (edit(rank_pattern={"q_proj": 2}), "rank_pattern"),
    "repeated layers": (edit(layer_replication=[[0, 2], [1, 2]]), "layer_replication"),
    "a setting of the future": (edit(use_new_idea=True), "use_new_idea = true is not supported"),
    "rank 0": (edit(r=0), "the rank r must be a positive whole number, not 0"),
    "rank in words": (edit(r="eight"), "the rank r must be a positive whole number, not 'eight'"),
    "alpha missing": (edit(lora_alpha=None), "lora_alpha must be a finite number other than 0, not null"),
    "alpha NaN": (edit(lora_alpha=float("nan")), "lora_alpha must be a finite number other than 0, not nan"),
    "another rank": (edit(r=4), "has rank 8, adapter_config.json says r = 4"),
    "pickle only": (only_pickle, "no adapter_model.safetensors; save the adapter as safetensors"),
    "torn weights": (lambda path: (path / WEIGHTS).write_bytes(b"\x10\0\0\0"), "cannot be read"),
    "no tensors": (alter(dict.clear), "holds no LoRA tensors"),
    "NaN": (alter(lambda all: all[f"{Q}.lora_A.weight"][0].fill_(torch.nan)), "holds NaN or infinity"),
    "infinity": (alter(lambda all: all[f"{Q}.lora_B.weight"][0].fill_(torch.inf)), "holds NaN or infinity"),
    "one side only": (alter(lambda all: all.pop(f"{Q}.lora_B.weight")), "only one of lora_A and lora_B"),
    "no matrix": (alter(lambda all: all.update({f"{Q}.lora_A.weight": torch.ones(8)})), "not a matrix"),
    "a magnitude": (
        alter(lambda all: all.update({f"{Q}.lora_magnitude_vector": torch.ones(64)})),
        "is not the A or B.*that is DoRA: make plain LoRA of it with PEFT's save_as_lora",
    ),
    "a copy of the head": (
        alter(lambda all: all.update({"base_model.model.lm_head.weight": torch.ones(320, 64)})),
        "lm_head.weight is not the A or B.*; save it again with save_embedding_layers=False",
    ),
    "an expert": (
        alter(lambda all: all.update({f"{EXPERT}.0.up_proj.lora_A.default.weight": torch.ones(8, 64)})),
        "is not the A or B.*; train it without the experts",
    ),
    "a name without end": (
        alter(lambda all: all.update({"x" * 5000: torch.ones(2)})),
        r"the tensor x+\.\.\.x+ is not the A or B",
    ),
    "8 bits": (
        into(torch.float8_e4m3fn),
        "q_proj.* is in float8_e4m3fn; save the adapter in bf16 or float32",
    ),
    "whole numbers": (into(torch.int32), "q_proj.* is in int32; save the adapter in bf16 or float32"),
    "an empty file": (lambda path: (path / WEIGHTS).write_bytes(b""), "cannot be read"),
    "half a file": (
        lambda path: (path / WEIGHTS).write_bytes((path / WEIGHTS).read_bytes()[:-1000]),
        "cannot be read",
    ),
    "a directory for a file": (
        lambda path: [(path / WEIGHTS).unlink(), (path / WEIGHTS).mkdir()],
        "cannot be read",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_an_adapter_that_cannot_serve_is_refused_with_its_reason(
    adapter_paths: dict[str, Path], tmp_path: Path, damage: str
) -> None:
    path = tmp_path / "adapter"
    shutil.copytree(adapter_paths["ada"], path)
    read_adapter("ada", path)
    harm, reason = DAMAGES[damage]
    harm(path)
    with pytest.raises(SpartaError, match=reason) as caught:
        read_adapter("ada", path)
    assert f"adapter 'ada' in {path}" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) <= 300


def test_a_library_that_panics_is_no_crash(
    adapter_paths: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    class PanicException(BaseException):  # as pyo3 makes it: no Exception
        pass

    def panic(*_: Any) -> None:
        raise PanicException("called `Option::unwrap()` on a `None` value")

    monkeypatch.setattr("sparta_lite.engine.peft_io.load_file", panic)
    with pytest.raises(SpartaError, match=r"adapter_model.safetensors cannot be read \(called"):
        read_adapter("ada", adapter_paths["ada"])


@pytest.mark.parametrize("target", ["embed_tokens", "lm_head"])
def test_adapters_of_embedding_or_head_are_refused(base_path: Path, tmp_path: Path, target: str) -> None:
    path = peft_save(base_path, tmp_path, target_modules=["q_proj", target])
    with pytest.raises(SpartaError, match=f"{target}.* is not the A or B of a decoder layer's linear module"):
        read_adapter("ada", path)


def test_what_is_not_lora_is_refused(base_path: Path, tmp_path: Path) -> None:
    config = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    get_peft_model(AutoModelForCausalLM.from_pretrained(base_path), config).save_pretrained(tmp_path)
    with pytest.raises(SpartaError, match="only LoRA is supported"):
        read_adapter("ada", tmp_path)


def test_an_adapter_of_another_base_is_refused(
    base: Base, adapter_paths: dict[str, Path], tmp_path: Path
) -> None:
    def widen(all: dict[str, Tensor]) -> None:
        all[f"{Q}.lora_A.weight"] = torch.ones(8, 96)

    def deepen(all: dict[str, Tensor]) -> None:
        for side in "AB":
            all[f"{Q.replace('.0.', '.7.')}.lora_{side}.weight"] = all.pop(f"{Q}.lora_{side}.weight")

    reasons = {
        widen: "layers.0.self_attn.q_proj maps 96 to 64 features, the base's maps 64 to 64",
        deepen: "the base has no adaptable layers.7.self_attn.q_proj",
    }
    for change, reason in reasons.items():
        path = tmp_path / change.__name__
        shutil.copytree(adapter_paths["ada"], path)
        alter(change)(path)
        with pytest.raises(SpartaError, match=reason):
            load_bank(base.decoder, [read_adapter("ada", path)])


OTHERS: dict[str, PreTrainedConfig] = {
    "dense, fc1": PhiConfig(**SIZES, partial_rotary_factor=0.5, tie_word_embeddings=False),
    "qkv_proj, gate_up_proj": Phi3Config(**SIZES, sliding_window=None, tie_word_embeddings=False),
}


@pytest.mark.parametrize("names", [None, *OTHERS])
def test_a_new_adapter_is_what_peft_would_start_with(
    base_path: Path, tmp_path: Path, names: str | None
) -> None:
    path = base_path if names is None else save_model(OTHERS[names], tmp_path / "base", base_path)
    base = load_base(path, torch.device("cpu"))
    bank = load_bank(base.decoder, [file := new_adapter("one", base.decoder, 8, 12.0, 0, base.name)])
    assert torch.equal(our_logprobs(base, bank, "one"), our_logprobs(base, bank, None))
    write_adapter(tmp_path / "one", bank, "one", file.config)
    ours = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(path), tmp_path / "one")
    theirs = get_peft_model(
        AutoModelForCausalLM.from_pretrained(path),
        LoraConfig(task_type="CAUSAL_LM", r=8, lora_alpha=12, target_modules="all-linear"),
    )
    state, expected = ours.state_dict(), theirs.state_dict()
    assert state.keys() == expected.keys()
    for name, weight in expected.items():
        assert state[name].shape == weight.shape
        if "lora_B" in name:
            assert not state[name].any()
            assert not weight.any()
        if "lora_A" in name:
            bound = weight.shape[1] ** -0.5
            assert state[name].abs().max() <= bound
            # A uniform spread, to six deviations of its estimate from so many numbers (4/45 of bound^4 / n).
            spread = 6 * bound**2 * (4 / 45 / weight.numel()) ** 0.5
            assert abs(float(state[name].double().square().mean()) - bound**2 / 3) < spread
            assert abs(float(weight.double().square().mean()) - bound**2 / 3) < spread
    settings = [model.peft_config["default"] for model in (ours, theirs)]
    assert [(each.r, each.lora_alpha, each.use_rslora) for each in settings] == [(8, 12, False)] * 2


def test_new_adapters_of_one_tribe_have_nothing_in_common(base: Base) -> None:
    def numbers(name: str, seed: int) -> Tensor:
        weights = new_adapter(name, base.decoder, 8, 16.0, seed, base.name).weights
        return torch.cat([a.flatten() for a, _ in weights.values()])

    ada = numbers("ada", 0)
    assert len(ada.unique()) > 0.99 * len(ada)  # neither modules nor rows repeat each other
    assert torch.equal(ada, numbers("ada", 0))
    for other in (numbers("ben", 0), numbers("ada", 1)):
        assert torch.corrcoef(torch.stack([ada, other]))[0, 1].abs() < 0.05
