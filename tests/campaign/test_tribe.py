"""Where a tribe comes from: directories, the hub, presets, and new adapters."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from sparta_lite.campaign.config import load_config
from sparta_lite.campaign.events import Event
from sparta_lite.campaign.loop import run
from sparta_lite.campaign.resident import read_tribe
from sparta_lite.campaign.settings import Config
from sparta_lite.campaign.store import Store
from sparta_lite.campaign.tribe import TULU, find_tribe
from sparta_lite.engine.base import load_base
from sparta_lite.engine.peft_io import read_adapter
from sparta_lite.errors import SpartaError
from sparta_lite.files import read_json


@pytest.fixture
def hub(adapter_paths: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Sequence[str]]]:
    """A hub on which every repository is one of three adapters."""
    asked: list[tuple[str, Sequence[str]]] = []

    def download(repository: str, patterns: Sequence[str]) -> Path:
        asked.append((repository, patterns))
        if "missing" in repository:
            raise SpartaError(f"{repository}: no such directory and no such repository on the hub")
        return list(adapter_paths.values())[len(asked) % 3]

    monkeypatch.setattr("sparta_lite.engine.hub.download", download)
    return asked


def config(base: Path, *sets: str) -> Config:
    return load_config(None, [f"base={base}", *sets])


def test_the_published_ten_are_fetched_without_anything_beside_them(base_path: Path, hub: Any) -> None:
    settings = config(base_path, "tribe.adapters=tulu-10")
    places = find_tribe(settings)
    assert tuple(places) == TULU
    files = ("adapter_config.json", "adapter_model.safetensors")
    assert hub == [(f"bunsenfeng/yuru_qw_{subset}", files) for subset in TULU]
    base = load_base(base_path, torch.device("cpu"))
    assert [file.adapter.name for file in read_tribe(settings, places, base.decoder)] == list(TULU)


def test_names_may_stand_for_directories_and_hub_ids(
    base_path: Path, adapter_paths: dict[str, Path], hub: Any
) -> None:
    tribe = f"tribe.adapters={{a: {adapter_paths['ada']}, b: some/one, c: some/other}}"
    places = find_tribe(config(base_path, tribe))
    assert places["a"] == adapter_paths["ada"]
    assert [repository for repository, _ in hub] == ["some/one", "some/other"]


def test_what_the_hub_lacks_is_named_with_its_adapter(base_path: Path, hub: Any) -> None:
    tribe = "tribe.adapters={a: some/missing, b: some/one, c: some/two}"
    with pytest.raises(SpartaError, match=r"adapter 'a': some/missing: no such directory and no such repo"):
        find_tribe(config(base_path, tribe))


def test_a_directory_gives_what_peft_saved_in_it(
    base_path: Path, adapter_paths: dict[str, Path], tmp_path: Path
) -> None:
    for name in ("zed", "amy", "bob", ".amy.partial"):
        shutil.copytree(adapter_paths["ada"], tmp_path / name)
    (tmp_path / "notes").mkdir()
    (tmp_path / "forge.json").write_text("{}")
    assert list(find_tribe(config(base_path, f"tribe.adapters={tmp_path}"))) == ["amy", "bob", "zed"]


@pytest.mark.parametrize(
    ("sets", "reason"),
    [
        (["tribe.adapters=fresh-2"], "fresh-2 holds 2 PEFT adapters; two fight and at least one judges"),
        (["tribe.adapters=fresh-4", "tribe.size=5"], "tribe.size is 5, but fresh-4 holds 4 PEFT adapters"),
        (
            ["tribe.adapters=fresh-two"],
            "is no directory; give one that holds PEFT adapters, 'tulu-10', 'fresh-N'",
        ),
    ],
)
def test_too_few_adapters_and_unknown_presets_are_refused(
    base_path: Path, sets: list[str], reason: str
) -> None:
    with pytest.raises(SpartaError, match=reason):
        find_tribe(config(base_path, *sets))


def test_a_directory_that_is_an_adapter_is_no_tribe(base_path: Path, adapter_paths: dict[str, Path]) -> None:
    with pytest.raises(SpartaError, match="is one adapter; give the directory in which 3 or more stand"):
        find_tribe(config(base_path, f"tribe.adapters={adapter_paths['ada']}"))


def test_new_adapters_follow_from_the_runs_seed_and_their_own_name(base_path: Path) -> None:
    base = load_base(base_path, torch.device("cpu"))

    def made(*sets: str) -> dict[str, torch.Tensor]:
        settings = config(base_path, *sets)
        files = read_tribe(settings, find_tribe(settings), base.decoder)
        return {file.adapter.name: file.weights["layers.1.mlp.up_proj"][0] for file in files}

    three, five = made("tribe.adapters=fresh-3"), made("tribe.adapters=fresh-5")
    assert list(five) == [f"fresh-{number}" for number in range(1, 6)]
    assert all(torch.equal(three[name], five[name]) for name in three)
    assert not torch.equal(five["fresh-1"], five["fresh-2"])
    assert not torch.equal(three["fresh-1"], made("tribe.adapters=fresh-3", "seed=1")["fresh-1"])
    assert made("tribe.adapters=fresh-3", "tribe.rank=5")["fresh-1"].shape[0] == 5


def test_a_run_of_new_adapters_trains_resumes_and_hashes_what_has_files(
    tiny_config: Path, tmp_path: Path
) -> None:
    sets = ["tribe.adapters=fresh-3", "tribe.rank=4", "iterations=1", "duels=6", "evaluation.items=0"]
    settings = load_config(tiny_config, sets)
    events: list[Event] = []
    run(settings, tmp_path / "run", False, events.append)
    assert set(read_json(tmp_path / "run" / "run.json")["hashes"]) == {
        *("config.yaml", "instructions", "held-out questions", "base")
    }
    for number in (1, 2, 3):
        file = read_adapter("new", Store(tmp_path / "run").adapters(0) / f"fresh-{number}")
        assert (file.adapter.rank, file.config["base_model_name_or_path"]) == (4, settings.base)
        assert any(b.any() for _, b in file.weights.values())
    run(settings, tmp_path / "run", True, events.append)
