"""``sparta-lite plan``: will it fit, in which batches, and for how long, before anything is loaded."""

from __future__ import annotations

import dataclasses
import json as js
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sparta_lite.campaign.config import Config, load_config
from sparta_lite.campaign.settings.section import parse_memory
from sparta_lite.campaign.sources import require_model
from sparta_lite.commands.quiet import quiet_libraries

if TYPE_CHECKING:
    from sparta_lite.engine.plan import Plan

_WIDTH = 80


def plan(
    config: Annotated[
        Path | None, typer.Argument(metavar="CONFIG.yaml", help="Settings; none plans the pocket tribe.")
    ] = None,
    vram: Annotated[
        str | None, typer.Option(metavar="24GB", help="Plan for a card of this memory, here or elsewhere.")
    ] = None,
    sets: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change one setting: --set training.trainer=tribe."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Count the memory and estimate the time of a run; no weights are read."""
    card = [] if vram is None else [f"vram={vram}"]
    if vram is not None:
        parse_memory(vram)  # here, so that it is not said of a --set
    settings = load_config(config, [*(sets or []), *card])
    require_model(settings, planning=True)
    quiet_libraries()
    import torch

    from sparta_lite.campaign.plan_text import table
    from sparta_lite.campaign.planning import assumed, planned
    from sparta_lite.campaign.resident import choose

    if settings.threads is not None:
        torch.set_num_threads(settings.threads)  # the CPU's rate is measured as the run will use it
    elsewhere = settings.vram is not None and settings.device != "cpu" and not torch.cuda.is_available()
    choices = None if elsewhere else choose(settings, planning=True)
    made, settings = planned(settings, choices, planning=True)
    taken = assumed(settings)
    if json:
        typer.echo(js.dumps(_as_json(made, settings) | {"assumed": taken}, indent=2))
    else:
        typer.echo("\n".join([*table(made, settings), *(f"{of}: {how}" for of, how in taken.items())]))


def _as_json(made: Plan, settings: Config) -> dict[str, object]:
    from sparta_lite.engine.pace import seconds, span, whole

    times = seconds(made)
    return {
        "base": settings.base,
        "machine": dataclasses.asdict(made.machine) | {"reserve": made.machine.reserve},
        "trainer": made.work.trainer,
        "parameters": made.shape.parameters,
        "weights": made.weights,
        "kv_bytes_per_token": made.kv,
        "sizes": dataclasses.asdict(made.sizes),
        "phases": {
            phase.name: {
                "memory": made.weights + phase.memory,
                "parts": dict(phase.parts),
                "seconds": _rounded(span(made, times[phase.name])),
            }
            for phase in made.phases
        },
        "peak": made.peak,
        "needed": made.needed,
        "seconds": _rounded(span(made, whole(made))),
    }


def _rounded(seconds: Sequence[float]) -> list[float]:
    return [round(each, 3) for each in seconds]
