"""``sparta-lite export``: one adapter of a run, for use elsewhere."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from sparta_lite.campaign.sources import base_source
from sparta_lite.commands.quiet import quiet_libraries
from sparta_lite.commands.unchecked import note_unchecked
from sparta_lite.engine.gguf_file import gguf_file
from sparta_lite.errors import SpartaError
from sparta_lite.outcome.finished import best_adapter, open_run


class Target(str, Enum):
    peft = "peft"
    merged = "merged"
    gguf_lora = "gguf-lora"
    hub = "hub"


def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run's directory.")],
    adapter: Annotated[
        str, typer.Option(help="A name, or 'best': the one that did best in the held-out evaluation.")
    ] = "best",
    iteration: Annotated[
        int | None, typer.Option(help="As it was after so many iterations.", show_default="the last")
    ] = None,
    to: Annotated[Target, typer.Option(help="What it becomes.")] = Target.peft,
    out: Annotated[
        Path | None,
        typer.Option(help="A directory that does not exist.", show_default="exports/<run>-<adapter>-<to>"),
    ] = None,
    repo: Annotated[
        str | None, typer.Option(metavar="OWNER/NAME", help="With --to hub: a repository to make.")
    ] = None,
    public: Annotated[bool, typer.Option("--public", help="With --to hub: let everyone see it.")] = False,
    base: Annotated[
        str | None, typer.Option(help="With --to merged: the unquantised base, in place of the run's.")
    ] = None,
) -> None:
    """Take an adapter out of a run, with a model card of the run's figures."""
    if (to is Target.hub) != (repo is not None):
        raise SpartaError("export: --repo OWNER/NAME and --to hub belong together; give both or neither")
    if to is Target.hub and out is not None:
        raise SpartaError("export: --to hub writes no directory; leave --out out")
    if public and to is not Target.hub:
        raise SpartaError("export: --public belongs to --to hub; add that, or leave it out")
    if base is not None and to is not Target.merged:
        raise SpartaError("export: --base belongs to --to merged; add that, or leave it out")
    quiet_libraries()
    finished = open_run(run, iteration)
    name = best_adapter(finished) if adapter == "best" else adapter
    finished.place(name)  # refuses a name that the tribe has not
    from sparta_lite.outcome.exporting import export as write
    from sparta_lite.outcome.exporting import export_to_hub

    if repo is not None:
        place = export_to_hub(finished, name, repo, public)
    else:
        target = out or Path("exports") / f"{run.resolve().name}-{name}-{to.value}"
        write(finished, name, to.value, target, base)  # type: ignore[arg-type]  # hub went the other way
        place = str(target)
    note_unchecked(run)
    typer.echo(f"{name} after iteration {finished.iteration}: {place}")
    if to is Target.merged and (packed := gguf_file(base or base_source(finished.config.base))):
        typer.echo(f"merged into the dequantised weights of {packed.name}, in float32")
