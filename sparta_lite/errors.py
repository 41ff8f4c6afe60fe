"""The one exception that a user is meant to see, and how it quotes what others have written."""

from __future__ import annotations

import reprlib
from datetime import date

LONGEST = 300
"""Characters of a message."""

_QUOTED = 60  # characters of a foreign value that a message repeats
_ADVICE = 220  # characters of the last clause that stay when a message is cut
_CUT = "..."


class SpartaError(Exception):
    """Bad input or a state that cannot go on.

    The message is one line of at most ``LONGEST`` characters: what was wrong, where, and what to do
    instead. The command line prints it without a traceback and exits with code 2. What is longer is cut:
    first its longest words, such as paths, then its middle; the advice behind the last semicolon stays.
    """

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


def shown(value: object, limit: int = _QUOTED) -> str:
    """A foreign value as a message repeats it: on one line, in at most ``limit`` characters.

    Text stands in quotation marks; null, true and false are called what JSON and YAML call them.
    """
    return shortened(_Quoting(limit).repr(value), limit)


def shortened(text: str, limit: int = _QUOTED) -> str:
    """``text`` on one line, its middle left out where it is longer than ``limit``."""
    text = _printable(text)
    if len(text) <= limit:
        return text
    kept = max(0, limit - len(_CUT))
    return text[: kept - kept // 3] + _CUT + text[len(text) - kept // 3 :]


def one_line(message: str, limit: int = LONGEST) -> str:
    """``message`` on one line of at most ``limit`` characters, its advice whole if it can be."""
    text = _printable(message)
    if len(text) <= limit:
        return text
    said, cut, advice = text.rpartition("; ")
    if not said or len(advice) > _ADVICE:
        said, cut, advice = text, "", ""
    room = limit - len(cut + advice)
    for word in sorted(said.split(" "), key=len, reverse=True):
        if len(said) <= room or len(word) <= _QUOTED:
            break
        said = said.replace(word, shortened(word, max(_QUOTED, len(word) - (len(said) - room))))
    if len(said) > room:
        end = said[-_ADVICE:] if not advice else ""
        said = said[: room - len(_CUT + end)] + _CUT + end
    return said + cut + advice


def _printable(text: str) -> str:
    """Line breaks and what else moves a terminal's cursor become spaces."""
    return text if text.isprintable() else "".join(each if each.isprintable() else " " for each in text)


class _Quoting(reprlib.Repr):
    """``repr`` that costs little however large, deep or circular a value is."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.maxstring = self.maxother = self.maxlong = limit
        self.maxlevel = 3

    def repr_str(self, x: str, level: int) -> str:
        return repr(shortened(x, self.maxstring) if len(x) > self.maxstring else x)

    def repr_int(self, x: int, level: int) -> str:
        digits = int(x.bit_length() * 0.30103) + 1  # Python itself refuses to write thousands of them
        return repr(x) if digits <= self.maxlong else f"a number of {digits} digits"

    def repr_date(self, x: date, level: int) -> str:
        return x.isoformat()

    repr_datetime = repr_date

    def repr_bool(self, x: bool, level: int) -> str:
        return "true" if x else "false"

    def repr_NoneType(self, x: None, level: int) -> str:  # noqa: N802
        return "null"
