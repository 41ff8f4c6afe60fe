"""The one exception that a user is meant to see."""

from __future__ import annotations


class SpartaError(Exception):
    """Bad input or a state that cannot go on.

    The message is one line: what was wrong, where, and what to do instead. The command line
    prints it without a traceback and exits with code 2.
    """


def shown(value: object, limit: int = 60) -> str:
    """A foreign value as a message repeats it: on one line, in at most ``limit`` characters."""
    text = "null" if value is None else repr(value)
    return text if len(text) <= limit else f"{text[: limit - 3]}..."
