"""What the assembler says of compiled kernels: Triton compiles for a card without having one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")

HOPPER, ADA = 90, 89
SHARED = {HOPPER: 227 << 10, ADA: 99 << 10}  # bytes that a program may take
REGISTERS = 65536  # of one processor


@pytest.mark.parametrize("arch", [HOPPER, ADA])
def test_no_kernel_spills_registers_and_all_fit(arch: int) -> None:
    """In a process of its own: these tests' Triton interprets."""
    script = Path(__file__).with_name("resources.py")
    done = subprocess.run(
        [sys.executable, script, str(arch)],
        env=os.environ | {"TRITON_INTERPRET": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    kernels = {each["kernel"] for each in found}
    assert kernels >= {
        "_linear_kernel",
        "_shrink_kernel",
        "_add_kernel",
        "_expand_kernel",
        "_gradient_kernel",
    }
    for each in found:
        assert each["spilled"] == 0, each
        assert each["shared"] <= SHARED[arch], each
    if arch == HOPPER:  # two programs of the product in 4 bits at once on a processor
        for each in found:
            if each["kernel"] == "_linear_kernel":
                assert 2 * each["registers"] * each["threads"] <= REGISTERS
                assert 2 * each["shared"] <= SHARED[arch]
