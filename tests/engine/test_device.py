"""Where Triton keeps what it compiles for a card."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants

from sparta_lite.engine.device import keep_compiled

CARD, CPU = torch.device("cuda"), torch.device("cpu")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("TRITON_CACHE_DIR", "TRITON_HOME"):
        monkeypatch.setenv(name, "")  # so that it is put back in the end
        monkeypatch.delenv(name)
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "hf"))
    return tmp_path / "hf"


def scale(x, n):  # a kernel: compiled from its source, never called
    place = tl.program_id(0) * 16 + tl.arange(0, 16)
    tl.store(x + place, tl.load(x + place, mask=place < n) * 2, mask=place < n)


triton = pytest.importorskip("triton")
import triton.language as tl  # noqa: E402


def test_what_one_run_has_compiled_the_next_one_finds(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiled for a card that is not here, as if by two processes: nothing is kept but files."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource
    from triton.runtime.jit import JITFunction

    from sparta_lite.kernels.triton_product import OPTIONS

    keep_compiled(CARD)
    assert os.environ["TRITON_CACHE_DIR"] == str(home / "sparta-lite" / "triton")
    assert Path(triton.knobs.cache.dir) == home / "sparta-lite" / "triton"

    def compiled() -> bytes:
        source = ASTSource(JITFunction(scale), {"x": "*fp32", "n": "i32"})
        return bytes(triton.compile(source, GPUTarget("cuda", 90, 32), OPTIONS).asm["cubin"])

    first = compiled()

    def again(*_: Any, **__: Any) -> None:
        raise AssertionError("compiled once more")

    monkeypatch.setattr(ASTSource, "make_ir", again)
    assert compiled() == first


@pytest.mark.parametrize("name", ["TRITON_CACHE_DIR", "TRITON_HOME"])
def test_a_place_of_the_users_own_stays(home: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "/somewhere/else")
    keep_compiled(CARD)
    assert os.environ[name] == "/somewhere/else"
    assert not home.exists()
    assert len({"TRITON_CACHE_DIR", "TRITON_HOME"} & os.environ.keys()) == 1


def test_without_a_card_or_a_place_nothing_changes(home: Path) -> None:
    keep_compiled(CPU)
    assert not home.exists()
    home.write_text("a file")
    keep_compiled(CARD)
    assert "TRITON_CACHE_DIR" not in os.environ
