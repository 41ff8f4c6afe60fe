"""Supervised fine-tuning of one new LoRA adapter, through TRL."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import torch

from sparta_lite.engine.bank import Bank
from sparta_lite.engine.base import Base
from sparta_lite.engine.memory import in_one_piece
from sparta_lite.engine.peft_io import AdapterFile, load_bank, new_adapter
from sparta_lite.engine.template import Message, Template, TurnsError, now, pieces, roles, slot
from sparta_lite.errors import SpartaError
from sparta_lite.randomness import generator
from sparta_lite.training.phase import slices
from sparta_lite.training.view import Wrap, adapter_view, load, on_one_device, store

_IGNORED = -100  # what transformers leaves out of the loss


@dataclass(frozen=True)
class SftSettings:
    rank: int = 16
    alpha: float = 32.0
    epochs: int = 1
    learning_rate: float = 2e-4
    warmup: float = 0.03
    """Share of the steps in which the learning rate rises from 0, rounded down to whole steps, so that few
    have none; it falls along a cosine to 0."""
    batch: int = 32
    """Conversations in one optimizer step."""
    micro_batch: int = 4
    """Conversations in one forward pass; it changes memory and time, not the steps."""
    max_length: int = 2048
    """Tokens of a conversation; its end is cut off."""


@dataclass(frozen=True)
class Lesson:
    """A conversation as tokens."""

    ids: tuple[int, ...]
    labels: tuple[int, ...]
    """The token itself where it is learned, -100 elsewhere."""


@dataclass(frozen=True)
class SftResult:
    steps: int
    first_loss: float
    """Mean over the learned tokens of the first optimizer step's batch."""
    last_loss: float


def tokenize(
    base: Base, conversation: Sequence[Message], max_length: int, date: datetime | None = None
) -> Lesson | None:
    """A conversation in the model's own chat template; the assistant's words and ends of turn are learned.

    As in generation the texts are tokenised apart from the template, with special tokens read as plain text.
    Where the template writes no end behind the last answer, but has one, it is put there.

    Args:
        base: its tokenizer, and what ends an answer.
        conversation: (role, text) of every message.
        max_length: the most tokens; the rest is cut off.
        date: what a template that prints the date prints; None: now.

    Returns:
        None when nothing is left to learn within ``max_length``.

    Raises:
        TurnsError: the template refuses the conversation, or leaves one of its messages out.
        SpartaError: it does not end an answer with an end of turn.
    """
    template = Template(base.tokenizer, date or now())
    slots = [(role, slot(index)) for index, (role, _) in enumerate(conversation)]
    found = pieces(template.render(slots))
    if {piece for piece in found if isinstance(piece, int)} != set(range(len(slots))):
        raise TurnsError(f"base: its chat template leaves out one of the turns {roles(slots)}")
    ids: list[int] = []
    labels: list[int] = []
    answered = False
    for index, piece in enumerate(found):
        if isinstance(piece, int):
            role, text = conversation[piece]
            tokens = list(
                base.tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
            )
            answered = role == "assistant"
            learned = len(tokens) if answered else 0
        elif answered:
            tokens, learned = _behind_answer(base, template, piece, last=index == len(found) - 1)
        else:
            tokens, learned = template.tokens(piece), 0
        ids += tokens
        labels += [*tokens[:learned], *[_IGNORED] * (len(tokens) - learned)]
    if all(label == _IGNORED for label in labels[:max_length]):
        return None
    return Lesson(tuple(ids[:max_length]), tuple(labels[:max_length]))


