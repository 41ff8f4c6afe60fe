"""From settings to sizes: what is filled in, what stands, what is refused, and what a warm-up corrects."""

from __future__ import annotations

import json
import re
import shutil
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen2Config

from sparta_lite.campaign import loop
from sparta_lite.campaign.config import load_config
from sparta_lite.campaign.events import Event, Planned, read_events
from sparta_lite.campaign.plan_text import summary
from sparta_lite.campaign.planning import (
    duration,
    is_planned,
    parse_memory,
    planned,
    with_sizes_of,
)
from sparta_lite.campaign.resident import choose, load_resident
from sparta_lite.campaign.settings import SIZES, Config
from sparta_lite.campaign.tribe import find_tribe
from sparta_lite.campaign.warming import warm_up
from sparta_lite.engine import hub
from sparta_lite.engine.bank import Bank
from sparta_lite.engine.base import Base, load_base
from sparta_lite.engine.chat import Chat
from sparta_lite.engine.model import Decoder
from sparta_lite.engine.peft_io import load_bank, read_adapter
from sparta_lite.engine.plan import Plan
from sparta_lite.errors import SpartaError
from sparta_lite.pocket import base_path, items

from ..engine.families import family
from ..engine.models import save_model

OWN = ["data.path=x.jsonl", "data.column=question"]


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory, adapter_paths: dict[str, Path]) -> Path:
    """A 7B base and three adapters of which only the configuration files are there."""
    root = tmp_path_factory.mktemp("bare")
    Qwen2Config(
        vocab_size=152064,
        hidden_size=3584,
        intermediate_size=18944,
        num_hidden_layers=28,
        num_attention_heads=28,
        num_key_value_heads=4,
        max_position_embeddings=32768,
    ).save_pretrained(root / "base")
    for name, path in adapter_paths.items():
        (root / "tribe" / name).mkdir(parents=True)
        shutil.copy(path / "adapter_config.json", root / "tribe" / name)
    return root


def config_of(bare: Path, *sets: str) -> Config:
    return load_config(None, [f"base={bare / 'base'}", f"tribe.adapters={bare / 'tribe'}", *OWN, *sets])


def sizes(config: Config) -> dict[str, Any]:
    return {
        "places": config.generation.places,
        "batch_tokens": config.batch_tokens,
        "micro_batch": config.training.micro_batch,
        "adapters_at_once": config.training.adapters_at_once,
        "checkpointing": config.training.checkpointing,
        "resident": config.tribe.resident,
    }


def test_open_sizes_are_filled_in_and_given_ones_stand(tiny_config: Path) -> None:
    asked = load_config(tiny_config)
    assert not is_planned(asked)
    made, config = planned(asked, choose(asked))
    assert sizes(config) == vars(made.sizes)
    assert sizes(config) == {
        "places": 8,
        "batch_tokens": 2048,
        "micro_batch": 1,
        "adapters_at_once": 3,
        "checkpointing": False,
        "resident": 3,
    }
    assert is_planned(config)
    assert planned(config, choose(config))[1] == config
    assert with_sizes_of(asked, config) == config
    assert with_sizes_of(load_config(tiny_config, ["generation.places=9"]), config) != config
    assert set(SIZES) == set(vars(made.sizes))


def test_the_pocket_tribe_keeps_its_own_sizes() -> None:
    pocket = load_config(None)
    made, config = planned(pocket, choose(pocket))
    own = {name: size for name, size in sizes(pocket).items() if size is not None}
    assert own == {name: size for name, size in sizes(config).items() if name != "resident"}
    assert config.tribe.resident == made.work.adapters == 10
    assert len(summary(made)) <= 2 + len(made.machine.notes)


def test_a_card_that_is_not_here(bare: Path) -> None:
    made, config = planned(config_of(bare, "vram=24GB"), None)
    assert made.machine.memory == 24 * 10**9
    assert made.machine.kind == "cuda"
    assert made.needed <= 24 * 10**9
    assert made.work.four_bit
    assert made.weights / 1e9 == pytest.approx(5.55, abs=0.005)
    assert is_planned(config)
    plain = planned(config_of(bare, "vram=48GB", "quantization=none"), None)[0]
    assert plain.weights == 2 * 7_615_616_512
    with pytest.raises(SpartaError, match="give vram"):
        planned(config_of(bare), None)


