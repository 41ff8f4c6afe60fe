"""A command line that cannot be taken, in a plain sentence."""

from __future__ import annotations

from typing import Any

from sparta_lite.errors import shortened

INTERRUPTED = 130
"""The exit code after Ctrl-C, as shells have it."""

_WANTED = {
    "int_parsing": "a whole number",
    "int_parsing_size": "a whole number of fewer digits",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "greater_than_equal": "at least {ge:,}",
    "less_than_equal": "at most {le:,}",
}
"""pydantic's kinds of faults, by which typer reads numbers: what to give instead."""


def usage(error: Any) -> str:
    """What is wrong with an option or argument, and where to read what it takes.

    Args:
        error: typer's UsageError.
    """
    command = "sparta-lite" if error.ctx is None else error.ctx.command_path
    return f"{_fault(error)}; `{command} --help` shows what it takes"


def _fault(error: Any) -> str:
    option = getattr(getattr(error, "param", None), "opts", None)
    faults: list[Any] = getattr(error.__cause__, "errors", list)()
    if option and faults and faults[0]["type"] in _WANTED:
        wanted = _WANTED[faults[0]["type"]].format(**faults[0].get("ctx", {}))
        return f"{option[0]} {shortened(str(faults[0]['input']))}: give {wanted}"
    said = " ".join(str(error.format_message()).split()).rstrip(".").replace("Value error, ", "")
    return said[:1].lower() + said[1:]
