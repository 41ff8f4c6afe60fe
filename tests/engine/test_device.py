"""Where Triton keeps what it compiles for a card."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

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


COMPILED = """
import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction


def scale(x, n):
    place = tl.program_id(0) * 16 + tl.arange(0, 16)
    tl.store(x + place, tl.load(x + place, mask=place < n) * 2, mask=place < n)


made = []
make_ir = ASTSource.make_ir
ASTSource.make_ir = lambda *args, **kwargs: made.append(1) or make_ir(*args, **kwargs)
source = ASTSource(JITFunction(scale), {"x": "*fp32", "n": "i32"})
cubin = triton.compile(source, GPUTarget("cuda", 90, 32)).asm["cubin"]
print(len(made), cubin.hex())
"""
"""Compiles for a card that is not here, and says whether it had to."""


def test_what_one_run_has_compiled_the_next_one_finds(home: Path, tmp_path: Path) -> None:
    """In processes of their own: kernels interpreted in this one leave Triton's language changed."""
    pytest.importorskip("triton")
    keep_compiled(CARD)
    assert os.environ["TRITON_CACHE_DIR"] == str(home / "sparta-lite" / "triton")
    script = tmp_path / "compiled.py"
    script.write_text(COMPILED)
    env = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    first, second = (
        subprocess.run(
            [sys.executable, str(script)], env=env, check=True, capture_output=True, text=True
        ).stdout
        for _ in range(2)
    )
    assert (first[0], second[0]) == ("1", "0")
    assert first[2:] == second[2:]


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
