"""One adapter of every kind that PEFT makes, and what PEFT itself computes with it."""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import bitsandbytes
import pytest
import torch
from peft import (
    BdLoraConfig,
    EvaConfig,
    IA3Config,
    LoftQConfig,
    LoHaConfig,
    LoraConfig,
    LoraGAConfig,
    PeftModel,
    get_peft_model,
    initialize_lora_eva_weights,
    save_as_lora,
)
from peft.tuners.lora.config import CordaConfig, KasaConfig, MontecloraConfig, VeloraConfig
from peft.tuners.lora.corda import preprocess_corda
from peft.tuners.lora.loraga import preprocess_loraga
from torch import Tensor
from transformers import AutoModelForCausalLM

from sparta_lite.engine.bank import Bank
from sparta_lite.engine.base import Base
from sparta_lite.engine.likelihood import Continuation, log_probabilities

IDS = (72, 101, 108, 108, 111, 256, 10, 33, 7, 200, 32, 65)
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
USUAL: dict[str, Any] = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj", "down_proj"]}

Make = Callable[[Path, Path], Any]
"""(base, directory of the adapter) -> the PEFT model that was saved there."""


@dataclass(frozen=True)
class Kind:
    make: Make
    residual: bool = False
    """Whether the base is the one that making it has left, and not the one it was made from."""
    reloaded: bool = False
    """Whether what PEFT makes of the file is asked, which is not what the saved model was."""


@dataclass(frozen=True)
class Made:
    path: Path
    base: Path
    logprobs: Tensor
    """log p of every token of ``IDS`` but the first, by PEFT, on that base."""


def logprobs_of(model: Any) -> Tensor:
    """log p of every token of ``IDS`` but the first."""
    model.eval()
    with torch.no_grad():
        logits = model(torch.tensor([IDS])).logits[0, :-1]
    found: Tensor = logits.log_softmax(-1).gather(1, torch.tensor(IDS[1:])[:, None])[:, 0]
    return found


def peft_logprobs(base_path: Path, adapter: Path) -> Tensor:
    return logprobs_of(PeftModel.from_pretrained(load(base_path), adapter))


def our_logprobs(base: Base, bank: Bank, name: str | None) -> Tensor:
    return log_probabilities(base, bank, [Continuation(name, IDS[:1], IDS[1:])], 64)[0]


def load(base: Path) -> Any:
    """The model in ``base``, each time another."""
    return copy.deepcopy(_loaded(base))


