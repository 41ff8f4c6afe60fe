"""Direct preference optimisation of every adapter of a bank over the same pairs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from sparta_lite.engine.bank import Bank
from sparta_lite.engine.model import Decoder
from sparta_lite.errors import SpartaError
from sparta_lite.randomness import generator
from sparta_lite.training.likelihood import Precision, completion_logprobs
from sparta_lite.training.optim import Optimizer, distances, trainable
from sparta_lite.training.packing import TokenizedPair, Truncation, pack, truncate


@dataclass(frozen=True)
class DpoSettings:
    """Defaults are the paper's, where it names a value."""

    beta: float = 0.1
    learning_rate: float = 1e-6
    """The peak, after warm-up and before the cosine falls."""
    weight_decay: float = 1e-5
    warmup: float = 0.1
    """Share of the updates over which the learning rate rises from 0."""
    epochs: int = 1
    batch: int = 16
    """Pairs per update."""
    micro_batch: int = 4
    """Pairs per forward pass of every adapter; it changes memory and time, not the gradients."""
    adapters_at_once: int | None = None
    """Adapters trained side by side, in the order of the bank; None: all."""
    max_grad_norm: float = 1.0
    """Per adapter, over all its tensors."""
    sft_weight: float = 0.0
    """Weight of the mean negative log-likelihood of the batch's chosen tokens."""
    dtype: Precision = "fp32"
    max_length: int = 512
    """Tokens of prompt and completion together."""
    max_prompt: int = 256


@dataclass(frozen=True)
class DpoStep:
    """One update of one adapter, measured on its batch before the update."""

    adapter: str
    step: int
    """From 0."""
    steps: int
    loss: float
    margin: float
    """beta * (log-ratio of chosen - log-ratio of rejected), mean over pairs."""
    accuracy: float
    """Share of pairs with a positive margin."""
    chosen_logprob: float
    """Of the whole completion, mean over pairs."""
    rejected_logprob: float
    chosen_length: float
    """Tokens, mean over pairs."""
    rejected_length: float
    gradient_norm: float
    """Before clipping."""
    learning_rate: float


@dataclass(frozen=True)
class DpoState:
    """Everything that a stopped phase needs to go on as if it had not stopped."""

    done: int
    """Updates made, over all groups of adapters that train one after another."""
    reference: Tensor
    """float32 [adapters, pairs, 2]: log-probability of chosen and rejected at the phase's start."""
    weights: dict[str, Tensor]
    moments: dict[str, Tensor]

    def tensors(self) -> dict[str, Tensor]:
        """One flat dictionary, for safetensors; ``read_state`` takes it back."""
        return {
            "done": torch.tensor(self.done),
            "reference": self.reference,
            **{f"weights.{name}": tensor for name, tensor in self.weights.items()},
            **{f"moments.{name}": tensor for name, tensor in self.moments.items()},
        }


@dataclass(frozen=True)
class DpoResult:
    moved: dict[str, float]
    """Adapter -> L2 distance between its weights before and after the phase."""
    truncated: Truncation


def read_state(tensors: dict[str, Tensor]) -> DpoState:
    """A state from ``DpoState.tensors``."""
    parts: dict[str, dict[str, Tensor]] = {"weights": {}, "moments": {}}
    for name, tensor in tensors.items():
        part, _, rest = name.partition(".")
        if part in parts:
            parts[part][rest] = tensor
    return DpoState(int(tensors["done"]), tensors["reference"], parts["weights"], parts["moments"])