def train_adapter(
    base: Base,
    lessons: Sequence[Lesson],
    settings: SftSettings,
    *,
    wrap: Wrap,
    seed: int,
    name: str,
) -> tuple[Bank, AdapterFile, SftResult]:
    """Train a new adapter on every linear layer of ``base``, which is as it was when this returns.

    Args:
        base: its tensors are shared, never copied or merged.
        lessons: what to learn.
        settings: how.
        wrap: what makes a PEFT model of the base.
        seed: with ``name`` it decides the adapter's start and the order of the lessons.
        name: the adapter's.

    Returns:
        A bank of the adapter alone, how it began, and how it went.

    Raises:
        SpartaError: the training ended in NaN, moved nothing, or did not fit into memory.
    """
    # Unsloth, where it is what wraps, has to have patched TRL before.
    from sparta_lite.training.sft_trainer import PlannedTrainer

    device = base.decoder.device
    on_gpu = device.type == "cuda"
    start = new_adapter(name, base.decoder, settings.rank, settings.alpha, seed, base.name)
    bank = load_bank(base.decoder, [start])
    plan = [
        [{"input_ids": list(lesson.ids), "labels": list(lesson.labels)} for lesson in batch]
        for epoch in range(settings.epochs)
        for batch in _batches(lessons, settings.batch, seed, name, epoch)
    ]
    with (
        torch.random.fork_rng(),
        tempfile.TemporaryDirectory() as scratch,
        adapter_view(base.model, base.tokenizer, bank.adapters[0], on_gpu, wrap) as view,
    ):
        arguments = _arguments(settings, len(plan), scratch, base)
        trainer = PlannedTrainer(view, base.tokenizer, plan, settings.micro_batch, arguments)
        if not on_gpu:
            trainer.use_the_models_own_loss()
        load(view, bank, "default")
        with in_one_piece(phase=f"adapter {name!r}", advice="lower --micro-batch or --max-length"):
            trainer.train()
        store(view, bank)
        losses = trainer.losses
    _require_learned(name, settings, losses, bank)
    return bank, start, SftResult(len(losses), losses[0], losses[-1])


def _batches(lessons: Sequence[Lesson], size: int, seed: int, name: str, epoch: int) -> list[list[Lesson]]:
    """One epoch: the lessons of each optimizer step, the last ones fewer."""
    order = list(lessons)
    generator("sft", seed, name, epoch).shuffle(order)
    return [order[part] for part in slices(len(order), size)]


def _arguments(settings: SftSettings, steps: int, scratch: str, base: Base) -> Any:
    from trl import SFTConfig

    on_gpu = base.decoder.device.type == "cuda"
    arguments = SFTConfig(
        scratch,
        num_train_epochs=1,
        per_device_train_batch_size=1,  # a row is a step
        gradient_accumulation_steps=1,
        train_sampling_strategy="sequential",
        remove_unused_columns=False,
        learning_rate=settings.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=int(settings.warmup * steps),
        max_length=None,  # cut already
        bf16=base.decoder.dtype == torch.bfloat16,
        fp16=base.decoder.dtype == torch.float16,
        use_cpu=not on_gpu,
        gradient_checkpointing=on_gpu,
        logging_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    on_one_device(arguments)
    return arguments


def _behind_answer(base: Base, template: Template, written: str, last: bool) -> tuple[list[int], int]:
    """Tokens of what the template writes behind an answer, and how many of them end it: those are learned."""
    end = base.ending.text
    if end and written.startswith(end):
        tokens = base.ending.ids(template)
        return [*tokens, *template.tokens(written[len(end) :])], len(tokens)
    tokens = template.tokens(written)
    for index, token in enumerate(tokens):
        if token in base.stops:
            return tokens, index + 1
    added = base.ending.ids(template)
    if not added:
        raise SpartaError(
            "base: its chat template writes no end-of-turn token behind an answer, so no adapter could learn "
            "to stop; use an instruction-tuned model"
        )
    return ([*added, *tokens], len(added)) if last else (tokens, 0)


def _require_learned(name: str, settings: SftSettings, losses: Sequence[float], bank: Bank) -> None:
    if not all(torch.isfinite(tensor).all() for _, tensor in bank.tensors()):
        raise SpartaError(f"adapter {name!r}: training ended in NaN or infinity; lower the learning rate")
    if not any(b.any() for _, _, b in bank.modules(0)):
        raise SpartaError(
            f"adapter {name!r}: {len(losses)} optimizer steps at a learning rate of up to "
            f"{settings.learning_rate:.3g} moved nothing; raise --lr"
        )
