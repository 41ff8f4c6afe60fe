"""From instructions and responses to token ids, through the model's own chat template.

What users and models wrote is tokenised apart from the template, with special tokens read as
plain text: no response can open a turn of its own.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from itertools import pairwise
from typing import Any, Literal

from sparta_lite.engine.ending import Ending
from sparta_lite.engine.template import Message, Template, now, pieces, slot
from sparta_lite.errors import SpartaError

Layout = Literal["turns", "message"]
"""``turns``: question and answer as turns, the request as the next user turn.
``message``: the paper's single user message that quotes both."""

SCORE_PREFIX = '{"score": '
SCORES = range(1, 11)

_QUESTION, _RESPONSE = slot(0), slot(1)


@dataclass(frozen=True)
class ScoreTokens:
    """How the tokenizer writes a verdict."""

    prefix: tuple[int, ...]
    """Tokens that every score shares, forced before the score is read."""
    digits: tuple[int, ...]
    """The tokens of 1 to 9."""
    ten: tuple[int, ...]
    """The tokens of 10: one, or the token of 1 and another."""


@dataclass(frozen=True)
class Question:
    """What a fighter reads."""

    ids: tuple[int, ...]
    """The generation prompt included."""
    cut: int
    """Tokens of the instruction that were left out to fit."""


@dataclass(frozen=True)
class JudgePrompt:
    """What a judge reads before it is made to give a score."""

    ids: tuple[int, ...]
    """The generation prompt included, the forced prefix not."""
    cut: int
    """Tokens of the response that were left out to fit."""


