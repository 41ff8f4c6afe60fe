"""Which columns of a known form hold the instruction, where no setting names one.

TRL's forms, chats, ShareGPT, Alpaca, questions with choices and MATH are known by their columns. What could
be read in two ways, or only with a part left out, is refused with the settings that read it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sparta_lite.data.choices import LISTS, choices_of
from sparta_lite.data.fields import messages_in, text_of, value_of
from sparta_lite.data.messages import opening_of
from sparta_lite.data.row import FaultError, Row, all_columns, columns_of, cut, listed
from sparta_lite.errors import SpartaError

CHATS = ("messages", "conversations", "conversation")
"""Columns of whole conversations."""

SYSTEMS = ("system", "system_prompt")
"""Columns of a system prompt that stands beside a row's conversation."""

TEXTS_BESIDE = ("context", "passage", "article", "document", "story", "background")
"""Columns of a text that a question may be about."""

_ASKED = ("prompt", "instruction", "question", "problem")
_PICTURES = ("image", "images", "audio", "video")


Chats = Callable[[Row], Iterable[Sequence[Any]]]
"""The conversations of a row of which only the opening is read."""


@dataclass(frozen=True)
class Reading:
    """How the instruction of a row is read."""

    take: Callable[[Row], str]
    chats: Chats


def chats_in(*columns: str) -> Chats:
    """Those that stand in ``columns``."""

    def found(row: Row) -> Iterator[Sequence[Any]]:
        for column in columns:
            with contextlib.suppress(FaultError):  # a template's column may be missing
                messages = messages_in(value_of(row, column))
                if messages is not None:
                    yield messages

    return found


def _with_system(chats: Chats) -> Chats:
    """``chats``, behind the system prompt that stands in a column of its own."""

    def found(row: Row) -> Iterator[Sequence[Any]]:
        given = next((columns_of(row)[name] for name in SYSTEMS if columns_of(row).get(name)), None)
        alone = [] if given is None else [[("user", "")]]
        for messages in list(chats(row)) or alone:
            yield messages if given is None else [("system", str(given)), *messages]

    return found


def detected(rows: Sequence[Row], path: str) -> Reading:
    """The reading that the rows' columns ask for.

    Raises:
        SpartaError: none is known, or there are several.
    """
    columns = all_columns(rows)
    asked = [name for name in _ASKED if name in columns]
    if len(asked) > 1:
        raise SpartaError(
            f"{path}: its instruction may stand in {' or '.join(asked)}; set data.column to one"
        )
    if asked:
        _require_nothing_beside(rows, asked[0], path)
        return Reading(_FORMS[asked[0]], _with_system(chats_in(asked[0])))
    if chat := next((name for name in CHATS if name in columns), None):
        return Reading(lambda row: text_of(row, chat), _with_system(chats_in(chat)))
    if {"chosen", "rejected"} <= set(columns):
        return Reading(common_prompt, _chosen_chat)
    if not columns:  # no row is an object, which is said row by row
        return Reading(lambda row: text_of(row, "prompt"), chats_in())
    example = "text" if "text" in columns else columns[0]
    raise SpartaError(
        f"{path}: which of its columns holds the instruction: {listed(columns)}? Set data.column to one, "
        f"such as data.column: {cut(example, 40)}, or data.template to text over several"
    )


def with_input(row: Row) -> str:
    """Alpaca's ``instruction``, and below it ``input`` where that is neither null nor blank."""
    given = columns_of(row).get("input")
    below = "" if given is None else text_of(row, "input")
    return joined(text_of(row, "instruction"), below)


def with_choices(row: Row) -> str:
    """A question, and below it its choices with the letters from A on, where it has any."""
    columns = columns_of(row)
    choices = choices_of(columns)
    if choices is None and (given := next((name for name in LISTS if columns.get(name)), None)):
        raise FaultError(
            f"holds choices that cannot be read in column '{given}'", "write them as a list of texts"
        )
    return joined(text_of(row, "question"), "" if choices is None else choices.lines())


def joined(above: str, below: str) -> str:
    return f"{above}\n{below}" if below.strip() else above


def common_prompt(row: Row) -> str:
    """What ``chosen`` and ``rejected`` begin with alike, as TRL takes it for a prompt; of texts whole words.

    Raises:
        FaultError: they have no common beginning.
    """
    chosen, rejected = value_of(row, "chosen"), value_of(row, "rejected")
    talks = messages_in(chosen), messages_in(rejected)
    if isinstance(chosen, str) and isinstance(rejected, str) and None in talks:
        return _common_words(chosen, rejected)
    first, second = _messages(talks[0], "chosen"), _messages(talks[1], "rejected")
    alike = 0
    while alike < min(len(first), len(second)) and first[alike] == second[alike]:
        alike += 1
    if not alike:
        raise FaultError("has no common beginning of chosen and rejected")
    return opening_of(first[:alike]).text


def _chosen_chat(row: Row) -> Iterator[Sequence[Any]]:
    talk = messages_in(value_of(row, "chosen"))
    if talk is not None:
        yield talk


def _messages(messages: Sequence[Any] | None, name: str) -> Sequence[Any]:
    if messages is None:
        raise FaultError(f"holds neither text nor messages in column '{name}'")
    return messages


def _common_words(first: str, second: str) -> str:
    length = 0
    while length < min(len(first), len(second)) and first[length] == second[length]:
        length += 1
    alike = first[:length]
    if not all(text[length : length + 1].strip() == "" for text in (first, second)):
        while alike and not alike[-1].isspace():  # a word that goes on differently is no part of it
            alike = alike[:-1]
    if not alike.strip():
        raise FaultError("has no common beginning of chosen and rejected")
    return alike.rstrip()


def beside(rows: Sequence[Row], asked: str, names: Sequence[str]) -> str | None:
    """The first column of ``names`` in which some row has something beside its question."""
    return next(
        (name for name in names if name != asked and any(columns_of(row).get(name) for row in rows)), None
    )


def _require_nothing_beside(rows: Sequence[Row], asked: str, path: str) -> None:
    """Refuse a question that leans on another column."""
    name = beside(rows, asked, (*TEXTS_BESIDE, "history", *_PICTURES))
    if name is None:
        return
    way = f"data.column: {asked} reads it without"
    if name not in _PICTURES:
        way = f'data.template: "{{{name}}}\\n{{{asked}}}" reads both, data.column: {asked} this alone'
    raise SpartaError(f"{path}: has a column '{name}' beside '{asked}'; {way}")


_FORMS: dict[str, Callable[[Row], str]] = {
    "prompt": lambda row: text_of(row, "prompt"),
    "instruction": with_input,
    "question": with_choices,
    "problem": lambda row: text_of(row, "problem"),
}