@cache
def _loaded(base: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(base)


def learn(model: Any, seed: int = 0) -> Any:
    """What training would do: all that is trained moves, by a fifth of its spread or so."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if "lora_" in name or parameter.requires_grad:
            far = 0.2 * float(parameter.data.std().nan_to_num()) if parameter.data.any() else 0.05
            parameter.data += torch.randn(parameter.shape, generator=generator) * far
    return model


def plain(**settings: Any) -> Kind:
    """LoRA as ``LoraConfig(**settings)`` makes it."""
    return Kind(made_by(**settings))


def made_by(prepare: Callable[[Any, Any], None] | None = None, **settings: Any) -> Make:
    def make(base: Path, out: Path) -> Any:
        given, model = {**USUAL, **settings}, load(base)
        config = LoraConfig(task_type="CAUSAL_LM", **given)
        if prepare is not None:
            prepare(model, config)
        model = get_peft_model(model, config)
        if given.get("init_lora_weights") == "eva":
            batches = [{"input_ids": torch.arange(24).view(2, 12) + 7 * step} for step in range(6)]
            for batch in batches:
                batch["labels"] = batch["input_ids"]
            initialize_lora_eva_weights(model, batches, show_progress_bar=False)
        learn(model)
        model.save_pretrained(out)
        return model

    return make


def with_activations(model: Any, config: Any) -> None:
    def run() -> None:
        for first in range(0, 300, 12):
            model(torch.arange(first, first + 64)[None] % 320)

    preprocess_corda(model, config, run_model=run)


def with_gradients(model: Any, config: Any) -> None:
    def step() -> None:
        ids = torch.randint(320, (8, 32), generator=torch.Generator().manual_seed(0))
        model(ids, labels=ids).loss.backward()

    preprocess_loraga(model, config, step)


def converted(base: Path, out: Path) -> Any:
    """PiSSA saved as it is, then as what it changes of the untouched base: the way of docs/adapters.md."""
    place = out.parent / f"{out.name}-pissa"
    trained = made_by(init_lora_weights="pissa")(base, place)
    start = get_peft_model(load(base), LoraConfig.from_pretrained(place, inference_mode=False))
    start.peft_config["default"].init_lora_weights = True
    start.save_pretrained(out.parent / "start")
    model = PeftModel.from_pretrained(load(base), place)
    model.save_pretrained(out, path_initial_model_for_weight_conversion=str(out.parent / "start"))
    return trained


def summed(**how: Any) -> Make:
    """Two adapters added up by PEFT, whose own file of it is read."""

    def make(base: Path, out: Path) -> Any:
        model = None
        for number, name in enumerate(("one", "two")):
            path = out.parent / f"{out.name}-{name}"
            made_by(r=4 + number)(base, path)
            if model is None:
                model = PeftModel.from_pretrained(load(base), path, adapter_name=name)
            else:
                model.load_adapter(path, adapter_name=name)
        assert model is not None
        model.add_weighted_adapter(["one", "two"], [0.7, -0.4], "sum", **how)
        model.set_adapter("sum")
        model.save_pretrained(out.parent / f"{out.name}-all", selected_adapters=["sum"])
        (out.parent / f"{out.name}-all" / "sum").rename(out)
        return model

    return make


def as_lora(base: Path, out: Path) -> Any:
    """LoHa that PEFT has made LoRA of; at full rank nothing is lost."""
    model = learn(get_peft_model(load(base), LoHaConfig(target_modules=["q_proj", "k_proj"], r=4)))
    save_as_lora(out, model, rank=32)
    return model


def other_method(base: Path, out: Path) -> Any:
    model = get_peft_model(load(base), IA3Config(target_modules=["k_proj"], feedforward_modules=[]))
    model.save_pretrained(out)
    return model


def with_copies(base: Path, out: Path) -> Any:
    model = made_by()(base, out)
    model.save_pretrained(out, save_embedding_layers=True)
    return model


def edited(**changes: Any) -> Make:
    """Settings of which PEFT makes no adapter here: they stand in a plain one's file."""

    def make(base: Path, out: Path) -> Any:
        model = made_by()(base, out)
        edit(out, **changes)
        return model

    return make


def edit(path: Path, **changes: Any) -> None:
    config = json.loads((path / CONFIG).read_text())
    (path / CONFIG).write_text(json.dumps({**config, **changes}))


@contextmanager
def cpu_for_cuda() -> Iterator[None]:
    """PEFT makes LoftQ on a CUDA device alone; what it asks for there is done here."""
    tensors, weights = torch.Tensor.to, bitsandbytes.nn.Params4bit.to

    def here(call: Any) -> Any:
        def to(self: Any, *args: Any, **named: Any) -> Any:
            named = {key: "cpu" if value == "cuda" else value for key, value in named.items()}
            return call(self, *("cpu" if value == "cuda" else value for value in args), **named)

        return to

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "to", here(tensors))
        patch.setattr(bitsandbytes.nn.Params4bit, "to", here(weights))
        yield


def loftq(steps: int) -> Make:
    def make(base: Path, out: Path) -> Any:
        config: Any = LoftQConfig(loftq_bits=4, loftq_iter=steps)
        with cpu_for_cuda():
            return made_by(init_lora_weights="loftq", loftq_config=config)(base, out)

    return make


BLOCKS = BdLoraConfig(target_modules_bd_a=["down_proj"], target_modules_bd_b=["q_proj", "v_proj"], nblocks=2)
PISSA = made_by(init_lora_weights="pissa")
FASTER = made_by(init_lora_weights="pissa_niter_4")
OLORA = made_by(init_lora_weights="olora", lora_alpha=4)
STEEP = made_by(init_lora_weights="olora", lora_alpha=8)
CORDA = made_by(with_activations, init_lora_weights="corda", corda_config=CordaConfig(corda_method="kpm"))
LORA_GA = made_by(with_gradients, init_lora_weights="lora_ga", lora_ga_config=LoraGAConfig(), lora_alpha=16)
EVA: dict[str, Any] = {"init_lora_weights": "eva", "eva_config": EvaConfig(rho=2.0)}

