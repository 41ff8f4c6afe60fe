"""``sparta-lite chat``: try an adapter of a run, or several side by side."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import typer

from sparta_lite.commands.quiet import quiet_libraries
from sparta_lite.commands.unchecked import note_unchecked
from sparta_lite.errors import SpartaError
from sparta_lite.outcome.finished import open_run
from sparta_lite.show.text import clean

_NOTHING = "(an empty answer)"


def chat(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run's directory.")],
    adapters: Annotated[
        list[str] | None,
        typer.Option(
            "--adapter",
            help="Who answers: a name, 'best' or 'base'. Give it twice to compare.",
            show_default="best",
        ),
    ] = None,
    iteration: Annotated[
        int | None, typer.Option(help="As they were after so many iterations.", show_default="the last")
    ] = None,
) -> None:
    """Ask the adapters of a run; an empty line or Ctrl-D ends it. Each question stands on its own."""
    quiet_libraries()
    finished = open_run(run, iteration)
    from sparta_lite.outcome.talking import BEST, open_talk

    talk = open_talk(finished, adapters or [BEST])
    note_unchecked(run)
    for number, question in enumerate(_questions()):
        _show(talk.names, talk.ask(question, number))


def _questions() -> Iterator[str]:
    """What is asked, in UTF-8."""
    for question in _lines():
        try:
            question.encode()
        except UnicodeEncodeError as error:
            raise SpartaError("chat: a question is not UTF-8; save or type it in that encoding") from error
        yield question


def _lines() -> Iterator[str]:
    """What is typed, up to an empty line; all lines that are piped in, empty ones left out."""
    if not sys.stdin.isatty():
        yield from (line.strip() for line in sys.stdin if line.strip())
        return
    while True:
        try:
            question = input("> ").strip()
        except EOFError:
            typer.echo()
            return
        if not question:
            return
        yield question


def _show(names: Sequence[str], answers: Sequence[str]) -> None:
    if not sys.stdout.isatty():
        for name, answer in zip(names, answers, strict=True):
            typer.echo(f"{name}: {answer or _NOTHING}")
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(expand=True)
    for name in names:
        table.add_column(Text(name), ratio=1)
    table.add_row(*(Text("\n".join(map(clean, answer.splitlines())) or _NOTHING) for answer in answers))
    Console().print(table)