def test_a_refusal_names_settings_that_would_fit(bare: Path) -> None:
    asked = config_of(bare, "vram=12GB", "quantization=none", "generation.places=200")
    with pytest.raises(SpartaError) as refused:
        planned(asked, None)
    message = str(refused.value)
    assert "\n" not in message
    assert "12.00 GB" in message
    advice = re.search(r"it would fit with (.*)", message)
    assert advice is not None
    changes = advice[1].split()
    assert "quantization=nf4" in changes
    assert planned(config_of(bare, "vram=12GB", *changes), None)[0].fits
    for each in changes:  # none of them is idle
        fewer = [other for other in changes if other != each]
        left = [
            size
            for size in ("quantization=none", "generation.places=200")
            if size.split("=")[0] not in str(fewer)
        ]
        with pytest.raises(SpartaError, match="would fit"):
            planned(config_of(bare, "vram=12GB", *left, *fewer), None)
    with pytest.raises(SpartaError, match="use a smaller base"):
        planned(config_of(bare, "vram=4GB"), None)


def test_only_configuration_files_come_from_the_hub(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, tuple[str, ...]]] = []

    def download(repository: str, patterns: tuple[str, ...]) -> Path:
        asked.append((repository, tuple(patterns)))
        return bare / "base" if repository == "owner/base" else bare / "tribe" / "ada"

    monkeypatch.setattr(hub, "download", download)
    adapters = "{a: owner/a, b: owner/b, c: owner/c}"
    config = load_config(None, ["base=owner/base", f"tribe.adapters={adapters}", *OWN, "vram=24GB"])
    assert planned(config, None)[0].work.adapters == 3
    assert {patterns for _, patterns in asked} == {("config.json",), ("adapter_config.json",)}
    assert {name for name, _ in asked} == {"owner/base", "owner/a", "owner/b", "owner/c"}


def test_broken_adapter_configuration_is_named(bare: Path, tmp_path: Path) -> None:
    shutil.copytree(bare / "tribe", tmp_path / "tribe")
    (tmp_path / "tribe" / "ben" / "adapter_config.json").write_text("{}")
    config = load_config(None, [f"base={bare / 'base'}", f"tribe.adapters={tmp_path / 'tribe'}", *OWN])
    with pytest.raises(SpartaError, match=r"adapter 'ben'.*r and target_modules"):
        planned(config, choose(config))


def test_ranks_that_differ_by_module_are_planned_as_the_bank_pads_them(
    base_path: Path, adapter_paths: dict[str, Path], tmp_path: Path
) -> None:
    """``r`` alone says little where a pattern goes beyond it, or where no module has it."""
    model = AutoModelForCausalLM.from_pretrained(base_path)
    lora = LoraConfig(
        r=2,
        target_modules=["o_proj", "up_proj"],
        layers_to_transform=[1],
        rank_pattern={"o_proj": 24, "up_proj": 1},
        task_type="CAUSAL_LM",
    )
    get_peft_model(model, lora).save_pretrained(tmp_path / "dan")
    places = {"dan": tmp_path / "dan", "ben": adapter_paths["ben"], "cyd": adapter_paths["cyd"]}
    adapters = ", ".join(f"{name}: {path}" for name, path in places.items())
    config = load_config(None, [f"base={base_path}", f"tribe.adapters={{{adapters}}}", *OWN])
    made, _ = planned(config, choose(config))
    decoder = load_base(base_path, torch.device("cpu")).decoder
    bank = load_bank(decoder, [read_adapter(name, path) for name, path in places.items()])
    assert bank.rank == 24
    assert 3 * made.work.adapter == sum(tensor.numel() for _, tensor in bank.tensors())


def test_an_adapter_of_another_base_is_refused_before_anything_is_loaded(bare: Path, tmp_path: Path) -> None:
    shutil.copytree(bare / "tribe", tmp_path / "tribe")
    place = tmp_path / "tribe" / "ben" / "adapter_config.json"
    place.write_text(json.dumps({**json.loads(place.read_text()), "target_modules": ["c_attn"]}))
    config = load_config(None, [f"base={bare / 'base'}", f"tribe.adapters={tmp_path / 'tribe'}", *OWN])
    with pytest.raises(SpartaError, match=r"adapter 'ben' in .*: the base has none of its target_modules"):
        planned(config, choose(config))


def test_memory_as_people_write_it() -> None:
    assert parse_memory("24GB") == 24 * 10**9
    assert parse_memory(" 22.5 gib ") == int(22.5 * 2**30)
    assert parse_memory("800MB") == 8 * 10**8
    for wrong in ("24", "GB", "0GB", "-1GB", "1e3GB", "24 TB", ""):
        with pytest.raises(SpartaError, match="24GB"):
            parse_memory(wrong)
    assert [duration(each) for each in (0.2, 90, 600, 7200)] == ["1 s", "90 s", "10 min", "2.0 h"]


