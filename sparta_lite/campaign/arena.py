"""Everything that the phases of a campaign share: the loaded tribe and where it writes and reports."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from sparta_lite.campaign.events import Listener, Phase, PhaseFinished, PhaseProgress, PhaseStarted, Warned
from sparta_lite.campaign.journals import Records
from sparta_lite.campaign.metrics import Metric
from sparta_lite.campaign.settings import Config
from sparta_lite.campaign.store import Store
from sparta_lite.data.task import Task
from sparta_lite.engine.bank import Bank
from sparta_lite.engine.base import Base
from sparta_lite.engine.chat import Chat, Question, ScoreTokens
from sparta_lite.kernels.choice import failure as kernels_failure
from sparta_lite.training.choice import Trainer

_REPORT_EVERY = 0.1  # seconds


@dataclass(frozen=True)
class Arena:
    config: Config
    store: Store
    listener: Listener
    base: Base
    bank: Bank
    adapter_configs: Mapping[str, Mapping[str, Any]]
    """Per adapter the ``adapter_config.json`` that its new versions are written with."""
    chat: Chat
    trainer: Trainer
    instructions: Sequence[str]
    tasks: Sequence[Task]
    """What is measured; empty when nothing is."""
    metrics: Records[Metric]
    references: Mapping[str, str] = field(default_factory=dict)
    """Instruction -> reference answer, where the run's algorithm learns from them; else empty."""
    keeps_warm: bool = False
    """Whether what generation leaves for its next call has room beside judging and training."""

    @property
    def tribe(self) -> tuple[str, ...]:
        return tuple(adapter.name for adapter in self.bank.adapters)

    @property
    def reuses_logprobs(self) -> bool:
        """Whether generating and judging keep the log-probabilities that training will need."""
        training = self.config.training
        if training.reuse_logprobs is not None:
            return training.reuse_logprobs
        return self.base.decoder.dtype == torch.float32 and training.dtype == "fp32"

    def question(self, instruction: str) -> Question:
        """The prompt of an instruction, cut to what the settings and the base's context allow."""
        return self.chat.question(instruction, question_limit(self.config, self.base.context))

    def on_shrink(self, phase: str, size: int, smaller: int) -> None:
        """Give a phase that memory ran out in what is spare, and warn that it goes on in smaller batches."""
        self.base.warm.release()
        self.listener(Warned(f"{phase}: out of memory with {size} at once; it goes on with {smaller}"))

    def look_at_kernels(self) -> None:
        """Warn, once, and record it when Triton has failed and torch computes from then on."""
        failed = kernels_failure()
        if failed is not None:
            self.listener(Warned(f"kernels: {failed}; torch computes in its place, more slowly"))
            choices = self.store.read_run().choices
            self.store.update_run(choices={**choices, "kernels": f"torch ({failed})"})

    @contextmanager
    def phase(self, iteration: int, phase: Phase, total: int, done: int = 0) -> Iterator[Meter]:
        """Report a phase's start, its progress through the meter, and its end."""
        if phase in ("judge", "train") and not self.keeps_warm:
            self.base.warm.release()
        self.listener(PhaseStarted(iteration, phase, total))
        meter = Meter(self.listener, iteration, phase, total, done)
        yield meter
        meter.report()
        self.look_at_kernels()
        self.listener(PhaseFinished(iteration, phase, meter.seconds, meter.tokens))


def question_limit(config: Config, context: int) -> int:
    """The most tokens of a question, so that an answer still fits into the base's ``context``."""
    return min(config.generation.max_prompt_tokens, context - config.generation.max_new_tokens)


def judge_limit(config: Config, context: int, tokens: ScoreTokens) -> int:
    """The most tokens of a judge's prompt, so that its reply still fits into the base's ``context``."""
    settings = config.judge
    sampled = settings.mode == "sampled"
    reply = settings.max_new_tokens if sampled else 1
    reply += len(tokens.prefix) if settings.forced or not sampled else 0
    return min(settings.max_tokens, context - reply)


class Meter:
    """Counts a phase's work and reports it, a few times a second at most."""

    def __init__(self, listener: Listener, iteration: int, phase: Phase, total: int, done: int) -> None:
        self.listener, self.iteration, self.phase, self.total, self.done = (
            listener,
            iteration,
            phase,
            total,
            done,
        )
        self.tokens = 0
        self.started = self.reported = time.perf_counter()

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.started

    def add(self, done: int, tokens: int) -> None:
        self.done += done
        self.tokens += tokens
        if time.perf_counter() - self.reported > _REPORT_EVERY:
            self.report()

    def report(self) -> None:
        self.reported = time.perf_counter()
        self.listener(
            PhaseProgress(
                self.iteration, self.phase, self.done, self.total, self.tokens, self.seconds, memory_in_use()
            )
        )


def memory_in_use() -> int:
    """Peak bytes: allocated on the GPU where there is one in use, else this process's resident size."""
    if torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
