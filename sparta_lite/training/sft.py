"""Supervised fine-tuning of every adapter of a bank at once, each on its own answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from sparta_lite.engine.bank import Bank
from sparta_lite.engine.model import Decoder
from sparta_lite.errors import SpartaError
from sparta_lite.randomness import generator
from sparta_lite.training.likelihood import Precision, completion_logprobs
from sparta_lite.training.optim import Optimizer, distances, trainable
from sparta_lite.training.packing import TokenizedAnswer, pack


@dataclass(frozen=True)
class SftSettings:
    learning_rate: float
    """The peak, after warm-up and before the cosine falls."""
    steps: int
    """Updates."""
    batch: int = 16
    """Rows per update and adapter."""
    weight_decay: float = 0.0
    warmup: float = 0.1
    """Share of the updates over which the learning rate rises from 0."""
    max_grad_norm: float = 1.0
    """Per adapter, over all its tensors."""
    dtype: Precision = "fp32"


@dataclass(frozen=True)
class SftStep:
    """One update of one adapter, measured on its batch before the update."""

    adapter: str
    step: int
    """From 0."""
    steps: int
    loss: float
    """Mean negative log-likelihood of its batch's answer tokens."""
    gradient_norm: float
    """Before clipping."""
    learning_rate: float


def fine_tune(
    decoder: Decoder,
    bank: Bank,
    answers: Mapping[str, Sequence[TokenizedAnswer]],
    settings: SftSettings,
    *,
    seed: int,
    pad: int,
    on_step: Callable[[SftStep], None],
) -> dict[str, float]:
    """Cross-entropy on answer tokens, in the bank's own memory.

    An adapter goes through its answers in random order, and again in another one when they are used
    up, until all updates are made.

    Args:
        decoder: the base.
        bank: float32.
        answers: adapter -> its answers.
        settings: see there.
        seed: with the adapter's name it decides the order of its answers.
        pad: a token id to fill rows with; it changes no result.
        on_step: called for every adapter after every update.

    Returns:
        Adapter -> L2 distance between its weights before and after.

    Raises:
        SpartaError: an adapter has no answers; a NaN or infinity, or weights that do not move: the
            message names adapter and step, and the bank holds the weights of the last complete update.
    """
    names = [adapter.name for adapter in bank.adapters]
    for name in names:
        if not answers.get(name):
            raise SpartaError(f"training: adapter {name!r} has no answers to learn; give it some")
    streams = [_endless(answers[name], seed, name) for name in names]
    start = bank.snapshot()
    leaves = trainable(bank)
    optimizer = Optimizer(
        leaves,
        steps=settings.steps,
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
        warmup=settings.warmup,
        max_grad_norm=settings.max_grad_norm,
    )
    lora = leaves.lora([name for name in names for _ in range(settings.batch)])
    for step in range(settings.steps):
        rows = [next(stream) for stream in streams for _ in range(settings.batch)]
        packed = pack([(row.prompt, (row.answer,)) for row in rows], pad).to(decoder.device)
        logprobs = completion_logprobs(decoder, lora, packed, 1, settings.dtype)
        tokens = packed.lengths.view(len(names), -1).sum(1)  # [adapters]
        losses = -logprobs.view(len(names), -1).sum(1) / tokens  # [adapters]
        losses.sum().backward()
        norms = optimizer.update(step, losses.detach())
        for name, loss, norm in zip(names, losses.tolist(), norms, strict=True):
            on_step(SftStep(name, step, settings.steps, loss, norm, optimizer.learning_rate(step)))
    return dict(zip(names, distances(bank, start).tolist(), strict=True))


def _endless(answers: Sequence[TokenizedAnswer], seed: int, adapter: str) -> Iterator[TokenizedAnswer]:
    order = list(answers)
    random = generator(seed, "sft", adapter)
    while True:
        random.shuffle(order)
        yield from order
