"""Training examples: a task to answer, or a given answer to score, as token ids with their targets."""

from __future__ import annotations

import functools
import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from sparta_lite.pocket import JUDGE_REQUEST, SCORE_PREFIX
from sparta_lite.pocket.skills import Item

IGNORED = -100  # the target that torch's cross-entropy leaves out
_HIGH, _LOW = (9, 9, 9, 10), (2, 2, 2, 1)


@dataclass(frozen=True)
class Lesson:
    """``targets[i]`` is the token that should follow ``tokens[i]``, or ``IGNORED``.

    ``faults`` holds the places of a response up to its first wrong token, and which one is that.
    """

    tokens: list[int]
    targets: list[int]
    faults: tuple[tuple[int, bool], ...] = ()


class Writer:
    """Writes lessons in the tokens of one tokenizer."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self._encode = functools.lru_cache(maxsize=1 << 16)(
            lambda text: tuple(tokenizer.encode(text, add_special_tokens=False))
        )

    def task(self, item: Item, response: str) -> Lesson:
        """The question as a user turn; the response and its end of turn are the targets."""
        return self._lesson(item, response, (_asked(item.question), False), (f"{response}<|im_end|>", True))

    def marked(self, item: Item, rng: random.Random, learn_right: bool = False) -> Lesson:
        """A right answer (half of the time) with a high score, or a wrong one with a low score.

        Question, response and request stand as turns; the score behind its forced prefix is the target, and
        with ``learn_right`` a right answer too.
        """
        right = rng.random() < 0.5
        response = item.answer if right else mistake(item, rng)
        score = rng.choice(_HIGH if right else _LOW)
        return self._lesson(
            item,
            response,
            (_asked(item.question), False),
            (f"{response}<|im_end|>", right and learn_right),
            (f"\n{_asked(JUDGE_REQUEST)}{SCORE_PREFIX}", False),
            (f"{score}}}<|im_end|>", True),
        )

    def _lesson(self, item: Item, response: str, *parts: tuple[str, bool]) -> Lesson:
        tokens: list[int] = []
        learned: list[bool] = []
        for text, learn in parts:
            ids = self._encode(text)
            tokens += ids
            learned += [learn] * len(ids)
        targets = [token if learn else IGNORED for token, learn in zip(tokens[1:], learned[1:], strict=True)]
        faults = (fault for fault in self._faults(item, response) if fault[0] < len(targets))
        return Lesson(tokens[:-1], targets, tuple(faults))

    def _faults(self, item: Item, response: str) -> list[tuple[int, bool]]:
        start = len(self._encode(_asked(item.question)))
        given, wanted = (self._encode(f"{text}<|im_end|>") for text in (response, item.answer))
        faults = []
        for place, (ours, theirs) in enumerate(zip(given, wanted, strict=False), start):
            faults.append((place, ours != theirs))
            if ours != theirs:
                break
        return faults


def mistake(item: Item, rng: random.Random, misconceived: float = 0.4) -> str:
    """The item's misconception with that probability, otherwise one of its other wrong answers."""
    return item.misconception if rng.random() < misconceived else rng.choice(item.wrong)


def collate(lessons: Sequence[Lesson], pad: int) -> tuple[Tensor, Tensor]:
    """Tokens and targets, padded on the right, both int64 [lessons, longest]."""
    longest = max(len(lesson.tokens) for lesson in lessons)
    tokens = torch.full((len(lessons), longest), pad)
    targets = torch.full((len(lessons), longest), IGNORED)
    for row, lesson in enumerate(lessons):
        tokens[row, : len(lesson.tokens)] = torch.tensor(lesson.tokens)
        targets[row, : len(lesson.targets)] = torch.tensor(lesson.targets)
    return tokens, targets


def _asked(text: str) -> str:
    return f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n"
