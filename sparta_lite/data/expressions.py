r"""Mathematics in answers: finding ``\boxed{}``, and telling whether two expressions mean the same.

math-verify compares what is more than a number or a word. It enforces its time limits by signals, which reach
the main thread alone and no multiplication of giant numbers, so expressions of hostile size never get there.
"""

from __future__ import annotations

import logging
import math
import re
import threading
from decimal import Decimal
from typing import Any

_LONGEST = 200
_LONGEST_BOX = 600
_SECONDS = 5
_LARGEST_POWER = 10_000
"""The product of all numbers in exponents: what towers and chains of powers come to."""

_BOX = re.compile(r"\\boxed\s*(?=\{)")
_PLAIN = re.compile(r"-?(?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d+)?")
_WORDS = re.compile(r"[A-Za-z][A-Za-z' -]+")
_DRESS = re.compile(r"\\(?:text|textbf|mathrm|mathbf|mathit|textit)\s*\{([^{}]*)\}")
_UNIT = re.compile(r"(?<=[\d})])\s*(?:\\[,;!: ]\s*)?\\(?:text|mathrm)\s*\{[a-zA-Z./ ]+\}(?:\^\{?\d\}?)?$")
_ENDLESS = re.compile(
    r"\\(?:sum|prod|int|oint|lim|infty!)|!.*!|\d{3,}\s*!|[)\]}]\s*!|\*\*|\d{31,}|\\binom.*\d{4,}", re.DOTALL
)
_POWER = re.compile(r"(?<=[\d)}\]])\s*\^\s*")


def boxes(text: str) -> list[tuple[int, str]]:
    r"""Place and content of every ``\boxed{}`` that is closed, outermost and inner ones alike."""
    found = []
    for start in _BOX.finditer(text):
        content = _group(text[start.end() : start.end() + _LONGEST_BOX])
        if content is not None:
            found.append((start.start(), content))
    return found


def plain(text: str) -> Decimal | None:
    """The number that ``text`` is, separators of thousands allowed; None where it is none."""
    text = text.strip()
    if (
        len(text) > _LONGEST
        or not any(character.isdigit() for character in text)
        or not _PLAIN.fullmatch(text)
    ):
        return None
    return Decimal(text.replace(",", ""))


def same_expression(gold: str, said: str) -> bool | None:
    """Whether both mean the same; None where ``said`` cannot be read.

    Args:
        gold: LaTeX, a plain number or a word.
        said: the same, whatever a model wrote.
    """
    gold, said = _undressed(gold), _undressed(said)
    if "".join(gold.split()).casefold() == "".join(said.split()).casefold():
        return True
    numbers = plain(gold), plain(said)
    if None not in numbers:
        return numbers[0] == numbers[1]
    if _WORDS.fullmatch(gold):
        return False if said else None
    if _is_hostile(said):
        return None
    answer = _parsed(said)
    return _verified(_parsed(gold), answer) if answer else None


def _undressed(text: str) -> str:
    return _DRESS.sub(r"\1", _UNIT.sub("", text.strip())).strip().strip("$").rstrip(".").strip()


def _group(text: str) -> str | None:
    """What the braces hold that ``text`` begins with."""
    depth = 0
    for place, character in enumerate(text):
        depth += {"{": 1, "}": -1}.get(character, 0)
        if depth == 0:
            return text[1:place]
    return None


def _is_hostile(text: str) -> bool:
    """Whether reading ``text`` could take forever: too long, endless, or of astronomic size."""
    if len(text) > _LONGEST or text.count("{") != text.count("}") or _ENDLESS.search(text):
        return True
    powers = []
    for power in _POWER.finditer(text):
        rest = text[power.end() :]
        exponent = _group(rest) if rest.startswith("{") else rest if rest.startswith("(") else rest[:1]
        if exponent is None or "^" in exponent:
            return True
        powers += [int(number) for number in re.findall(r"\d+", exponent)]
    return math.prod(max(number, 1) for number in powers) > _LARGEST_POWER


def _parsed(text: str) -> Any:
    library = _math_verify()
    try:
        return library.parse(
            f"\\boxed{{{text}}}",
            extraction_config=[library.LatexExtractionConfig()],
            fallback_mode="no_fallback",
            parsing_timeout=_seconds(),
        )
    except Exception:  # its grammar fails in many ways, all of which mean: cannot be read
        return []


def _verified(gold: Any, answer: Any) -> bool | None:
    try:
        return bool(_math_verify().verify(gold, answer, timeout_seconds=_seconds()))
    except Exception:
        return None


def _math_verify() -> Any:
    import math_verify  # type: ignore[import-untyped]

    # It warns about every expression that it gives up, and about limits of time that are switched off.
    logging.getLogger("math_verify").setLevel(logging.ERROR)
    return math_verify


def _seconds() -> int | None:
    return _SECONDS if threading.current_thread() is threading.main_thread() else None
