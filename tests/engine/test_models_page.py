"""docs/models.md says what the tests of all families see."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoConfig

from sparta_lite.engine.hybrid import HybridDecoder
from sparta_lite.engine.mixing import AttentionSpec, DeltaSpec
from sparta_lite.engine.model import FusedDecoder
from sparta_lite.engine.peft_io import new_adapter
from sparta_lite.engine.support import require_supported
from sparta_lite.engine.wrapped import WrappedDecoder
from sparta_lite.errors import SpartaError

from .families import FAMILIES, ODD
from .kin import Kin, Kins
from .models import SIZES
from .test_support import REFUSED

PAGE = Path(__file__).parents[2] / "docs" / "models.md"


def listed(heading: str) -> list[str]:
    """The rows of the table under a heading."""
    _, _, below = PAGE.read_text(encoding="utf-8").partition(f"## {heading}\n")
    table = below.partition("\n## ")[0]
    return [line for line in table.splitlines() if line.startswith("| `")]


def attention(kin: Kin) -> str:
    mixers = kin.base.decoder.mixers
    specs = [mixer for mixer in mixers if isinstance(mixer, AttentionSpec)]
    windows = sum(spec.window is not None for spec in specs)
    said = []
    if any(isinstance(mixer, DeltaSpec) for mixer in mixers):
        said.append("beside layers with the gated delta rule")
    if windows:
        said.append("a window in every layer" if windows == len(specs) else "windows in some layers")
    if any(spec.softcap for spec in specs):
        said.append("capped scores")
    if any(spec.sinks is not None for spec in specs):
        said.append("sinks")
    return ", ".join(said) or "full"


def logits(kin: Kin) -> str:
    decoder = kin.base.decoder
    if not isinstance(decoder, WrappedDecoder):
        return ""
    said = ["scaled"] * (decoder._logits.scale != 1) + ["capped"] * (decoder._logits.softcap is not None)
    return ", ".join(said)


def adapted(kin: Kin) -> str:
    modules = new_adapter("new", kin.base.decoder, 1, 1.0, seed=0, base="").weights
    return ", ".join(dict.fromkeys(module.rpartition(".")[2].removesuffix("_proj") for module in modules))


def row(name: str, kin: Kin) -> str:
    """One family as its tiny model shows it."""
    decoder = kin.base.decoder
    kind = "own" if isinstance(decoder, FusedDecoder) else "wrapped"
    assert isinstance(decoder, HybridDecoder) == name.startswith(("qwen3_5", "qwen3_next"))
    return f"| `{name}` | {kind} | {attention(kin)} | {logits(kin)} | {adapted(kin)} |"


def test_every_family_stands_in_the_table_as_it_is_computed(kins: Kins) -> None:
    also = {family: attention(kins(odd)) for odd, (family, _) in ODD.items()}
    expected = []
    for name in FAMILIES:
        kin = kins(name)
        cells = row(name, kin).split(" | ")
        if also.get(name, cells[2]) != cells[2]:
            cells[2] += f"; or {also[name]}"
        expected.append(" | ".join(cells))
    assert listed("What was tried") == expected


@pytest.mark.parametrize("name", REFUSED)
def test_every_refusal_stands_in_the_table_with_its_reason(name: str) -> None:
    changes, reason = REFUSED[name]
    with pytest.raises(SpartaError) as caught:
        require_supported(AutoConfig.for_model(name, **{**(SIZES if changes else {}), **changes}))
    said, _, instead = (
        str(caught.value).removeprefix(f"base: {name!r} ").partition("; use another base, such as ")
    )
    assert reason in said
    rows = [line for line in listed("What is refused, and why") if f"`{name}`" in line.partition(" | ")[0]]
    assert rows, f"| `{name}` | {said} | {instead} |"
    assert any(f"| {said} | {instead} |" in line for line in rows), f"{said} | {instead}"
