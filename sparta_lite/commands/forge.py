"""``sparta-lite forge``: build what ships with the package again, from nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sparta_lite.commands.quiet import quiet_libraries
from sparta_lite.errors import SpartaError

forge = typer.Typer(no_args_is_help=True, help="Build what ships with the package again, from nothing.")


@forge.command()
def pocket(
    out: Annotated[Path, typer.Option(help="Where base/ and adapters/ go.")] = Path("forged-pocket"),
    seed: Annotated[int, typer.Option(help="All randomness follows from it.")] = 0,
) -> None:
    """The pocket tribe: a tiny base and its ten adapters."""
    if out.exists():
        raise SpartaError(f"{out}: exists already; give --out a directory that does not")
    quiet_libraries()
    from sparta_lite.pocket.forge import forge as build

    build(out, seed, say=typer.echo)
