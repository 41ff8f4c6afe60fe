"""``sparta-lite forge``: adapters from data, and what ships with the package again, from nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sparta_lite.campaign.sources import require_base
from sparta_lite.commands.quiet import quiet_libraries
from sparta_lite.data.conversations import TULU_V2, Columns
from sparta_lite.data.rows import require_source
from sparta_lite.errors import SpartaError, shortened

_MOST = 1_000_000
_HIGHEST_SEED = 2**63 - 1

forge = typer.Typer(invoke_without_command=True)


@forge.callback()
def adapters(
    context: typer.Context,
    base: Annotated[
        str | None, typer.Option(help="A directory with a model and tokenizer, a GGUF file, or a hub id.")
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(help="A data file, a hub dataset, or 'tulu-v2': the paper's ten subsets."),
    ] = None,
    by: Annotated[str | None, typer.Option(help="The column whose values part it into subsets.")] = None,
    column: Annotated[
        str | None, typer.Option(help="The prompt's column, else known names are read.")
    ] = None,
    template: Annotated[
        str | None, typer.Option(help='In its place: text over columns, "{instruction}\\n{input}".')
    ] = None,
    response: Annotated[str, typer.Option(help="The column of the response to a prompt.")] = "response",
    split: Annotated[str | None, typer.Option(help="Which split of the data.")] = None,
    rows: Annotated[
        int | None, typer.Option(min=1, max=_MOST, help="Take at most so many rows of a subset.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Where the adapters go.", show_default="forged/<data>")
    ] = None,
    rank: Annotated[int, typer.Option(min=1, max=4096, help="Rank of the adapters.")] = 16,
    alpha: Annotated[float, typer.Option(help="Their alpha; the update is scaled by alpha / rank.")] = 32.0,
    epochs: Annotated[int, typer.Option(min=1, max=1000, help="Passes over a subset.")] = 1,
    rate: Annotated[float, typer.Option("--lr", help="Learning rate at its peak.")] = 2e-4,
    batch: Annotated[int, typer.Option(min=1, max=_MOST, help="Conversations in one optimizer step.")] = 32,
    micro_batch: Annotated[
        int, typer.Option(min=1, max=_MOST, help="Conversations in one forward pass.")
    ] = 4,
    max_length: Annotated[
        int, typer.Option(min=8, max=_MOST, help="Longest conversation, in tokens.")
    ] = 2048,
    quantization: Annotated[str, typer.Option(help="Of the base: 'nf4' or 'none'.")] = "nf4",
    seed: Annotated[int, typer.Option(min=0, max=_HIGHEST_SEED, help="All randomness follows from it.")] = 0,
) -> None:
    """Make one adapter per subset of a data set by supervised fine-tuning; finished ones are kept.

    tribe.adapters takes the directory that comes out.
    """
    if context.invoked_subcommand is not None:
        return
    if base is None and data is None:
        typer.echo(context.get_help())
        return
    if base is None or data is None:
        raise SpartaError("forge: give both --base and --data, and --by for the column that parts it")
    if column is not None and template is not None:
        raise SpartaError("forge: --column and --template: choose one")
    if quantization not in ("nf4", "none"):
        raise SpartaError(f"--quantization {shortened(quantization)}: it should be 'nf4' or 'none'")
    if not 1e-12 <= rate <= 10:
        raise SpartaError(f"--lr {rate:g}: give a learning rate from 1e-12 to 10, such as 2e-4")
    if not 1e-6 <= alpha <= 1e6:
        raise SpartaError(f"--alpha {alpha:g}: give a number from 1e-6 to 1e6, such as 32")
    if data != TULU_V2:
        require_source(data)
    require_base(base)
    quiet_libraries()
    from sparta_lite.campaign.forging import ForgePlan, forge_tribe
    from sparta_lite.training.sft import SftSettings

    plan = ForgePlan(
        base=base,
        data=data,
        by=by,
        columns=Columns(column if template is None else template, response),
        split=split,
        rows=rows,
        quantization="nf4" if quantization == "nf4" else "none",
        seed=seed,
        settings=SftSettings(
            rank=rank,
            alpha=alpha,
            epochs=epochs,
            learning_rate=rate,
            batch=batch,
            micro_batch=min(micro_batch, batch),
            max_length=max_length,
        ),
    )
    forge_tribe(plan, out or Path("forged") / Path(data).stem, say=typer.echo)


@forge.command()
def pocket(
    out: Annotated[Path, typer.Option(help="Where base/ and adapters/ go.")] = Path("forged-pocket"),
    seed: Annotated[int, typer.Option(min=0, max=_HIGHEST_SEED, help="All randomness follows from it.")] = 0,
) -> None:
    """Build the pocket tribe again, from nothing: a tiny base and its ten adapters."""
    if out.exists():
        raise SpartaError(f"{out}: exists already; give --out a directory that does not")
    quiet_libraries()
    from sparta_lite.pocket.forge import forge as build

    build(out, seed, say=typer.echo)
