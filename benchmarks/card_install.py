"""The first step of ``first_minutes.py``: what is here, what is missing, and a base in memory."""

from __future__ import annotations

import sys
import time
from importlib.metadata import PackageNotFoundError, requires, version
from typing import Any

import torch
from card_tools import Card, Found
from card_work import plain
from packaging.requirements import Requirement

from sparta_lite.engine import nf4
from sparta_lite.kernels.choice import choose_kernels

_PACKAGES = ("torch", "triton", "transformers", "bitsandbytes", "peft", "trl", "unsloth", "flash-attn")


def install(card: Card) -> Found:
    """What is here, what importing (CPU seconds), compiling and building cost, and the kernels' trial."""
    found: Found = {"import_seconds": time.process_time(), "missing": missing()}
    start = card.clock()
    found["kernels"] = ": ".join(choose_kernels(card.device, card.dtype))
    found["trial_seconds"] = card.clock() - start
    start = card.clock()
    _ = card.base
    found |= {"build_seconds": card.clock() - start, "shape": card.sizes.shape, **nf4.choices()}
    rate, bandwidth = card.rates
    return found | {"product_tflops": rate / 1e12, "copy_gb_a_second": bandwidth / 1e9}


def missing() -> list[str]:
    """Packages of our own requirements that are not installed here."""
    asked = [Requirement(line) for line in requires("sparta-lite") or ()]
    return [each.name for each in asked if not each.marker and not _installed(each.name)]


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def about(card: Card) -> dict[str, Any]:
    """The machine, and what it is asked."""
    name = torch.cuda.get_device_name() if card.on_gpu else "CPU"
    return {
        "device": name,
        "rehearsal": not card.on_gpu,
        "memory": torch.cuda.mem_get_info()[1] if card.on_gpu else None,
        "python": sys.version.split()[0],
        "cuda": torch.version.cuda,
        "versions": {name: _installed(name) for name in _PACKAGES},
        "sizes": plain(vars(card.sizes)),
    }