def train(
    decoder: Decoder,
    bank: Bank,
    pairs: Sequence[TokenizedPair],
    settings: DpoSettings,
    *,
    seed: int,
    iteration: int,
    pad: int,
    on_step: Callable[[DpoStep], None],
    save: Callable[[DpoState], None] | None = None,
    save_every: int = 50,
    resume: DpoState | None = None,
) -> DpoResult:
    """DPO (Rafailov et al. 2023, equation 7) of all adapters, each against itself at the start.

    All adapters see the same pairs in the same order. AdamW starts fresh. Training happens in the
    bank's own memory.

    Args:
        decoder: the base.
        bank: float32, with the weights of the start of the phase, also when ``resume`` is given.
        pairs: may be empty; then nothing happens.
        settings: see there.
        seed: of the run; with ``iteration`` it decides the order of the pairs.
        iteration: of the run.
        pad: a token id to fill rows with; it changes no result.
        on_step: called for every adapter after every update.
        save: called after the reference pass and then every ``save_every`` updates with the state
            at that moment. Its tensors are the live ones: write them before returning.
        save_every: in updates.
        resume: a state that ``save`` got in the same phase.

    Raises:
        SpartaError: a NaN or infinity, or weights that do not move; the message names adapter and
            step, and the bank holds the weights of the last complete update. Also when ``resume``
            does not belong to this phase.
    """
    pairs, truncated = truncate(pairs, settings.max_length, settings.max_prompt)
    epochs = [_batches(len(pairs), settings.batch, seed, iteration, each) for each in range(settings.epochs)]
    plan = [batch for epoch in epochs for batch in epoch]
    count = len(bank.adapters)
    at_once = settings.adapters_at_once or count
    groups = [(first, min(first + at_once, count)) for first in range(0, count, at_once)]
    start = {name: tensor.cpu().clone() for name, tensor in bank.tensors()}

    if resume is None:
        done = 0
        reference = torch.zeros(count, len(pairs), 2, device=decoder.device)
        for first, last in groups if pairs else ():
            reference[first:last] = _reference(
                decoder, bank.part(first, last), pairs, epochs[0], settings, pad
            )
        if save is not None:
            save(DpoState(0, reference, dict(bank.tensors()), {}))
    else:
        _check(resume, bank, len(pairs))
        bank.restore(resume.weights)
        done = resume.done
        reference = resume.reference.to(decoder.device)

    for number, (first, last) in enumerate(groups):
        group = trainable(bank.part(first, last))
        optimizer = Optimizer(
            group,
            steps=len(plan),
            learning_rate=settings.learning_rate,
            weight_decay=settings.weight_decay,
            warmup=settings.warmup,
            max_grad_norm=settings.max_grad_norm,
        )
        begin = max(0, done - number * len(plan))
        if resume is not None and 0 < begin < len(plan):
            optimizer.restore(resume.moments)
        for step in range(begin, len(plan)):
            batch = [pairs[index] for index in plan[step]]
            measured = backward(decoder, group, batch, reference[first:last, plan[step]], settings, pad)
            norms = optimizer.update(step, measured[0])
            rate = optimizer.learning_rate(step)
            for event in _events(group, step, len(plan), batch, measured, norms, rate):
                on_step(event)
            done += 1
            if save is not None and done % save_every == 0:
                save(DpoState(done, reference, dict(bank.tensors()), optimizer.moments()))

    moved = distances(bank, start).tolist()
    return DpoResult(
        {adapter.name: far for adapter, far in zip(bank.adapters, moved, strict=True)}, truncated
    )


def backward(
    decoder: Decoder,
    bank: Bank,
    pairs: Sequence[TokenizedPair],
    reference: Tensor,
    settings: DpoSettings,
    pad: int,
) -> Tensor:
    """Add the gradients of one batch to the leaves of ``bank``.

    Args:
        decoder: the base.
        bank: from ``trainable``.
        pairs: one batch.
        reference: float32 [adapters, pairs, 2].
        settings: see there.
        pad: see ``train``.

    Returns:
        float32 [5, adapters]: loss, margin, accuracy, log-probability of chosen and of rejected.
    """
    tokens = sum(len(pair.chosen) for pair in pairs)
    measured = torch.zeros(5, len(bank.adapters), device=decoder.device)
    for part in _slices(len(pairs), settings.micro_batch):
        logprobs = _pair_logprobs(decoder, bank, pairs[part], settings, pad)  # [adapters, pairs, 2]
        chosen, rejected = logprobs.unbind(-1)
        ratios = logprobs - reference[:, part]
        margins = settings.beta * (ratios[..., 0] - ratios[..., 1])  # [adapters, pairs]
        losses = -F.logsigmoid(margins).sum(1) / len(pairs)  # [adapters]
        if settings.sft_weight:
            losses = losses - settings.sft_weight * chosen.sum(1) / tokens
        losses.sum().backward()
        with torch.no_grad():
            sums = torch.stack([margins, (margins > 0).float(), chosen, rejected]).sum(-1)
            measured += torch.cat([losses[None], sums / len(pairs)])
    return measured