def test_what_is_usual_at_home_is_what_the_embedded_questions_are() -> None:
    """In the embedded tokenizer; an answer has an end that a judge does not read."""
    made, config = planned(load_config(None), choose(load_config(None)))
    tokenizer = AutoTokenizer.from_pretrained(base_path())
    chat = Chat(tokenizer, None, config.judge.layout, config.judge.wording, False)
    found = items("duel", 300)
    answers = [tokenizer(item.answer).input_ids for item in found]
    questions = mean(len(chat.question(item.question, 1024).ids) for item in found)
    prompts = [chat.judge(item.question, answer, 2048) for item, answer in zip(found, answers, strict=True)]
    usual = made.work.usual
    assert usual is not None
    assert usual.question == round(questions)
    assert usual.answer == round(mean(map(len, answers)) + 1)
    read = mean(len(prompt.ids) for prompt in prompts if prompt is not None)
    assert usual.request == round(read - questions - mean(map(len, answers)))
    for changed in (["judge.mode=sampled"], ["data.task=gsm8k"]):
        config = load_config(None, changed)
        assert planned(config, choose(config))[0].work.usual is None


def test_a_run_that_cannot_fit_ends_before_anything_is_loaded(
    tiny_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "load_inputs", lambda *_: pytest.fail("it was loaded"))
    with pytest.raises(SpartaError, match="plan: needs"):
        loop.run(load_config(tiny_config, ["vram=1MB"]), tmp_path / "run", False, lambda event: None)
    assert not (tmp_path / "run" / "run.json").exists()


def test_a_run_tells_its_plan_and_resumes_with_its_sizes(
    tiny_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Event] = []
    sets = ["iterations=1", "duels=3", "evaluation.items=0"]
    config = load_config(tiny_config, sets)
    loop.run(config, tmp_path / "run", False, told.append)
    assert isinstance(told[0], Planned)
    assert told[0].lines[0].startswith("CPU: ")  # sizes were left open: the whole table
    assert any(line.startswith("  batch_tokens: ") for line in told[0].lines)
    assert max(told[0].memory.values()) <= told[0].available
    needed, *_, where = told[0].brief  # between them what a busy machine makes uncertain
    assert f"needs {max(told[0].memory.values()) / 1e9:.2f} GB of " in needed
    assert told[0].lines[-1].split("roughly ")[1] == needed.split("roughly ")[1]
    assert f"`sparta-lite plan {tmp_path / 'run' / 'config.yaml'}`" in where
    events = tmp_path / "run" / "events.jsonl"
    assert read_events(events.read_bytes(), events)[0] == told[0]
    recorded = load_config(tmp_path / "run" / "config.yaml")
    assert is_planned(recorded)
    assert with_sizes_of(config, recorded) == recorded

    monkeypatch.setattr(loop, "planned", lambda *_: pytest.fail("it was planned again"))
    for again in (config, recorded):
        loop.run(again, tmp_path / "run", True, told.append)
    with pytest.raises(SpartaError, match="other settings"):
        loop.run(
            load_config(tiny_config, [*sets, "generation.places=2"]), tmp_path / "run", True, told.append
        )


