"""Conversations to imitate, parted by a column into the subsets that make one adapter each."""

from __future__ import annotations

import re
import string
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sparta_lite.data.rows import kind, read_rows
from sparta_lite.errors import SpartaError
from sparta_lite.randomness import generator

TULU_V2 = "tulu-v2"
_TULU_V2_PLACE = "allenai/tulu-v2-sft-mixture"
_TULU_V2_COLUMN = "dataset"
_TULU_V2_SUBSETS = {
    "code_alpaca": "code_alpaca",
    "cot": "cot",
    "flan_v2": "flan_v2",
    "gpt4_alpaca": "gemini_alpaca",  # the paper's has Alpaca's answers by Gemini, the mixture those by GPT-4
    "lima": "lima",
    "oasst1": "oasst1",
    "open_orca": "open_orca",
    "science": "science",  # of several parts, such as science.scierc_ner
    "sharegpt": "sharegpt",
    "wizardlm": "wizardlm",
}
"""The mixture's name of a subset -> the paper's."""

_ROLES = ("system", "user", "assistant")
_NOT_IN_A_NAME = re.compile(r"[^\w.-]+")

Message = tuple[str, str]
"""Role and text."""
Conversation = tuple[Message, ...]


@dataclass(frozen=True)
class Columns:
    """Which columns make a conversation: ``messages``, or a prompt and its response."""

    prompt: str | None = None
    """The prompt's column, or text over columns such as ``"{instruction}\\n{input}"``; None: messages."""
    response: str = "response"
    messages: str = "messages"


@dataclass(frozen=True)
class Subsets:
    conversations: Mapping[str, Sequence[Conversation]]
    """Subset -> its conversations, in the file's order; the names can name directories."""
    skipped: int
    """Rows in which no assistant says anything."""


def read_subsets(path: str, by: str | None, columns: Columns, split: str | None = None) -> Subsets:
    """Read conversations and part them by a column's values.

    Args:
        path: as ``rows.read_rows`` takes it, or ``tulu-v2``: the paper's ten subsets.
        by: the column whose value names a row's subset; None only with ``tulu-v2``, which brings its own.
        columns: where the conversation stands in a row.
        split: None: the only one, or ``train``.

    Raises:
        SpartaError: nothing can be read, a column is missing, a row is no conversation, or there are fewer
            than three subsets.
    """
    tulu = path == TULU_V2
    by = by or (_TULU_V2_COLUMN if tulu else None)
    if by is None:
        raise SpartaError(f"{path}: which column parts it into subsets? Name it with --by")
    rows = read_rows(_TULU_V2_PLACE if tulu else path, None, split)
    parted: dict[str, list[Conversation]] = {}
    skipped = 0
    for row in rows:
        where = f"{path}, {row.place}"
        if not isinstance(row.value, dict):
            raise SpartaError(f"{where}: is {kind(row.value)}; give an object with named columns")
        subset = _subset(row.value, by, where)
        if tulu:
            known = _TULU_V2_SUBSETS.get(subset.partition(".")[0])
            if known is None:
                continue
            subset = known
        conversation = _conversation(row.value, columns, where)
        if any(role == "assistant" and text.strip() for role, text in conversation):
            parted.setdefault(subset, []).append(conversation)
        else:
            parted.setdefault(subset, [])
            skipped += 1
    empty = [name for name, conversations in parted.items() if not conversations]
    if empty:
        raise SpartaError(
            f"{path}: no assistant says anything in the subset {empty[0]!r}; fill it or remove it"
        )
    if len(parted) < 3:
        raise SpartaError(
            f"{path}: column {by!r} has {len(parted)} different values, a tribe needs at least 3 adapters; "
            "part it by another column"
        )
    return Subsets({name: parted[name] for name in sorted(parted)}, skipped)


def sample(
    conversations: Sequence[Conversation], rows: int | None, seed: int, name: str
) -> Sequence[Conversation]:
    """At most ``rows`` of a subset, drawn by seed and name, in the file's order."""
    if rows is None or rows >= len(conversations):
        return conversations
    chosen = generator("forge rows", seed, name).sample(range(len(conversations)), rows)
    return [conversations[index] for index in sorted(chosen)]


def _subset(row: Mapping[str, Any], by: str, where: str) -> str:
    if by not in row:
        raise SpartaError(f"{where}: has no column {by!r} to part by; it has {', '.join(row)}")
    value = row[by]
    if not isinstance(value, str | int) or isinstance(value, bool) or not str(value).strip():
        raise SpartaError(f"{where}: column {by!r} is {value!r}; it must name the row's subset")
    return _NOT_IN_A_NAME.sub("_", str(value).strip()).lstrip(".-") or "_"


def _conversation(row: Mapping[str, Any], columns: Columns, where: str) -> Conversation:
    if columns.prompt is None:
        return _messages(row, columns.messages, where)
    if "{" in columns.prompt:
        prompt = "".join(_filled(row, columns.prompt, where))
    else:
        prompt = _text(row, columns.prompt, where)
    return (("user", prompt), ("assistant", _text(row, columns.response, where)))


def _filled(row: Mapping[str, Any], template: str, where: str) -> Iterator[str]:
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError as error:
        raise SpartaError(f'--template {template!r}: {error}; write columns as "{{name}}"') from error
    for text, name, _, _ in parts:
        yield text
        if name is not None:
            yield _text(row, name, where)


def _messages(row: Mapping[str, Any], column: str, where: str) -> Conversation:
    if column not in row:
        raise SpartaError(
            f"{where}: has no column {column!r}; it has {', '.join(row)}: name the prompt with --column or "
            "--template, and --response"
        )
    given = row[column]
    if not isinstance(given, list) or not all(isinstance(message, Mapping) for message in given):
        raise SpartaError(f"{where}: column {column!r} must be a list of messages with role and content")
    conversation = []
    for message in given:
        role, text = message.get("role"), message.get("content")
        if role not in _ROLES or not isinstance(text, str):
            raise SpartaError(
                f"{where}: a message of {column!r} has role {role!r} and {kind(text)} for content; "
                f"give one of {', '.join(_ROLES)} and text"
            )
        conversation.append((role, text))
    return tuple(conversation)


def _text(row: Mapping[str, Any], column: str, where: str) -> str:
    if column not in row:
        raise SpartaError(f"{where}: has no column {column!r}; it has {', '.join(row)}")
    if not isinstance(row[column], str):
        raise SpartaError(f"{where}: column {column!r} holds {kind(row[column])}; it must be text")
    return str(row[column])
