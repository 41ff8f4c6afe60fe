"""The command line: parse, call, print."""

from __future__ import annotations


def main() -> None:
    """The console script ``sparta-lite``."""
    from sparta_lite.commands.app import app

    app(prog_name="sparta-lite")
