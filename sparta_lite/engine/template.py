"""The base's own chat template: the one way from a conversation to text."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sparta_lite.engine.rendering import RenderingError, RenderingLimit, renderer
from sparta_lite.errors import SpartaError

Message = tuple[str, str]
"""Role and content."""

_SLOT = re.compile("\ue000(\\d+)\ue001")  # private-use characters: no template and no text means them
_OPEN = "\ue000...\ue001 "  # with a space at its end: whether it is still there tells if templates trim
_ROLES = 4  # that a message names


class TurnsError(SpartaError):
    """A conversation that the base's chat template does not take; another one may be sound."""


def now() -> datetime:
    """The time to the second, as a run records it for its templates."""
    return datetime.now().replace(microsecond=0)


def slot(number: int) -> str:
    """A content that is to be filled in later; see ``pieces``."""
    return f"\ue000{number}\ue001"


def pieces(text: str) -> list[str | int]:
    """Text in which the slots stand apart from what is between them."""
    return [int(piece) if index % 2 else piece for index, piece in enumerate(_SLOT.split(text))]


def roles(conversation: Sequence[Message]) -> str:
    """Who speaks, for messages; of a long conversation the first turns."""
    first = [role for role, _ in conversation[:_ROLES]]
    return ", ".join(first if len(conversation) <= _ROLES else [*first, "..."])


@dataclass(frozen=True)
class Template:
    tokenizer: Any
    date: datetime = field(default_factory=now)
    """What a template that prints the date takes for now."""

    def render(
        self,
        conversation: Sequence[Message],
        *,
        answer: bool = False,
        open_end: bool = False,
        thinking: bool | None = None,
        advice: str = "",
    ) -> str:
        """A conversation as text, within limits on time, memory and size.

        Args:
            conversation: its messages.
            answer: whether the beginning of an answer stands at the end.
            open_end: whether the last message is to go on: nothing stands behind its content.
            thinking: whether the model may think first, where the template asks; None: not said.
            advice: what to do when the template refuses these turns.

        Raises:
            TurnsError: the template refuses the conversation, or breaks over it.
            SpartaError: it does not come to an end within the limits.
        """
        messages = [{"role": role, "content": content} for role, content in conversation]
        if open_end:
            messages[-1]["content"] += _OPEN
        variables = {**self.tokenizer.special_tokens_map, "add_generation_prompt": answer}
        if thinking is not None:
            variables["enable_thinking"] = thinking  # as Qwen3's template calls it
        try:
            source = self.tokenizer.get_chat_template()
            text = renderer.render(source, messages, self.date.isoformat(), variables)
            return _cut_open(text) if open_end else text
        except RenderingLimit as error:
            raise SpartaError(
                f"base: its chat template {error} to render one conversation; use another base, or mend it"
            ) from error
        except (RenderingError, ValueError) as error:
            reason = str(error).strip().partition("\n")[0][:100]
            what = f"base: its chat template refuses the turns {roles(conversation)} ({reason})"
            raise TurnsError(f"{what}; {advice}" if advice else what) from error

    def tokens(self, text: str) -> list[int]:
        """Tokens of what the template itself has written."""
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])


def _cut_open(text: str) -> str:
    """Text up to where the last message's content ends, without the spaces there if the template trims.

    Raises:
        ValueError: the content is not there.
    """
    mark = _OPEN.strip()
    end = text.rindex(mark)
    return text[:end] if text.startswith(_OPEN, end) else text[:end].rstrip()
