"""The Typer application. What is heavy to import is imported by the command that needs it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from sparta_lite import __version__
from sparta_lite.commands.ablate import ablate
from sparta_lite.commands.audit import audit
from sparta_lite.commands.chat import chat
from sparta_lite.commands.doctor import doctor
from sparta_lite.commands.eval import evaluate
from sparta_lite.commands.export import export
from sparta_lite.commands.forge import forge
from sparta_lite.commands.list import list_runs
from sparta_lite.commands.plan import plan
from sparta_lite.commands.replay import replay
from sparta_lite.commands.report import report
from sparta_lite.commands.run import INTERRUPTED, run
from sparta_lite.commands.usage import usage
from sparta_lite.commands.watch import watch
from sparta_lite.errors import SpartaError, one_line

_USAGE: Any = typer.BadParameter.__bases__[0]
"""What typer raises for a command line that it cannot take."""


class _Commands(TyperGroup):
    """Says what a user did wrong in one line instead of a traceback."""

    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        with _in_one_line():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: Any) -> Any:
        with _in_one_line():
            return super().invoke(ctx)


@contextlib.contextmanager
def _in_one_line() -> Iterator[None]:
    try:
        yield
    except SpartaError as error:
        raise _refused(str(error)) from error
    except _USAGE as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            raise
        raise _refused(usage(error)) from error
    except BrokenPipeError:
        raise
    except OSError as error:
        place = "" if error.filename is None else f"{error.filename}: "
        raise _refused(
            f"{place}{error.strerror or error}; give a place that exists and that you may use"
        ) from error
    except KeyboardInterrupt as error:
        typer.echo("interrupted", err=True)
        raise typer.Exit(INTERRUPTED) from error


def _refused(message: str) -> typer.Exit:
    line = f"error: {message}"
    typer.echo(one_line(line), err=True)
    return typer.Exit(2)


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Align a tribe of LoRA adapters that duel, judge each other and learn, on one resident base.",
)
app.command()(run)
app.command()(watch)
app.command("list")(list_runs)
app.command()(report)
app.command()(ablate)
app.command()(replay)
app.command()(plan)
app.command()(doctor)
app.command("eval")(evaluate)
app.command()(export)
app.command()(chat)
app.command()(audit)
app.add_typer(forge, name="forge")


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"sparta-lite {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and stop."),
    ] = False,
) -> None:
    pass
