"""Conversations as tools write them: TRL's and OpenAI's messages, ShareGPT's turns, transcripts of text."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sparta_lite.data.row import FaultError, kind
from sparta_lite.errors import shown

Message = tuple[str, str]
"""Role, one of `ROLES`, and text."""
Conversation = tuple[Message, ...]

ROLES = ("system", "user", "assistant", "tool")

_ROLE_OF = {
    **{role: role for role in ROLES},
    "developer": "system",
    "human": "user",
    "prompter": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "ai": "assistant",
    "function": "tool",
    "observation": "tool",
    "ipython": "tool",
}
"""What tools call a role -> its name here. OpenAI's ``developer`` is the system prompt under a newer name."""

_ROLE_KEYS = ("role", "from")
_TEXT_KEYS = ("content", "value", "text")
_TEXT_PARTS = (None, "text", "input_text", "output_text")
_CALLS = ("tool_calls", "function_call")
_SPEAKER = re.compile(r"(?:\A|\n\n)(Human|Assistant): ?")
_REMOVE = "remove such rows"


@dataclass(frozen=True)
class Opening:
    """What a conversation begins with: what is asked before anybody has answered."""

    text: str
    """The user's turn."""
    system: bool
    """Whether a system prompt stands before it."""
    more: bool
    """Whether it is one turn of several."""


def is_conversation(value: Any) -> bool:
    """Whether ``value`` is a list of messages: objects that say who speaks."""
    return isinstance(value, list) and bool(value) and all(_says_who(entry) for entry in value)


def written_out(text: str) -> Any:
    """The messages that stand in a text, as in a cell of a CSV file; None where it is any other text.

    Raises:
        FaultError: they are written as Python writes a list.
    """
    start = text.lstrip()[:200]
    if not re.match(r"\[\s*\{", start) or not any(f"{key}" in start for key in _ROLE_KEYS):
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        if re.match(r"\[\s*\{\s*'(role|from|content|value)'\s*:", start):
            raise FaultError(
                "holds messages as Python writes them", "save the rows as JSON lines, with a list of messages"
            ) from None
        return None
    return value if is_conversation(value) else None


def transcript(text: str) -> Conversation | None:
    """The turns of a text whose paragraphs begin with ``Human:`` and ``Assistant:``; else None.

    An ``Assistant:`` at its end, with which a prompt asks for an answer, is no turn.
    """
    pieces = _SPEAKER.split(text)
    if pieces[0].strip() or pieces[1:2] != ["Human"] or "Assistant" not in pieces[3::2]:
        return None
    roles = ["user" if speaker == "Human" else "assistant" for speaker in pieces[1::2]]
    turns = tuple(zip(roles, (said.strip() for said in pieces[2::2]), strict=True))
    return turns[:-1] if turns[-1] == ("assistant", "") else turns


def opening_of(messages: Sequence[Any]) -> Opening:
    """The user's first turn; of several messages in a row all of them, joined by blank lines.

    Raises:
        FaultError: the user says nothing, or what was said cannot be read.
    """
    roles = [_role(message, number) for number, message in enumerate(messages, start=1)]
    if "user" not in roles:
        raise FaultError("holds no user's turn", _REMOVE)
    start = roles.index("user")
    end = start + 1
    while end < len(roles) and roles[end] == "user":
        end += 1
    asked = [_text(message, start + offset) for offset, message in enumerate(messages[start:end], start=1)]
    system = any(
        role == "system" and _text(message, number).strip()
        for number, (role, message) in enumerate(zip(roles[:start], messages, strict=False), start=1)
    )
    more = "assistant" in roles[:start] or "user" in roles[end:]
    return Opening("\n\n".join(asked), system, more)


def conversation_of(messages: Sequence[Any]) -> Conversation:
    """All messages, for learning from.

    Raises:
        FaultError: one of them cannot be read, or is more than text.
    """
    return tuple(_message(message, number) for number, message in enumerate(messages, start=1))


def _says_who(entry: Any) -> bool:
    return isinstance(entry, Mapping) and any(isinstance(entry.get(key), str) for key in _ROLE_KEYS)


def _message(message: Any, number: int) -> Message:
    role = _role(message, number)
    if isinstance(message, Mapping) and any(message.get(key) for key in _CALLS):
        raise FaultError(f"calls a tool in message {number}, which is no text", _REMOVE)
    return role, _text(message, number)


def _role(message: Any, number: int) -> str:
    if isinstance(message, tuple):
        return str(message[0])
    given = next((message[key] for key in _ROLE_KEYS if isinstance(message.get(key), str)), "")
    role = _ROLE_OF.get(given.strip().lower())
    if role is None:
        raise FaultError(
            f"has the role {shown(given)} in message {number}",
            f"name the roles {', '.join(ROLES)}, or remove such rows",
        )
    return role


def _text(message: Any, number: int) -> str:
    """A message's text; empty where its content is null.

    Parts are joined without anything between them, as chat templates that take parts do.
    """
    if isinstance(message, tuple):
        return str(message[1])
    content = next((message[key] for key in _TEXT_KEYS if key in message), None)
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "".join(_part(part, number) for part in content)
    raise FaultError(f"has {kind(content)} for the text of message {number}")


def _part(part: Any, number: int) -> str:
    if isinstance(part, str):
        return part
    if isinstance(part, Mapping) and part.get("type") in _TEXT_PARTS and isinstance(part.get("text"), str):
        return str(part["text"])
    what = part.get("type") if isinstance(part, Mapping) else None
    said = f"a part of type {shown(what)}" if isinstance(what, str) else kind(part)
    raise FaultError(f"holds {said} in message {number}, no text", _REMOVE)
