"""What is planned for: a device, and what a run asks of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Trainer = Literal["tribe", "unsloth", "trl"]


@dataclass(frozen=True)
class Machine:
    """The device that is planned for."""

    kind: Literal["cpu", "cuda"]
    name: str
    memory: int
    """Bytes that the run may take."""
    operations: float
    """Operations a second in the dtype of the base, as measured or as the maker says."""
    bandwidth: float
    """Bytes a second."""
    margin: tuple[float, float] = (0.5, 2.0)
    """What an estimated time is multiplied with for the shortest and the longest that it may be."""
    notes: tuple[str, ...] = ()
    """What stood in the way of measuring the rates, for people."""

    @property
    def reserve(self) -> int:
        """Kept free: on a card 0.6 GB for the CUDA context and its libraries' workspaces, on a CPU 0.5 GB
        for Python and libraries; and 4 % for fragmentation."""
        return int((0.6e9 if self.kind == "cuda" else 0.5e9) + 0.04 * self.memory)


@dataclass(frozen=True)
class Usual:
    """What is known of texts that are not read: time follows it, memory the limits."""

    question: int
    """Tokens, chat template included."""
    answer: int
    request: int
    """Tokens that a judge reads beside question and answer."""
    pairs: float
    """Share of the duels that make a pair."""


@dataclass(frozen=True)
class Work:
    """What a run asks of the device."""

    adapters: int
    adapter: int
    """Numbers in one adapter, as the bank pads it; fp32 there."""
    number: int
    """Bytes of one number that the base computes with."""
    four_bit: bool
    """Linear layers are held in 4 bits."""
    prompt: int
    """Most tokens of a question."""
    answer: int
    judge_prompt: int
    judge_answer: int
    """Most tokens that a judge writes; 0: one forward pass, nothing is written."""
    judge_rounds: int
    evaluation_answer: int
    length: int
    """Most tokens of prompt and answer in training."""
    prompt_in_training: int
    batch: int
    """Pairs in one optimizer step."""
    trainer: Trainer
    moments: float
    """Bytes that the optimizer keeps for each trained number."""
    uncut: bool
    """Sampling sorts the whole vocabulary."""
    duels: int
    iterations: int
    epochs: int
    questions: int
    """Held-out ones per adapter and evaluation."""
    evaluations: int
    usual: Usual | None = None
    """None: questions of a quarter of their limit, the longest answers, a pair from every duel."""
    unpacked: bool = False
    """They were in 4 bits, and are held as what these stand for."""
    factors: Mapping[str, float] = field(default_factory=dict)
    """Phase -> how much more than this arithmetic it was measured to take."""

    @property
    def packed(self) -> int:
        """Most tokens of a pair whose answers stand behind their one prompt."""
        return sum(self.prompt_and_answers)

    @property
    def prompt_and_answers(self) -> tuple[int, int]:
        """Of such a pair, tokens of the prompt and of both answers."""
        prompt = min(self.prompt_in_training, max(1, self.length - self.answer))
        return prompt, 2 * min(self.answer, self.length - prompt)


@dataclass(frozen=True)
class Sizes:
    """What the batches of a run are limited to; names are those of the settings."""

    places: int
    batch_tokens: int
    micro_batch: int
    adapters_at_once: int
    checkpointing: bool
    resident: int