KINDS: dict[str, Kind] = {
    "plain LoRA": plain(),
    "`target_modules: all-linear`": plain(target_modules="all-linear"),
    "`target_modules`, an expression": plain(target_modules=r".*layers\.1\..*(k|o|up)_proj"),
    "`exclude_modules`": plain(target_modules="all-linear", exclude_modules=["o_proj"]),
    "`exclude_modules`, an expression": plain(
        target_modules="all-linear", exclude_modules=r".*\.(0\.mlp|1\.self_attn)\..*"
    ),
    "`layers_to_transform`": plain(layers_to_transform=[1]),
    "`layers_pattern`": plain(layers_to_transform=[0], layers_pattern="layers"),
    "rank-stabilised (rsLoRA)": plain(use_rslora=True, r=16, lora_alpha=16),
    "`rank_pattern`": plain(rank_pattern={"q_proj": 2, r".*\.1\.mlp\..*": 9}),
    "`alpha_pattern`": plain(alpha_pattern={"v_proj": 3.5, "model.layers.0.mlp.down_proj": 40}),
    "`alpha_pattern`, keys that overlap": Kind(
        made_by(alpha_pattern={"q_proj": 4, "model.layers.0.self_attn.q_proj": 64}), reloaded=True
    ),
    "patterns, rank-stabilised": plain(
        use_rslora=True, rank_pattern={"down_proj": 16, "v_proj": 1}, alpha_pattern={"^model.layers.0.*": 3}
    ),
    "`init_lora_weights: false`": plain(init_lora_weights=False),
    "`init_lora_weights: gaussian`": plain(init_lora_weights="gaussian"),
    "`init_lora_weights: orthogonal`": plain(init_lora_weights="orthogonal"),
    "EVA": plain(**EVA),
    "EVA, rank-stabilised": plain(**EVA, use_rslora=True),
    "MiCA": plain(init_lora_weights="mica"),
    "VeLoRA": plain(velora_config=VeloraConfig(num_groups=8)),
    "MonteCLoRA": plain(monteclora_config=MontecloraConfig()),
    "`use_qalora` over layers that are not GPTQ's": plain(use_qalora=True),
    "`fan_in_fan_out`, `lora_dropout`": plain(fan_in_fan_out=True, lora_dropout=0.1),
    "`add_weighted_adapter`, any `combination_type`": Kind(summed(combination_type="cat"), reloaded=True),
    "another method, made LoRA by `save_as_lora`": Kind(as_lora, reloaded=True),
    "PiSSA, converted": Kind(converted),
    "PiSSA on its residual base": Kind(PISSA, residual=True),
    "PiSSA (`pissa_niter_4`) on its residual base": Kind(FASTER, residual=True),
    "PiSSA on the untouched base": Kind(PISSA),
    "OLoRA on its residual base": Kind(OLORA, residual=True),
    "OLoRA, alpha twice the rank, on its residual base": Kind(STEEP, residual=True),
    "OLoRA on the untouched base": Kind(OLORA),
    "CorDA on its residual base": Kind(CORDA, residual=True),
    "CorDA on the untouched base": Kind(CORDA),
    "LoRA-GA on its residual base": Kind(LORA_GA, residual=True),
    "LoRA-GA on the untouched base": Kind(LORA_GA),
    "LoftQ on its rounded base": Kind(loftq(1), residual=True),
    "LoftQ, in five steps, on its rounded base": Kind(loftq(5), residual=True),
    "LoftQ on the untouched base, unquantised": Kind(loftq(1)),
    "DoRA": plain(use_dora=True),
    "`bias`": plain(bias="lora_only"),
    "`lora_bias`": plain(lora_bias=True),
    "`modules_to_save`": plain(modules_to_save=["lm_head"]),
    "`trainable_token_indices`": plain(trainable_token_indices=[1, 2]),
    "an adapter of `lm_head`": plain(target_modules=["q_proj", "lm_head"]),
    "an adapter of the embedding": plain(target_modules=["q_proj", "embed_tokens"]),
    "both tied (`ensure_weight_tying`)": plain(
        target_modules=["q_proj", "embed_tokens"], ensure_weight_tying=True
    ),
    "copies of `lm_head` and embedding (`save_embedding_layers`)": Kind(with_copies),
    "`target_parameters`": plain(target_modules=["v_proj"], target_parameters=["self_attn.q_proj.weight"]),
    "activated LoRA (aLoRA)": plain(alora_invocation_tokens=[1, 2]),
    "`layer_replication`": Kind(edited(layer_replication=[[0, 2], [1, 2]])),
    "BD-LoRA": plain(use_bdlora=BLOCKS),
    "KaSA": plain(kasa_config=KasaConfig()),
    "Arrow": Kind(edited(arrow_config={"top_k": 2})),
    "Megatron": Kind(edited(megatron_config={"hidden_size": 64})),
    "an unknown `init_lora_weights`": Kind(edited(init_lora_weights="new")),
    "an unknown setting that says something": Kind(edited(use_new_idea=True)),
    "an unknown setting that is empty, or tells of the making": Kind(
        edited(use_new_idea=False, new_config=None, unsloth_version="2026.10.1", train_seed=3)
    ),
    "IA3, AdaLoRA, VeRA, ...": Kind(other_method),
}


def make(name: str, base: Path, root: Path) -> Made:
    """Make the kind ``name`` from ``base`` into a new directory of ``root``."""
    kind = KINDS[name]
    place = root / str(list(KINDS).index(name))
    place.mkdir(parents=True)
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT's advice on kinds that are made only to be refused
        torch.manual_seed(0)
        model = kind.make(base, place / "adapter")
        found = peft_logprobs(base, place / "adapter") if kind.reloaded else logprobs_of(model)
    if kind.residual:
        model.unload().save_pretrained(place / "base")
        for file in base.iterdir():
            if not (place / "base" / file.name).exists():
                (place / "base" / file.name).write_bytes(file.read_bytes())
    return Made(place / "adapter", place / "base" if kind.residual else base, found)
