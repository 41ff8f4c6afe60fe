"""``engine.unpack``: when the plan takes it, what a run records of it, and that a resumed run keeps it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml

from sparta_lite.campaign.config import load_config
from sparta_lite.campaign.keeping import base_key
from sparta_lite.campaign.loop import run
from sparta_lite.campaign.plan_text import table
from sparta_lite.campaign.planning import planned, with_sizes_of, without_sizes
from sparta_lite.campaign.resident import Choices, choose, held_here, unpacked
from sparta_lite.campaign.settings import Config
from sparta_lite.campaign.store import Store
from sparta_lite.campaign.trainers import overtaken
from sparta_lite.engine.pace import whole
from sparta_lite.engine.plan import Plan, corrected
from sparta_lite.errors import SpartaError
from sparta_lite.files import read_lines
from sparta_lite.outcome import evaluation, talking
from sparta_lite.outcome.audit import auditing
from sparta_lite.outcome.finished import open_run

LINEARS = 28 * (2 * 3584 * 3584 + 2 * 3584 * 512 + 3 * 3584 * 18944)
"""Numbers in the linear layers of the 7B base."""


def paper(*sets: str) -> Config:
    example = Path(__file__).parents[2] / "examples/qwen2.5-7b-gsm8k.yaml"
    return load_config(example, ["tribe.adapters=fresh-10", "training.trainer=tribe", *sets])


def made(*sets: str) -> tuple[Plan, Config]:
    return planned(paper(*sets), None, planning=True)


@pytest.mark.parametrize(
    ("vram", "taken"), [("16GB", False), ("24GB", False), ("48GB", True), ("80GB", True)]
)
def test_a_plan_unpacks_with_memory_to_spare(vram: str, taken: bool) -> None:
    plan, config = made(f"vram={vram}")
    assert config.engine.unpack is taken
    off, on = (made(f"vram={vram}", f"engine.unpack={each}")[0] for each in ("off", "on" if taken else "off"))
    assert plan.fits
    assert plan.sizes == (on if taken else off).sizes
    assert not taken or whole(on) < whole(off)
    # By hand: 16 bits a number for 4 and its scales, 8 bits for 64 and 32 for 256 of these.
    less = LINEARS // 2 + LINEARS // 64 + 4 * (LINEARS // 64 // 256)
    assert plan.weights - off.weights == (2 * LINEARS - less if taken else 0)
    said = "4 bits, unpacked to 16, 15.23 GB" if taken else "4 bits, 5.55 GB"
    assert said in table(plan, config)[1]


def test_where_nothing_is_in_four_bits_nothing_is_unpacked() -> None:
    for word in ("auto", "on", "off"):
        plan, _ = made("vram=80GB", "quantization=none", f"engine.unpack={word}")
        assert not plan.work.unpacked
        assert "in 16 bits" in table(plan, paper())[1]


def test_what_does_not_fit_unpacked_is_told_to_stay_packed() -> None:
    with pytest.raises(SpartaError, match=r"would fit with .*engine\.unpack=false"):
        made("vram=16GB", "engine.unpack=on")


@pytest.mark.parametrize("word", ["on", "true", "yes"])
def test_a_switch_is_on_or_off_or_open(word: str) -> None:
    assert paper(f"engine.unpack={word}").engine.unpack is True
    for text in ("auto", "null"):
        config = paper(f"engine.unpack={text}", f"training.reuse_logprobs={text}")
        assert config.engine.unpack is config.training.reuse_logprobs is None
    with pytest.raises(
        SpartaError, match=r"engine\.unpack is 'perhaps'; it should be true or false, or null"
    ):
        paper("engine.unpack=perhaps")


def test_unsloth_trains_over_its_own_four_bits() -> None:
    assert not made("vram=80GB", "training.trainer=unsloth")[0].work.unpacked
    with pytest.raises(SpartaError, match=r"engine\.unpack: unsloth trains over"):
        made("vram=80GB", "training.trainer=unsloth", "engine.unpack=on")


def test_a_warm_up_leaves_the_base_as_it_was_loaded() -> None:
    plan, _ = made("vram=80GB")
    tight = corrected(plan, {"train": 2.0, "generate": 3.0})
    assert tight.work.unpacked
    assert tight.weights == plan.weights
    overtaken(tight)  # which plans for Unsloth, over 4 bits


def test_a_processor_stays_packed_unless_it_is_asked(tiny_config: Path) -> None:
    for sets, taken in (([], False), (["engine.unpack=on"], True)):
        config = load_config(tiny_config, ["quantization=nf4", *sets])
        _, settled = planned(config, choose(config))
        assert settled.engine.unpack is taken


def test_two_runs_share_a_base_that_is_held_alike(tiny_config: Path) -> None:
    choices = Choices(torch.device("cpu"), torch.float32, "tribe", {})
    keys = [
        base_key(load_config(tiny_config, [f"engine.unpack={each}"]), choices)
        for each in ("on", "off", "auto")
    ]
    assert keys[0] != keys[1] == keys[2]


def test_a_run_unpacks_records_it_and_goes_on_so(
    tiny_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside a run that does not: the same duels, answers and pairs."""
    runs: dict[bool, Store] = {}
    for taken in (True, False):
        small = ["quantization=nf4", "iterations=1", "duels=6", f"engine.unpack={taken}"]
        runs[taken] = store = Store(tmp_path / f"{taken}")
        run(load_config(tiny_config, small), store.root, False, lambda event: None)
        recorded: Any = yaml.safe_load(store.config.read_text())
        assert recorded["engine"]["unpack"] is taken
        assert store.read_run().choices.get("weights") == ("4 bits, unpacked to float32" if taken else None)
    answers = [
        [[each["ids"] for each in duel["responses"]] for duel in read_lines(store.duels(0))]
        for store in runs.values()
    ]
    assert answers[0] == answers[1]
    scores = [[row["scores"] for row in read_lines(store.judgments(0))] for store in runs.values()]
    for one, other in zip(*scores, strict=True):
        assert one == pytest.approx(other, abs=1e-4)

    asked = load_config(tiny_config, ["quantization=nf4", "iterations=1", "duels=6"])
    recorded = load_config(runs[True].config, [], None)
    assert with_sizes_of(asked, recorded) == recorded
    assert without_sizes(recorded) == without_sizes(load_config(runs[False].config, [], None))

    unpacked = open_run(runs[True].root)
    assert talking.open_talk(unpacked, ["ada"]).resident.base.unpacked
    runs[True].update_run(device="cuda", choices={"weights": "4 bits, unpacked to float32 on NVIDIA H100"})
    assert not talking.open_talk(open_run(unpacked.store.root), ["ada"]).resident.base.unpacked

    held: list[bool | None] = []

    class EnoughError(Exception):
        pass

    def load(config: Config, *_: Any, **__: Any) -> Any:
        held.append(config.engine.unpack)
        raise EnoughError

    moved = open_run(unpacked.store.root)
    for module, work in (
        (evaluation, lambda: evaluation.measure(moved, moved.config, ["ada"], (), None, None, print)),
        (auditing, lambda: auditing._convene(moved)),
    ):
        monkeypatch.setattr(module, "load_resident", load)
        with pytest.raises(EnoughError):
            work()
    assert held == [False, False]


def test_another_card_of_the_same_kind_alone_unpacks_what_a_run_planned(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    choices = Choices(torch.device("cuda"), torch.bfloat16, "tribe", {})
    config = paper("engine.unpack=on")
    name = "NVIDIA H100 80GB HBM3"
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    record: Any = SimpleNamespace(device="cuda", choices={"weights": unpacked(choices)})
    assert record.choices["weights"] == f"4 bits, unpacked to bfloat16 on {name}"
    assert held_here(config, choices, record) == config
    name = "NVIDIA L4"
    assert held_here(config, choices, record) == paper("engine.unpack=off")
    processor = Choices(torch.device("cpu"), torch.float32, "tribe", {})
    assert held_here(config, processor, record).engine.unpack is False
    assert held_here(paper("engine.unpack=off"), choices, record).engine.unpack is False
