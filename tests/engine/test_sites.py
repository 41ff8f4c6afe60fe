"""Projections of one adapter in many rows against the base's outputs and the adapter's updates apart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from sparta_lite.engine.sites import Matrix, Site, SiteLora, project
from sparta_lite.kernels.lora import route

INNER, WIDTHS, RANK, SLOTS = 8, (6, 4), 2, 3
MANY = 20  # rows of 3 tokens: 60 * (8 + 10) is more than 2 * 8 * 10
FEW = 2


@dataclass(frozen=True)
class Layer:
    sites: dict[str, Site]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


def layer() -> Layer:
    weight, bias = normal(sum(WIDTHS), INNER), normal(sum(WIDTHS), seed=1)
    pieces = zip(weight.split(WIDTHS), bias.split(WIDTHS), strict=True)
    parts = tuple(Matrix(matrix, offset) for matrix, offset in pieces)
    return Layer({"site": Site(("one", "other"), INNER, WIDTHS, parts, Matrix(weight, bias))})


def lora(gain: bool = False) -> SiteLora:
    b = tuple(normal(SLOTS, width, RANK, seed=2) for width in WIDTHS)
    scales = normal(SLOTS, len(WIDTHS) * RANK, seed=3) if gain else None
    return SiteLora(normal(SLOTS, len(WIDTHS) * RANK, INNER, seed=4), b, scales)


def products(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which way every projection goes from now on."""
    taken: list[str] = []
    for name in ("merged", "add_lora"):
        real = getattr(__import__("sparta_lite.engine.sites", fromlist=[name]), name)

        def noted(*args: Any, real: Any = real, name: str = name) -> Any:
            taken.append(name)
            return real(*args)

        monkeypatch.setattr(f"sparta_lite.engine.sites.{name}", noted)
    return taken


@pytest.mark.parametrize("gain", [False, True], ids=["one scale", "a gain besides"])
def test_rows_of_one_adapter_come_out_alike_many_or_few(monkeypatch: pytest.MonkeyPatch, gain: bool) -> None:
    x, base, bank = normal(MANY, 3, INNER, seed=5), layer(), lora(gain)
    kept = base.sites["site"].whole
    assert kept is not None
    before = kept.weight.clone()
    taken = products(monkeypatch)
    with torch.no_grad():
        routing = route([1] * MANY, [0.5, 2.0, 1.0], x.device, mergeable=True)
        together = project(base, "site", x, ({"site": bank}, routing))  # type: ignore[arg-type]
        one = route([1] * FEW, [0.5, 2.0, 1.0], x.device, mergeable=True)
        apart = [project(base, "site", rows, ({"site": bank}, one)) for rows in x.split(FEW)]  # type: ignore[arg-type]
    assert taken == ["merged"] + ["add_lora"] * (MANY // FEW)
    for found, expected in zip(together, zip(*apart, strict=True), strict=True):
        torch.testing.assert_close(found, torch.cat(expected), rtol=1e-5, atol=1e-5)
    assert torch.equal(kept.weight, before)


@pytest.mark.parametrize("case", ["several adapters", "a bare row", "gradients", "16 bits", "not asked for"])
def test_otherwise_the_update_stays_apart(monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    x, base, bank = normal(MANY, 3, INNER, seed=5), layer(), lora()
    slots: list[int | None] = [1] * MANY
    if case in ("several adapters", "a bare row"):
        slots[3] = 2 if case == "several adapters" else None
    if case == "16 bits":
        x, bank = x.bfloat16(), SiteLora(bank.a.bfloat16(), tuple(each.bfloat16() for each in bank.b))
        whole = base.sites["site"].whole
        assert whole is not None
        assert whole.bias is not None
        matrix = Matrix(whole.weight.bfloat16(), whole.bias.bfloat16())
        pieces = zip(matrix.weight.split(WIDTHS), whole.bias.bfloat16().split(WIDTHS), strict=True)
        parts = tuple(Matrix(piece, offset) for piece, offset in pieces)
        base = Layer({"site": Site(("one", "other"), INNER, WIDTHS, parts, matrix)})
    taken = products(monkeypatch)
    with torch.set_grad_enabled(case == "gradients"):
        routing = route(slots, [1.0] * SLOTS, x.device, mergeable=case != "not asked for")
        project(base, "site", x, ({"site": bank}, routing))  # type: ignore[arg-type]
    assert taken == ["add_lora"]
