"""Direct preference optimisation of every adapter of a bank over the same pairs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from sparta_lite.engine.bank import Bank
from sparta_lite.engine.memory import OnShrink, in_one_piece, shrink_to_fit
from sparta_lite.engine.model import Decoder
from sparta_lite.errors import SpartaError
from sparta_lite.kernels.choice import again
from sparta_lite.training.likelihood import completion_logprobs
from sparta_lite.training.losses import pair_losses
from sparta_lite.training.optim import Optimizer, distances, trainable
from sparta_lite.training.packing import TokenizedPair, pack, truncate
from sparta_lite.training.phase import (
    DpoResult,
    DpoSettings,
    DpoState,
    DpoStep,
    batches,
    micro_batches,
    reference_terms,
    require_fitting,
)

_ADVICE = "not even one pair at a time fits; lower training.adapters_at_once or training.max_length"
_UPDATE = (
    "the optimizer does not fit; lower training.adapters_at_once, or set training.optimizer to adamw-8bit"
)


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
    on_shrink: OnShrink | None = None,
    known: Tensor | None = None,
) -> DpoResult:
    """DPO of all adapters, or the settings' other loss, each against itself at the start.

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
        on_shrink: told when memory ran out and micro-batches are smaller from now on.
        known: float32 [adapters, pairs, 2], log p(chosen) and log p(rejected) under every adapter at the
            start of the phase, as far as they are known: NaN where not. Those of pairs that are cut
            to fit are not used.

    Raises:
        SpartaError: a NaN or infinity, or weights that do not move; the message names adapter and
            step, and the bank holds the weights of the last complete update. Also when ``resume``
            does not belong to this phase, or not even one pair fits into memory.
    """
    whole = pairs
    pairs, truncated = truncate(whole, settings.max_length, settings.max_prompt)
    epochs = [batches(len(pairs), settings.batch, seed, iteration, each) for each in range(settings.epochs)]
    plan = [batch for epoch in epochs for batch in epoch]
    count = len(bank.adapters)
    at_once = min(settings.adapters_at_once or count, bank.limit)
    micro = min(settings.micro_batch, settings.batch)
    groups = [(first, min(first + at_once, count)) for first in range(0, count, at_once)]
    start = {name: tensor.cpu().clone() for name, tensor in bank.tensors()}

    if resume is None:
        done = 0
        reference = reference_terms(known, whole, pairs, count).to(decoder.device)
        for first, last in groups if reference.isnan().any() else ():
            micro = _complete(
                decoder,
                bank.part(first, last),
                pairs,
                reference[first:last],
                epochs[0],
                replace(settings, micro_batch=micro),
                pad,
                on_shrink,
            )
        if save is not None:
            save(DpoState(0, reference, dict(bank.tensors()), {}))
    else:
        require_fitting(resume, bank, (len(bank.adapters), len(pairs), 2))
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
            kind=settings.optimizer,
        )
        begin = max(0, done - number * len(plan))
        if resume is not None and 0 < begin < len(plan):
            optimizer.restore(resume.moments)
        try:
            for step in range(begin, len(plan)):
                batch = [pairs[index] for index in plan[step]]
                measured, micro = shrink_to_fit(
                    partial(
                        _measure, decoder, group, batch, reference[first:last, plan[step]], settings, pad
                    ),
                    micro,
                    phase="training",
                    advice=_ADVICE,
                    on_shrink=on_shrink,
                )
                with in_one_piece(phase="training", advice=_UPDATE):
                    norms = optimizer.update(step, measured[0])
                rate = optimizer.learning_rate(step)
                for event in _events(group, step, len(plan), batch, measured, norms, rate):
                    on_step(event)
                done += 1
                if save is not None and done % save_every == 0:
                    bank.take_back(first, group)
                    save(DpoState(done, reference, dict(bank.tensors()), optimizer.moments()))
        finally:
            bank.take_back(first, group)
        del group, optimizer  # before the next group takes as much memory

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
    win_rates = torch.tensor([pair.win_rate for pair in pairs], device=decoder.device)
    measured = torch.zeros(5, len(bank.adapters), device=decoder.device)
    for part in micro_batches(pairs, settings.micro_batch):
        # [adapters, pairs of the part, 2]
        logprobs = _pair_logprobs(decoder, bank, [pairs[place] for place in part], settings, pad)
        chosen, rejected = logprobs.unbind(-1)
        ratios = logprobs - reference[:, part]
        margins = settings.beta * (ratios[..., 0] - ratios[..., 1])  # [adapters, pairs]
        losses = pair_losses(ratios, settings.beta, win_rates[part], settings.loss)  # [adapters, pairs]
        losses = losses.sum(1) / len(pairs)  # [adapters]
        if settings.sft_weight:
            losses = losses - settings.sft_weight * chosen.sum(1) / tokens
        losses.sum().backward()
        with torch.no_grad():
            sums = torch.stack([margins, (margins > 0).float(), chosen, rejected]).sum(-1)
            measured += torch.cat([losses[None], sums / len(pairs)])
    return measured


def _measure(
    decoder: Decoder,
    bank: Bank,
    pairs: Sequence[TokenizedPair],
    reference: Tensor,
    settings: DpoSettings,
    pad: int,
    micro_batch: int,
) -> Tensor:
    """``backward`` from no gradients on, whatever an attempt that failed has left of them."""

    def attempt() -> Tensor:
        for _, leaf in bank.tensors():
            leaf.grad = None
        return backward(decoder, bank, pairs, reference, replace(settings, micro_batch=micro_batch), pad)

    return again(attempt)


def _pair_logprobs(
    decoder: Decoder,
    bank: Bank,
    pairs: Sequence[TokenizedPair],
    settings: DpoSettings,
    pad: int,
) -> Tensor:
    packed = pack([(pair.prompt, pair.completions) for pair in pairs], pad).to(decoder.device)
    lora = bank.lora([adapter.name for adapter in bank.adapters for _ in pairs])
    return completion_logprobs(
        decoder, lora, packed, len(bank.adapters), settings.dtype, settings.checkpointing
    ).sum(-1)


def _complete(
    decoder: Decoder,
    bank: Bank,
    pairs: Sequence[TokenizedPair],
    reference: Tensor,
    epoch: Sequence[Sequence[int]],
    settings: DpoSettings,
    pad: int,
    on_shrink: OnShrink | None,
) -> int:
    """Put in what ``reference``, float32 [adapters, pairs, 2], lacks; it is NaN there.

    Where it lacks everything, this goes in the very passes of the first ``epoch``'s batches, so that
    before any update all ratios are 0.

    Returns:
        The micro-batch that fitted.
    """
    micro = settings.micro_batch

    def fill(batch: Sequence[int], size: int) -> None:
        for part in micro_batches([pairs[index] for index in batch], size):
            _fill(decoder, bank, pairs, reference, [batch[place] for place in part], settings, pad)

    with torch.no_grad():
        for batch in epoch:
            _, micro = shrink_to_fit(
                partial(fill, batch), micro, phase="training", advice=_ADVICE, on_shrink=on_shrink
            )
    for adapter, values in zip(bank.adapters, reference, strict=True):
        if not values.isfinite().all():
            raise SpartaError(
                f"training: adapter {adapter.name!r}, before step 0: it gives NaN or infinite "
                "log-probabilities; get a sound copy of it"
            )
    return micro


def _fill(
    decoder: Decoder,
    bank: Bank,
    pairs: Sequence[TokenizedPair],
    reference: Tensor,
    members: Sequence[int],
    settings: DpoSettings,
    pad: int,
) -> None:
    """The terms that ``reference`` lacks of some pairs: rows of both completions, then rows of one."""
    lacking = reference[:, members].isnan()  # [adapters, members, 2]
    if lacking.all():
        reference[:, members] = _pair_logprobs(
            decoder, bank, [pairs[each] for each in members], settings, pad
        )
        return
    for many in (2, 1):
        rows = [
            (slot, index, [side for side in (0, 1) if lacks[side]])
            for slot, of_adapter in enumerate(lacking.tolist())
            for index, lacks in zip(members, of_adapter, strict=True)
            if sum(lacks) == many
        ]
        if not rows:
            continue
        asked = [
            (pairs[index].prompt, [pairs[index].completions[side] for side in sides])
            for _, index, sides in rows
        ]
        packed = pack(asked, pad).to(decoder.device)
        lora = bank.lora([bank.adapters[slot].name for slot, *_ in rows])
        found = completion_logprobs(decoder, lora, packed, 1, settings.dtype)[0].sum(-1)  # [rows, many]
        for (slot, index, sides), values in zip(rows, found, strict=True):
            reference[slot, index, sides] = values


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
