"""Ten adapters in one bank: for each site one tensor A and one tensor B per projection."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sparta_lite.engine.model import Decoder, Lora, SiteLora
from sparta_lite.errors import SpartaError
from sparta_lite.kernels.lora import route


@dataclass(frozen=True)
class Adapter:
    """One LoRA adapter's shape; its numbers stand in the bank."""

    name: str
    rank: int
    alpha: float
    rslora: bool
    targets: tuple[str, ...]
    """Module names inside a decoder layer that it adapts in at least one layer, sorted."""

    @property
    def scale(self) -> float:
        """alpha / rank (Hu et al. 2021), or alpha / sqrt(rank) (rank-stabilised, Kalajdzievski 2023)."""
        return self.alpha / (self.rank**0.5 if self.rslora else self.rank)


@dataclass(frozen=True)
class Bank:
    """All adapters of a tribe on one base.

    Adapters of lower rank are padded with zeros, as are modules that an adapter does not target:
    zero A and zero B have zero gradients, so padding stays zero in training.
    """

    adapters: tuple[Adapter, ...]
    layers: tuple[dict[str, SiteLora], ...]
    """Per decoder layer: site name -> its tensors."""
    names: tuple[dict[str, tuple[str, ...]], ...]
    """Per decoder layer: site name -> the module names of its projections."""

    @property
    def rank(self) -> int:
        """The largest rank in the bank, which all are padded to."""
        return max(adapter.rank for adapter in self.adapters)

    def slot(self, name: str) -> int:
        """Where an adapter stands.

        Raises:
            SpartaError: no adapter has that name.
        """
        for index, adapter in enumerate(self.adapters):
            if adapter.name == name:
                return index
        known = ", ".join(adapter.name for adapter in self.adapters)
        raise SpartaError(f"adapter {name!r} is not in the bank; it holds {known}")

    def lora(self, names: Sequence[str | None]) -> Lora | None:
        """What ``Decoder.hidden`` needs for a batch whose rows belong to ``names`` (None: bare base)."""
        device = next(self.tensors())[1].device
        slots = [None if name is None else self.slot(name) for name in names]
        routing = route(slots, [adapter.scale for adapter in self.adapters], device)
        return None if routing is None else (self.layers, routing)

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Every tensor of the bank with its name, always in the same order."""
        for number, sites in enumerate(self.layers):
            for site, lora in sites.items():
                yield f"{number}.{site}.a", lora.a
                for part, b in enumerate(lora.b):
                    yield f"{number}.{site}.b{part}", b

    def modules(self, slot: int) -> Iterator[tuple[str, Tensor, Tensor]]:
        """One adapter as (module name, A [rank, in], B [out, rank]): views of the bank's memory.

        Module names are those of the transformers model, such as ``layers.0.self_attn.q_proj``.
        """
        rank = self.adapters[slot].rank
        for number, sites in enumerate(self.layers):
            for site, lora in sites.items():
                shrinks = lora.a[slot].chunk(len(lora.b))
                for name, a, b in zip(self.names[number][site], shrinks, lora.b, strict=True):
                    yield f"layers.{number}.{name}", a[:rank], b[slot, :, :rank]

    def part(self, first: int, last: int) -> Bank:
        """The adapters ``first`` to ``last - 1`` as a bank of their own that shares this one's memory."""
        layers = tuple(
            {
                site: SiteLora(lora.a[first:last].detach(), tuple(b[first:last].detach() for b in lora.b))
                for site, lora in sites.items()
            }
            for sites in self.layers
        )
        return replace(self, adapters=self.adapters[first:last], layers=layers)

    def snapshot(self) -> dict[str, Tensor]:
        """A copy of every tensor, to go back to with ``restore``."""
        return {name: tensor.detach().clone() for name, tensor in self.tensors()}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Overwrite the bank with ``tensors``, as ``snapshot`` gave them."""
        with torch.no_grad():
            for name, tensor in self.tensors():
                tensor.copy_(tensors[name])


def empty_bank(decoder: Decoder, adapters: Sequence[Adapter], dtype: torch.dtype) -> Bank:
    """A bank of zeros for ``adapters`` on ``decoder``; with nothing but zeros it changes no output."""
    count = len(adapters)
    rank = max(adapter.rank for adapter in adapters)
    targets = {target for adapter in adapters for target in adapter.targets}
    layers, names = [], []
    for layer in decoder.layers:
        used = {key: site for key, site in layer.sites.items() if targets.intersection(site.names)}
        layers.append(
            {
                key: SiteLora(
                    torch.zeros(
                        count,
                        len(site.names) * rank,
                        site.weight.shape[1],
                        dtype=dtype,
                        device=decoder.device,
                    ),
                    tuple(
                        torch.zeros(count, width, rank, dtype=dtype, device=decoder.device)
                        for width in site.widths
                    ),
                )
                for key, site in used.items()
            }
        )
        names.append({key: site.names for key, site in used.items()})
    return Bank(tuple(adapters), tuple(layers), tuple(names))
