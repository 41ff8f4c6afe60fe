"""Runs that an earlier version began: before 4 bits could be unpacked, and before a save could be planned."""

from __future__ import annotations

import json
import shutil
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from sparta_lite.campaign import loop
from sparta_lite.campaign.config import load_config, load_recorded, show_config
from sparta_lite.campaign.inputs import changed, is_digest_of, settings_digest
from sparta_lite.campaign.planning import is_planned, without_sizes
from sparta_lite.campaign.run_record import digest_of
from sparta_lite.campaign.settings import Config
from sparta_lite.campaign.store import Store
from sparta_lite.outcome.finished import open_run

POCKET_RUN = ["iterations=1", "duels=4", "checkpoint=50", "evaluation.items=2", "training.trainer=tribe"]
DRAWN = {"temperature": 0.9, "top_k": 7, "top_p": 0.95}
HASH = "e19a72a6afbb970b1189b0b40e17d7949353058da35a90c9210f22a69208787e"
SETTINGS = "ca4cbd4531b9168bb72d2dab6936541451cd4565f805dcb483cbac2bdb006178"
"""What the earlier version took of ``POCKET_RUN`` with judges drawn so (in mode 'expected')."""


def written_then(config: Config, drawn: dict[str, float], **changes: Any) -> str:
    """``config.yaml`` of the earlier version, which wrote out how judges are drawn in either mode."""
    settings = yaml.safe_load(show_config(config))
    del settings["engine"], settings["judge"]["minimum_prefix"]
    settings["judge"] |= drawn
    return yaml.safe_dump(settings | changes, sort_keys=False)


def hashed_then(config: Config, drawn: dict[str, float]) -> str:
    """The earlier hash: of settings that are not the defaults, in their order, ``checkpoint`` among them."""
    now = without_sizes(config).model_dump(exclude_defaults=True)
    counted = {name: value for name, value in drawn.items() if value not in (0.7, 50, 0.95)}
    now["judge"] = now.get("judge", {}) | counted
    then = now | ({} if config.checkpoint == 100 else {"checkpoint": config.checkpoint})
    ordered = {name: then[name] for name in Config.model_fields if name in then}
    return sha256(json.dumps(ordered).encode()).hexdigest()


@pytest.fixture
def then(finished: Path, tmp_path: Path) -> Store:
    """A run of the tiny tribe, saved every 3 duels, as the earlier version left it."""
    store = Store(Path(shutil.copytree(finished, tmp_path / "then")))
    config = load_config(store.config)
    text = written_then(config, DRAWN)
    store.config.write_text(text)
    hashes = store.read_run().hashes | {"config.yaml": hashed_then(config, DRAWN)}
    files = {name: vars(each) for name, each in store.read_run().files.items()}
    files["config.yaml"] = vars(digest_of(text.encode()))
    store.update_run(hashes=hashes, files=files, settings=None)
    return Store(store.root)


def test_settings_are_those_that_an_earlier_version_hashed(tmp_path: Path) -> None:
    config = load_config(None, POCKET_RUN)
    assert hashed_then(config, DRAWN) == HASH
    path = tmp_path / "config.yaml"
    path.write_text(written_then(config, DRAWN))
    now: Any = SimpleNamespace(hashes={"config.yaml": "another", "base": "moved"})
    assert changed({"config.yaml": HASH, "base": "there"}, now, path) == ["base"]
    assert settings_digest(load_recorded(path)) != SETTINGS
    assert is_digest_of(SETTINGS, load_recorded(path), path)
    path.write_text(written_then(config, DRAWN, batch_tokens=7))  # a size may be edited
    assert is_digest_of(SETTINGS, load_recorded(path), path)
    for drawn, changes in ((DRAWN, {"duels": 5}), (DRAWN, {"checkpoint": 51}), (DRAWN | {"top_k": 8}, {})):
        path.write_text(written_then(config, drawn, **changes))
        assert changed({"config.yaml": HASH}, now, path) == ["config.yaml"]
        assert not is_digest_of(SETTINGS, load_recorded(path), path)


def test_an_earlier_run_goes_on_as_it_was_planned(then: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "planned", lambda *_: pytest.fail("it was planned again"))
    shutil.rmtree(then.adapters(1))
    loop.run(load_config(then.config), then.root, True, lambda event: None)
    assert then.read_run().status == "finished"
    assert then.adapters(1).is_dir()


def test_whoever_opens_an_earlier_run_has_its_sizes(then: Store) -> None:
    config = open_run(then.root).config
    assert is_planned(config)
    assert config.engine.unpack is False
    assert config.checkpoint == 3


def test_only_what_an_earlier_version_planned_is_settled(tmp_path: Path, finished: Path) -> None:
    path = tmp_path / "config.yaml"
    settings = yaml.safe_load((finished / "config.yaml").read_text())
    del settings["engine"], settings["checkpoint"]
    path.write_text(yaml.safe_dump(settings))
    assert (load_recorded(path).engine.unpack, load_recorded(path).checkpoint) == (False, 100)
    path.write_text(yaml.safe_dump(settings | {"batch_tokens": None}))  # it was killed before its plan
    assert (load_recorded(path).engine.unpack, load_recorded(path).checkpoint) == (None, None)
    path.write_text(yaml.safe_dump(settings | {"engine": {"unpack": None}, "checkpoint": None}))
    assert (load_recorded(path).engine.unpack, load_recorded(path).checkpoint) == (None, None)
