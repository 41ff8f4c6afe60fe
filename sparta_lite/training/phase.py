"""What every trainer of a phase shares: settings, order of the pairs, steps, and the state to go on from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sparta_lite.engine.bank import Bank
from sparta_lite.errors import SpartaError
from sparta_lite.randomness import generator
from sparta_lite.training.likelihood import Precision
from sparta_lite.training.losses import Loss
from sparta_lite.training.optim import Kind
from sparta_lite.training.packing import TokenizedPair, Truncation


@dataclass(frozen=True)
class DpoSettings:
    """Defaults are the paper's, where it names a value."""

    loss: Loss = "dpo"
    beta: float = 0.1
    learning_rate: float = 1e-6
    """The peak, after warm-up and before the cosine falls."""
    weight_decay: float = 1e-5
    warmup: float = 0.1
    """Share of the updates over which the learning rate rises from 0; see ``optim.rise``."""
    epochs: int = 1
    batch: int = 16
    """Pairs per update."""
    micro_batch: int = 4
    """Pairs per forward pass of every adapter; it changes memory and time, not the gradients."""
    adapters_at_once: int | None = None
    """Adapters trained side by side, in the order of the bank; None: all."""
    optimizer: Kind = "adamw"
    checkpointing: bool = False
    """Keep each decoder layer's input alone for the backward pass; it changes memory and time, not the
    gradients."""
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
    """float32 [adapters, pairs, 2]: log-probability of chosen and rejected at the phase's start; of a
    trainer that keeps none, [adapters, pairs, 0]."""
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


def batches(count: int, size: int, seed: int, iteration: int, epoch: int) -> list[list[int]]:
    """One epoch over ``count`` pairs: which of them each update sees."""
    order = list(range(count))
    generator(seed, "dpo", iteration, epoch).shuffle(order)
    return [order[part] for part in slices(count, size)]


def slices(count: int, size: int) -> Iterator[slice]:
    """``count`` things in runs of ``size``, the last one shorter."""
    return (slice(start, start + size) for start in range(0, count, size))


def micro_batches(pairs: Sequence[TokenizedPair], size: int) -> list[list[int]]:
    """A batch in passes of ``size`` pairs of similar length, by their places in ``pairs``."""
    order = sorted(range(len(pairs)), key=lambda place: pairs[place].tokens)
    return [order[part] for part in slices(len(order), size)]


def reference_terms(
    known: Tensor | None, whole: Sequence[TokenizedPair], pairs: Sequence[TokenizedPair], adapters: int
) -> Tensor:
    """What is known of the reference, float32 [adapters, pairs, 2] on the CPU, NaN where nothing is.

    Args:
        known: see ``dpo.train``.
        whole: the pairs that it was taken of.
        pairs: the same, cut to fit: of one that lost tokens nothing is known.
        adapters: how many.
    """
    terms = torch.full((adapters, len(pairs), 2), torch.nan)
    if known is not None:
        uncut = [index for index, pair in enumerate(pairs) if pair == whole[index]]
        terms[:, uncut] = known[:, uncut].to(terms)
    return terms


def require_fitting(state: DpoState, bank: Bank, reference: tuple[int, int, int]) -> None:
    """Refuse a state whose bank, or whose ``reference``, has another shape.

    Raises:
        SpartaError: it does.
    """
    shapes = {name: tensor.shape for name, tensor in bank.tensors()}
    if state.reference.shape != reference or shapes != {
        name: tensor.shape for name, tensor in state.weights.items()
    }:
        raise SpartaError(
            "training: the saved state belongs to other adapters or pairs, or to another trainer; delete it "
            "to begin the phase anew"
        )
