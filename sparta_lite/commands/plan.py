"""``sparta-lite plan``: will it fit, in which batches, and for how long, before anything is loaded."""

from __future__ import annotations

import dataclasses
import json as js
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sparta_lite.campaign.config import Config, load_config
from sparta_lite.commands.quiet import quiet_libraries

if TYPE_CHECKING:
    from sparta_lite.engine.plan import Plan

_WIDTH = 80


def plan(
    config: Annotated[
        Path | None, typer.Argument(metavar="[CONFIG.yaml]", help="Settings; none plans the pocket tribe.")
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
    settings = load_config(config, [*(sets or []), *([f"vram={vram}"] if vram else [])])
    quiet_libraries()
    import torch

    from sparta_lite.campaign.planning import planned
    from sparta_lite.campaign.resident import choose

    elsewhere = settings.vram is not None and settings.device != "cpu" and not torch.cuda.is_available()
    made, settings = planned(settings, None if elsewhere else choose(settings))
    if json:
        typer.echo(js.dumps(_as_json(made, settings), indent=2))
    else:
        _print(made)


def _as_json(made: Plan, settings: Config) -> dict[str, object]:
    from sparta_lite.engine.pace import seconds, whole

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
                "seconds": round(times[phase.name], 3),
            }
            for phase in made.phases
        },
        "peak": made.peak,
        "needed": made.needed,
        "seconds": round(whole(made), 3),
    }


def _print(made: Plan) -> None:
    from rich.console import Console
    from rich.table import Table

    from sparta_lite.campaign.planning import SIZES, duration, gigabytes
    from sparta_lite.engine.pace import seconds, whole

    work, machine, times = made.work, made.machine, seconds(made)
    base = "4 bits" if work.four_bit else f"{8 * work.number} bits"
    console = Console(width=_WIDTH, highlight=False, soft_wrap=False)
    console.print(f"{machine.name}: {gigabytes(machine.memory)}", markup=False)
    console.print(
        f"base: {made.shape.family}, {_count(made.shape.parameters)} parameters in {base}, "
        f"{gigabytes(made.weights)}; KV {made.kv / 1024:.4g} KiB a token",
        markup=False,
    )
    console.print(
        f"tribe: {work.adapters} adapters of {_count(work.adapter)} numbers, "
        f"{gigabytes(4 * work.adapter)} each in fp32",
        markup=False,
    )
    columns = ("adapters", "KV cache", "gradients", "optimizer", "activations")
    table = Table("GB", *columns, "peak", "time", box=None, padding=(0, 1, 0, 0), pad_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"
    for phase in made.phases:
        parts = [f"{phase.parts[part] / 1e9:.2f}" if part in phase.parts else "" for part in columns]
        peak = f"{(made.weights + phase.memory) / 1e9:.2f}"
        table.add_row(phase.name, *parts, peak, duration(times[phase.name]))
    console.print(table)
    console.print(
        f"needs {gigabytes(made.needed)}, of it {gigabytes(machine.reserve)} in reserve for the "
        f"{'CUDA context' if machine.kind == 'cuda' else 'libraries'} and fragmentation",
        markup=False,
    )
    for name, key in SIZES.items():
        value = js.dumps(getattr(made.sizes, name))
        console.print(f"  {key}: {value}" + (" (as given)" if name in made.given else ""), markup=False)
    if made.sizes.resident < work.adapters:
        waiting = work.adapters - made.sizes.resident
        console.print(f"{waiting} adapters wait in host memory, {gigabytes(4 * work.adapter)} each")
    console.print(
        f"estimated time, at most: {duration(whole(made))} for {work.iterations} x {work.duels:,} duels, "
        f"trainer {work.trainer}\n(the table's is for one iteration)",
        markup=False,
    )


def _count(number: int) -> str:
    """Such as 7.62 billion or 0.16 million."""
    return f"{number / 1e9:.2f} billion" if number >= 1e8 else f"{number / 1e6:.2f} million"