def _pair_logprobs(
    decoder: Decoder, bank: Bank, pairs: Sequence[TokenizedPair], settings: DpoSettings, pad: int
) -> Tensor:
    packed = pack([(pair.prompt, (pair.chosen, pair.rejected)) for pair in pairs], pad).to(decoder.device)
    lora = bank.lora([adapter.name for adapter in bank.adapters for _ in pairs])
    return completion_logprobs(decoder, lora, packed, len(bank.adapters), settings.dtype).sum(-1)


def _reference(
    decoder: Decoder,
    bank: Bank,
    pairs: Sequence[TokenizedPair],
    batches: Sequence[Sequence[int]],
    settings: DpoSettings,
    pad: int,
) -> Tensor:
    """In the very micro-batches of the first epoch, so that before any update all ratios are 0."""
    reference = torch.zeros(len(bank.adapters), len(pairs), 2, device=decoder.device)
    with torch.no_grad():
        for batch in batches:
            for part in _slices(len(batch), settings.micro_batch):
                members = batch[part]
                reference[:, members] = _pair_logprobs(
                    decoder, bank, [pairs[index] for index in members], settings, pad
                )
    for adapter, values in zip(bank.adapters, reference, strict=True):
        if not values.isfinite().all():
            raise SpartaError(
                f"training: adapter {adapter.name!r}, before step 0: it gives NaN or infinite "
                "log-probabilities; get a sound copy of it"
            )
    return reference


def _batches(count: int, size: int, seed: int, iteration: int, epoch: int) -> list[list[int]]:
    order = list(range(count))
    generator(seed, "dpo", iteration, epoch).shuffle(order)
    return [order[part] for part in _slices(count, size)]


def _slices(count: int, size: int) -> Iterator[slice]:
    return (slice(start, start + size) for start in range(0, count, size))


def _events(
    bank: Bank,
    step: int,
    steps: int,
    batch: Sequence[TokenizedPair],
    measured: Tensor,
    norms: Sequence[float],
    learning_rate: float,
) -> Iterator[DpoStep]:
    chosen_length = sum(len(pair.chosen) for pair in batch) / len(batch)
    rejected_length = sum(len(pair.rejected) for pair in batch) / len(batch)
    for adapter, numbers, norm in zip(bank.adapters, measured.T.tolist(), norms, strict=True):
        loss, margin, accuracy, chosen, rejected = numbers
        yield DpoStep(
            adapter=adapter.name,
            step=step,
            steps=steps,
            loss=loss,
            margin=margin,
            accuracy=accuracy,
            chosen_logprob=chosen,
            rejected_logprob=rejected,
            chosen_length=chosen_length,
            rejected_length=rejected_length,
            gradient_norm=norm,
            learning_rate=learning_rate,
        )


def _check(state: DpoState, bank: Bank, pairs: int) -> None:
    shapes = {name: tensor.shape for name, tensor in bank.tensors()}
    if state.reference.shape != (len(bank.adapters), pairs, 2) or shapes != {
        name: tensor.shape for name, tensor in state.weights.items()
    }:
        raise SpartaError(
            "training: the saved state belongs to other adapters or pairs; delete it to begin the phase anew"
        )
