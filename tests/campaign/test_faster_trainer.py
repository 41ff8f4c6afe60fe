"""``training.trainer: auto`` on a card: what the plan finds faster, before loading and after the warm-up."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from sparta_lite.campaign import resident
from sparta_lite.campaign.config import load_config
from sparta_lite.campaign.planning import planned
from sparta_lite.campaign.resident import Choices, choose
from sparta_lite.campaign.settings import Config
from sparta_lite.campaign.trainers import faster, overtaken
from sparta_lite.engine.pace import seconds
from sparta_lite.engine.plan import Plan, corrected
from sparta_lite.errors import SpartaError

CARD = torch.device("cuda")


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> None:
    """An H100 that is not here, with Unsloth."""
    monkeypatch.setitem(sys.modules, "unsloth", SimpleNamespace(FastLanguageModel=object()))  # type: ignore[arg-type]
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H100 80GB HBM3")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (79 * 10**9, 85 * 10**9))
    monkeypatch.setattr(resident, "choose_device", lambda setting: CARD)
    monkeypatch.setattr(resident, "keep_compiled", lambda device: None)
    monkeypatch.setattr(
        resident, "choose_dtype", lambda setting, device, sizes=None: (torch.bfloat16, "a card")
    )
    for name in ("choose_attention", "choose_kernels"):
        monkeypatch.setattr(resident, name, lambda device, dtype: ("torch", "not here"))


def paper(*sets: str) -> Config:
    return load_config(
        Path(__file__).parents[2] / "examples/qwen2.5-7b-gsm8k.yaml", ["tribe.adapters=fresh-10", *sets]
    )


def plan_of(trainer: Any, config: Config) -> Plan:
    return planned(config, Choices(CARD, torch.bfloat16, trainer, {}), planning=True)[0]


def test_the_faster_one_by_the_plan_is_taken_and_both_figures_said(card: None) -> None:
    config = paper()
    times = {name: seconds(plan_of(name, config))["train"] for name in ("tribe", "unsloth")}
    found = choose(config, planning=True)
    assert found.trainer == min(times, key=times.__getitem__)
    for name, taken in times.items():
        assert f"{taken:,.0f} s with {name}" in found.reasons["trainer"]
    assert choose(paper("training.trainer=unsloth"), planning=True).trainer == "unsloth"


def test_the_other_one_is_taken_where_it_is_faster_or_fits_alone(card: None) -> None:
    made = {name: plan_of(name, paper()) for name in ("tribe", "unsloth")}
    swapped = {"tribe": made["unsloth"], "unsloth": made["tribe"]}
    assert {faster(made.__getitem__)[0], faster(swapped.__getitem__)[0]} == {"tribe", "unsloth"}

    def none(trainer: str) -> Plan:
        raise SpartaError(f"plan: {trainer} needs more")

    for name, other in (("tribe", "unsloth"), ("unsloth", "tribe")):
        found, why = faster(lambda trainer, name=name: none(trainer) if trainer == name else made[trainer])  # type: ignore[misc]
        assert found == other
        assert why == f"not {name}: plan: {name} needs more"
    with pytest.raises(SpartaError, match=r"^plan: tribe needs more$"):
        faster(none)


def test_a_run_keeps_the_trainer_that_it_began_with(card: None) -> None:
    for name in ("tribe", "unsloth"):
        begun: Any = SimpleNamespace(device="cuda", choices={"trainer": f"{name} (it was (much) faster)"})
        found = choose(paper(), planning=True, record=begun)
        assert found.trainer == name
        assert found.reasons["trainer"] == begun.choices["trainer"]
    odd: Any = SimpleNamespace(device="cuda", choices={"trainer": "gone"})
    assert choose(paper(), planning=True, record=odd).trainer in ("tribe", "unsloth")


def test_a_warm_up_that_makes_tribe_the_slower_one_is_told(card: None) -> None:
    made = plan_of("tribe", paper("engine.unpack=off"))  # sixty times the activations fit beside 4 bits alone
    assert overtaken(made) is None
    tight = corrected(made, {"train": 60.0})
    assert tight.fits
    assert tight.sizes != made.sizes
    slower = replace(tight, sizes=replace(tight.sizes, adapters_at_once=1, micro_batch=1))
    said = overtaken(slower)
    assert said is not None
    assert "training.trainer=unsloth takes it" in said
    assert f"{seconds(slower)['train']:,.0f} s with tribe" in said
    assert overtaken(plan_of("unsloth", paper())) is None


def test_a_card_that_is_not_here_is_planned_for_the_faster_one(
    card: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sparta_lite.campaign.planning.find_spec", lambda name: object())
    made, _ = planned(paper("vram=80GB"), None, planning=True)
    other = "unsloth" if made.work.trainer == "tribe" else "tribe"
    rival, _ = planned(paper("vram=80GB", f"training.trainer={other}"), None, planning=True)
    assert seconds(made)["train"] <= seconds(rival)["train"]


def test_a_reason_is_what_was_wrong(card: None) -> None:
    """Not memory, where a base is to be unpacked."""
    found = choose(paper("engine.unpack=on"), planning=True)
    assert found.trainer == "tribe"
    assert "not unsloth: engine.unpack: unsloth trains over" in found.reasons["trainer"]


def test_a_card_that_is_not_here_takes_what_a_run_takes(card: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sparta_lite.campaign.planning.find_spec", lambda name: object())
    made, _ = planned(paper("vram=80GB", "engine.unpack=on"), None, planning=True)
    assert (made.work.trainer, made.work.unpacked) == ("tribe", True)
    with pytest.raises(SpartaError, match=r"engine\.unpack: unsloth trains over"):
        planned(paper("vram=80GB", "engine.unpack=on", "training.trainer=unsloth"), None, planning=True)