@dataclass(frozen=True)
class Chat:
    """The conversation format of one run."""

    tokenizer: Any
    system: str | None
    """System prompt of the question; None leaves it to the template."""
    layout: Layout
    request: str
    """What asks a judge for a score. In the layout ``message`` it holds ``{question}`` and ``{response}``."""
    thinking: bool = False
    """Whether a fighter may think first, where the template offers it; judges never do."""
    date: datetime = field(default_factory=now)
    """What a template that prints the date prints."""
    ending: Ending = field(default_factory=Ending)
    """The end of an answer, of which a judge reads nothing."""

    def question(self, instruction: str, limit: int) -> Question:
        """The prompt that a fighter answers.

        Args:
            instruction: what the user asks.
            limit: the most tokens that the prompt may have; the instruction's end is cut to fit.

        Raises:
            SpartaError: the template alone is longer.
        """
        parts = self._question_parts
        room = limit - sum(len(part) for part in parts if isinstance(part, list))
        if room < 1:
            raise SpartaError(
                f"a prompt of {limit} tokens has no room for an instruction, the chat template alone takes "
                f"{limit - room}; raise generation.max_prompt_tokens, or lower generation.max_new_tokens "
                "where it leaves too little of the base's context"
            )
        text = self.text(instruction)
        return Question(tuple(self._fill(parts, (text[:room],))), max(0, len(text) - room))

    def judge(self, instruction: str, response: Sequence[int], limit: int) -> JudgePrompt | None:
        """The prompt that a judge reads.

        Args:
            instruction: the duel's instruction.
            response: the very tokens of the response; its special tokens are dropped.
            limit: the most tokens that the prompt may have. The response alone is cut to fit.

        Returns:
            None when question and request alone leave no room for a response.
        """
        question, answer = self.text(instruction), self.plain(response)
        fixed = sum(len(part) for part in self._judge_parts if isinstance(part, list))
        room = limit - fixed - len(question)
        if room < 1:
            return None
        cut = max(0, len(answer) - room)
        return JudgePrompt(tuple(self._fill(self._judge_parts, (question, answer[:room]))), cut)

    def text(self, text: str) -> list[int]:
        """Tokens of foreign text; what looks like a special token in it stays text."""
        # The tokenizer splits what is marked special alone, and Qwen's <think> and <tool_call> are not.
        begins = () if self._controls is None else self._controls.finditer(text)
        cuts = [0, *(begin.start() + 1 for begin in begins), len(text)]
        return [token for start, end in pairwise(cuts) for token in self._foreign(text[start:end])]

    def plain(self, response: Sequence[int]) -> list[int]:
        """A response without special tokens, and without the end of turn where that is plain text."""
        ids = [token for token in response if token not in self._special]
        if not self.ending.text:
            return ids
        end = self.ending.ids(self.template)
        if ids[-len(end) :] == end:
            return ids[: -len(end)]
        text = self.tokenizer.decode(ids)
        return self.text(self.ending.cut(text)) if self.ending.text in text else ids

    @cached_property
    def template(self) -> Template:
        """What all of a run's conversations are written with."""
        return Template(self.tokenizer, self.date)

    @cached_property
    def score_tokens(self) -> ScoreTokens:
        """How this tokenizer writes 1 to 10 after the forced prefix.

        Raises:
            SpartaError: it does not write 1 to 9 as one token each.
        """
        written = [self.template.tokens(f"{SCORE_PREFIX}{score}") for score in SCORES]
        shared = 0
        while all(len(ids) > shared + 1 and ids[shared] == written[0][shared] for ids in written):
            shared += 1
        digits, ten = [ids[shared:] for ids in written[:9]], written[9][shared:]
        if len({ids[0] for ids in digits}) < 9 or any(len(ids) > 1 for ids in digits):
            raise SpartaError("base: its tokenizer does not write the scores 1 to 9 as one token each")
        if len(ten) > 2 or (len(ten) == 2 and ten[0] != digits[0][0]):
            raise SpartaError(
                "base: its tokenizer writes the score 10 in a way that cannot be read in one pass"
            )
        return ScoreTokens(tuple(written[0][:shared]), tuple(ids[0] for ids in digits), tuple(ten))

    @cached_property
    def _special(self) -> frozenset[int]:
        added = self.tokenizer.added_tokens_decoder
        return frozenset(token for token, entry in added.items() if entry.special)

    @cached_property
    def _question_parts(self) -> list[list[int] | int]:
        return self._render([("user", _QUESTION)], slots=1, thinking=self.thinking)

    @cached_property
    def _judge_parts(self) -> list[list[int] | int]:
        if self.layout == "turns":
            turns = [("user", _QUESTION), ("assistant", _RESPONSE), ("user", self.request)]
        else:
            quoted = self.request.replace("{question}", _QUESTION).replace("{response}", _RESPONSE)
            turns = [("user", quoted)]
        return self._render(turns, slots=2, thinking=False)

    def _render(self, turns: list[Message], slots: int, thinking: bool) -> list[list[int] | int]:
        """The template's own tokens, with the numbers of the slots between them.

        Raises:
            SpartaError: the template refuses these turns, or does not show every slot once.
        """
        if self.system is not None:
            turns = [("system", self.system), *turns]
        advice = "leave the system prompt out or set judge.layout to 'message'"
        found = pieces(self.template.render(turns, answer=True, thinking=thinking, advice=advice))
        if sorted(piece for piece in found if isinstance(piece, int)) != list(range(slots)):
            raise SpartaError(
                "question and response must each appear once in a conversation, but the base's chat "
                "template, or the request to the judge, repeats or drops one; change judge.request or layout"
            )
        return [piece if isinstance(piece, int) else self.template.tokens(piece) for piece in found]

    @cached_property
    def _controls(self) -> re.Pattern[str] | None:
        """Where tokens begin that are not marked special, but steer a conversation; None: there are none.

        Other added tokens, such as runs of spaces or HTML tags, are how a tokenizer writes plain text.
        """
        template = str(self.tokenizer.chat_template)
        added = (entry for entry in self.tokenizer.added_tokens_decoder.values() if not entry.special)
        steering = [
            re.escape(entry.content)
            for entry in added
            if len(entry.content.strip()) > 1
            and (entry.content in template or entry.content.startswith("<|"))
        ]
        return re.compile(f"(?={'|'.join(steering)})") if steering else None

    def _foreign(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"])

    @staticmethod
    def _fill(parts: list[list[int] | int], texts: Sequence[list[int]]) -> list[int]:
        ids: list[int] = []
        for part in parts:
            ids += texts[part] if isinstance(part, int) else part
        return ids
