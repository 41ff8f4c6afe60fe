"""What a base computes in on a CPU is measured once, recorded, and kept."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from sparta_lite.campaign import loop
from sparta_lite.campaign.config import load_config
from sparta_lite.campaign.events import Event, Warned
from sparta_lite.campaign.resident import choose
from sparta_lite.engine import halving
from sparta_lite.outcome.finished import open_run
from sparta_lite.outcome.talking import open_talk

FASTER = {"decoding": 2.0, "long passes": 2.0, "training": 2.0}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiny bases are asked like large ones, and bf16 is twice as fast."""
    monkeypatch.setattr(halving, "LEAST", 1)
    monkeypatch.setattr(halving, "gains", lambda hidden, inner: FASTER)


@pytest.mark.usefixtures("asked")
def test_a_run_goes_on_in_what_was_measured_when_it_began(
    tiny_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Event] = []
    config = load_config(tiny_config, ["iterations=2", "duels=3", "evaluation.items=0", "dtype=auto"])
    loop.run(config, tmp_path / "whole", False, told.append)
    recorded = json.loads((tmp_path / "whole" / "run.json").read_text())["choices"]["dtype"]
    assert recorded.startswith("bfloat16 (this CPU's products are faster in it: 2.0 x in decoding")

    def stop(event: Event) -> None:
        if getattr(event, "iteration", 0) == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        loop.run(config, tmp_path / "run", False, stop)
    monkeypatch.setattr(halving, "gains", lambda hidden, inner: {"decoding": 0.1})
    assert choose(config).dtype == torch.float32
    told.clear()
    loop.run(config, tmp_path / "run", True, told.append)
    assert not [each for each in told if isinstance(each, Warned) and "dtype" in each.message]
    for name in ("iteration-00", "iteration-01"):
        ours, theirs = (tmp_path / run / name for run in ("run", "whole"))
        files = sorted(path.relative_to(ours) for path in ours.rglob("*.safetensors"))
        assert files
        assert all((ours / each).read_bytes() == (theirs / each).read_bytes() for each in files)

    talk = open_talk(open_run(tmp_path / "run"), ["base"])
    assert talk.resident.base.decoder.dtype == torch.bfloat16


@pytest.mark.usefixtures("asked")
def test_the_pocket_base_is_in_fp32_on_every_machine() -> None:
    for sets in ([], ["dtype=auto"]):
        assert choose(load_config(None, sets)).dtype == torch.float32


@pytest.mark.usefixtures("asked")
def test_the_settings_come_before_what_is_measured(tiny_config: Path) -> None:
    assert choose(load_config(tiny_config, ["dtype=float32"])).dtype == torch.float32
    assert choose(load_config(tiny_config, ["dtype=auto"])).dtype == torch.bfloat16
