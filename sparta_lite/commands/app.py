"""The Typer application. A command's module is imported when it is named, or when help lists all."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator
from difflib import get_close_matches
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typer.main import get_command

from sparta_lite import __version__
from sparta_lite.commands.usage import INTERRUPTED, usage
from sparta_lite.errors import SpartaError, one_line

_USAGE: Any = typer.BadParameter.__bases__[0]
"""What typer raises for a command line that it cannot take."""


_COMMANDS = {
    "run": "run",
    "watch": "watch",
    "list": "list_runs",
    "report": "report",
    "ablate": "ablate",
    "replay": "replay",
    "plan": "plan",
    "doctor": "doctor",
    "eval": "evaluate",
    "export": "export",
    "chat": "chat",
    "audit": "audit",
    "forge": "forge",
}
"""Each command, which is a module of this package, and its function there, or its own Typer application."""


class _Commands(TyperGroup):
    """Makes a command when it is asked for; says what a user did wrong in one line instead of a traceback."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name in _COMMANDS and cmd_name not in self.commands:
            self.commands[cmd_name] = _made(cmd_name)
        return super().get_command(ctx, cmd_name)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        try:
            return super().resolve_command(ctx, args)
        except _USAGE as error:  # Typer compares with the commands that it has
            if matches := get_close_matches(args[0], _COMMANDS):
                error.message = f"{error.message.rstrip('.')}. Did you mean {', '.join(map(repr, matches))}?"
            raise

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


def _made(name: str) -> Any:
    """The command as Typer makes it."""
    found = getattr(importlib.import_module(f"sparta_lite.commands.{name}"), _COMMANDS[name])
    if not isinstance(found, typer.Typer):
        alone = typer.Typer(add_completion=False)
        alone.command(name)(found)
        return get_command(alone)
    made = get_command(found)
    made.name = name
    return made


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
