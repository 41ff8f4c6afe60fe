"""Regular expressions that a file brings: they must be sound, and get a limit on time."""

from __future__ import annotations

import re
import warnings
from time import monotonic
from typing import Any

import regex  # type: ignore[import-untyped]

from sparta_lite.errors import SpartaError

LIMIT = 5.0
"""Seconds for all that one file's expressions are asked."""


class Patterns:
    """The expressions of one file, which share the limit.

    ``re`` says what an expression means, for it is what PEFT reads them with, but it cannot be stopped: the
    matching is done by ``regex``, which speaks the same language.
    """

    def __init__(self, where: str) -> None:
        """``where``: the file, as errors name it."""
        self._where = where
        self._end = monotonic() + LIMIT
        self._compiled: dict[str, Any] = {}

    def match(self, setting: str, expression: str, text: str, whole: bool = False) -> Any:
        """What ``re.match`` gives for ``text``.

        Args:
            setting: where the expression stands in the file, for errors.
            expression: of the file, or made of one.
            text: what is tried.
            whole: as ``re.fullmatch``.

        Raises:
            SpartaError: it is no regular expression, or the time is over.
        """
        if expression not in self._compiled:
            self._compiled[expression] = self._compile(setting, expression)
        compiled, left = self._compiled[expression], self._end - monotonic()
        try:
            if left > 0:
                return (compiled.fullmatch if whole else compiled.match)(text, timeout=left)
        except TimeoutError:
            pass
        raise SpartaError(
            f"{self._where}: matching {setting} takes longer than {LIMIT:g} s; name the modules in a list"
        )

    def _compile(self, setting: str, expression: str) -> Any:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter(
                    "ignore", FutureWarning
                )  # of sets inside sets, which PEFT reads as re does
                re.compile(expression)
                return regex.compile(expression)
        except (re.error, regex.error, RecursionError, OverflowError) as error:
            reason = str(error).partition("\n")[0][:60] or type(error).__name__
            raise SpartaError(
                f"{self._where}: {setting} holds no regular expression ({reason}); correct it, or name the "
                "modules in a list"
            ) from error
