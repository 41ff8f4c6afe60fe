"""``sparta-lite doctor``: one line per component, whatever state the machine is in."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from importlib import metadata
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from sparta_lite.commands import doctor as module
from sparta_lite.commands.app import app
from sparta_lite.commands.doctor import Finding

runner = CliRunner()
COMPONENTS = [
    "python",
    "torch",
    "device",
    "bitsandbytes",
    "flash-attn",
    "flash-linear-attention",
    "unsloth",
    "triton",
    "math-verify",
    "lm-eval",
    "gguf",
    "disk",
    "hub",
]


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise urllib.error.URLError("no route")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)


def findings() -> dict[str, Finding]:
    result = runner.invoke(app, ["doctor", "--json"])
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    return {row["component"]: Finding(**row) for row in rows}


def test_one_line_per_component() -> None:
    result = runner.invoke(app, ["doctor"])
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert [line.split()[0] for line in lines] == COMPONENTS
    assert all(line.split()[1] in ("OK", "missing", "broken") for line in lines)
    assert torch.__version__ in lines[1]


def test_what_is_missing_comes_with_its_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(module.metadata, "version", version)
    result = runner.invoke(app, ["doctor"])
    assert result.exit_code == 1  # torch is among what is missing
    found = findings()
    for name in (
        "bitsandbytes",
        "flash-attn",
        "flash-linear-attention",
        "unsloth",
        "triton",
        "math-verify",
        "lm-eval",
        "gguf",
    ):
        assert found[name].status == "missing"
        assert "pip install" in found[name].mend
        assert found[name].mend in result.stdout


def test_what_breaks_on_import_is_broken_and_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> None:
        raise NotImplementedError(f"{name} needs an accelerator\nsecond line")

    monkeypatch.setattr(module, "import_module", broken)
    monkeypatch.setattr(module.metadata, "version", lambda name: "1.2.3")
    result = runner.invoke(app, ["doctor"])
    assert len(result.stdout.splitlines()) == len(COMPONENTS)
    found = findings()
    assert found["triton"].status == "broken"
    assert "NotImplementedError: triton needs an accelerator" in found["triton"].detail
    assert result.exit_code == 1
    # Its import patches what others use: it is not imported at all.
    assert found["unsloth"].status == "OK"


def test_a_look_that_fails_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any) -> None:
        raise RuntimeError("driver too old")

    monkeypatch.setattr(torch.cuda, "is_available", fails)
    found = findings()
    assert found["device"].status == "broken"
    assert "driver too old" in found["device"].detail
    assert list(found) == COMPONENTS


def test_triton_says_who_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "kernels: torch (Triton's kernels need a CUDA device" in findings()["triton"].detail


def test_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", "/somewhere/else")
    assert findings()["hub"].status == "missing"
    assert "no route" in findings()["hub"].detail
    assert "/somewhere/else" in findings()["hub"].detail

    class Answer:
        def __enter__(self) -> None: ...
        def __exit__(self, *_: Any) -> None: ...

    monkeypatch.setattr(urllib.request, "urlopen", lambda *_, **__: Answer())
    assert findings()["hub"].status == "OK"
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "HF_HUB_OFFLINE" in findings()["hub"].detail


def test_a_full_disk_does_not_stop_the_default_run(monkeypatch: pytest.MonkeyPatch) -> None:
    usage = module.shutil._ntuple_diskusage(10**9, 10**9, 10**6)  # type: ignore[attr-defined]
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: usage)
    assert findings()["disk"].status == "broken"