class Live(TorchDispatchMode):
    """Bytes of the storages that operations inside it made and that are still alive, and their peak."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.sizes: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        before = {
            each.untyped_storage()._cdata for each in tree_leaves((args, kwargs)) if torch.is_tensor(each)
        }
        for each in tree_leaves(out):
            if torch.is_tensor(each) and each.untyped_storage()._cdata not in {*before, *self.sizes}:
                storage = each.untyped_storage()
                self.sizes[storage._cdata] = storage.nbytes()
                self.now += storage.nbytes()
                self.peak = max(self.peak, self.now)
                weakref.finalize(storage, self._gone, storage._cdata)
        return out

    def _gone(self, key: int) -> None:
        self.now -= self.sizes.pop(key)


Warm = tuple[Base, Bank, Config, Plan]


WIDER = {"hidden_size": 64, "intermediate_size": 128, "max_position_embeddings": 512}
OTHERS: dict[str, tuple[str, dict[str, Any]]] = {
    # In the proportions of Qwen3.5, and with attention between, whose mask lives on.
    "delta rule": (
        "qwen3_5_text",
        {
            "num_hidden_layers": 3,
            "layer_types": ["linear_attention", "full_attention", "linear_attention"],
            "linear_key_head_dim": 16,
            "linear_value_head_dim": 16,
        },
    ),
    # In the last layer, which computes few states, there is nothing beside the masks.
    "windows": (
        "qwen2",
        {
            "num_hidden_layers": 3,
            "use_sliding_window": True,
            "sliding_window": 30,
            "max_window_layers": 1,
        },
    ),
    "capped": ("gemma2", {"sliding_window": 30}),
}
"""Bases that keep or compute something else than full attention does: family, and what is changed of it."""


@pytest.fixture(
    scope="module",
    params=["kept", "recomputed", *(f"{how}, {what}" for what in OTHERS for how in ("kept", "recomputed"))],
)
def warm(request: pytest.FixtureRequest, base_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Warm:
    """Batches large beside the weights, as on a card."""
    how, _, other = request.param.partition(", ")
    if other:
        kind, changes = OTHERS[other]
        base_path = save_model(family(kind, **WIDER, **changes), tmp_path_factory.mktemp("base"), base_path)
    sets = [
        f"base={base_path}",
        "tribe.adapters=fresh-4",
        *OWN,
        "quantization=none",
        "device=cpu",
        "generation.max_prompt_tokens=200",
        "generation.max_new_tokens=100",
        "training.max_length=200",
        "training.max_prompt=100",
        "judge.max_tokens=400",
        "generation.places=24",
        "batch_tokens=4000",
        "training.micro_batch=2",
        f"training.checkpointing={'false' if how == 'kept' else 'true'}",
    ]
    asked = load_config(None, sets)
    choices = choose(asked)
    made, config = planned(asked, choices)
    resident = load_resident(config, choices, find_tribe(config), training=True)
    return resident.base, resident.bank, asked, made


def test_the_plan_is_near_what_the_phases_really_take(warm: Warm) -> None:
    """Storages are counted as they come and go; on a card the allocator counts the same."""
    base, bank, config, made = warm
    standing = made.weights + sum(tensor.nbytes for _, tensor in bank.tensors())
    before = bank.snapshot()
    peaks: list[int] = []

    def meter(work: Callable[[], object]) -> int:
        with Live() as live:
            work()
        peaks.append(standing + live.peak)
        return peaks[-1]

    corrected, filled = warm_up(base, bank, config, made, meter)
    assert len(peaks) == 3
    for name, tensor in bank.tensors():
        assert torch.equal(tensor, before[name])
        assert tensor.grad is None
    generate, judge, train = (phase.memory + made.weights for phase in made.phases[:3])
    assert peaks[0] < generate
    assert peaks[1] == pytest.approx(judge, rel=0.1)
    assert peaks[2] == pytest.approx(train - made.phases[2].parts["optimizer"], rel=0.2)
    assert is_planned(filled)
    assert all(1 < factor < 1.2 for factor in corrected.work.factors.values())


def test_a_phase_that_takes_more_gets_a_smaller_batch(warm: Warm) -> None:
    base, bank, _, made = warm
    tight = replace(made.machine, memory=made.needed + 10**7)
    open_sizes = load_config(None, ["base=" + str(base.name), "tribe.adapters=fresh-4", *OWN])
    start = replace(made, machine=tight, given={})

    def meter(work: Callable[[], object]) -> int | None:
        work()
        return next(readings)

    readings = iter([0, 0, 0])
    same, config = warm_up(base, bank, open_sizes, start, meter)
    assert same is start
    assert sizes(config) == vars(start.sizes)
    readings = iter([0, None, 0])  # judging did not fit at all: so it is planned to take twice as much
    less, config = warm_up(base, bank, open_sizes, start, meter)
    assert less.work.factors == {"judge": 2.0}
    assert sizes(config) == vars(less.sizes)
    assert json.dumps(sizes(config))


def test_what_fits_after_shrinking_alone_has_not_fitted(warm: Warm, monkeypatch: pytest.MonkeyPatch) -> None:
    base, bank, config, made = warm

    def full(decoder: Decoder, places: int, capacity: int) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    def meter(work: Callable[[], object]) -> int | None:
        try:
            work()
        except torch.OutOfMemoryError:
            return None
        return 0

    monkeypatch.setattr("sparta_lite.engine.warm.Cache", full)
    assert made.sizes.places > 1
    corrected, _ = warm_up(base, bank, config, made, meter)
    assert corrected.work.factors["generate"] == 2.0


def test_a_card_that_is_here_is_asked_for_its_memory(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA GeForce RTX 4090")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (20 * 10**9, 24 * 10**9))
    asked = config_of(bare)
    choices = replace(choose(asked), device=torch.device("cuda"), dtype=torch.bfloat16)
    machine = planned(asked, choices)[0].machine
    assert (machine.name, machine.memory) == ("NVIDIA GeForce RTX 4090", 20 * 10**9)
    capped = planned(config_of(bare, "vram=16GB"), choices)[0]
    assert capped.machine.memory == 16 * 10**9
    assert capped.work.number == 2


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device; torch sees none")
def test_a_warm_up_on_a_card(tiny_config: Path) -> None:
    asked = load_config(tiny_config, ["device=cuda", "quantization=none", "training.trainer=tribe"])
    choices = choose(asked)
    made, config = planned(asked, choices)
    resident = load_resident(config, choices, find_tribe(config), training=True)
    before = resident.bank.snapshot()
    warmed, config = warm_up(resident.base, resident.bank, asked, made)
    assert is_planned(config)
    assert warmed.fits
    for name, tensor in resident.bank.tensors():
        assert torch.equal(tensor, before[name])
