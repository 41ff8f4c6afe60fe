"""Ten adapters in one bank: for each site one tensor A and one tensor B per projection."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from sparta_lite.engine.model import Decoder
from sparta_lite.engine.residency import Window
from sparta_lite.engine.sites import Lora, SiteLora
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
    own: Mapping[str, tuple[int, float]] = field(default_factory=dict)
    """Module (``layers.0.self_attn.q_proj``) -> its rank and alpha, where they are not the adapter's."""

    @property
    def scale(self) -> float:
        """What multiplies the update of a module that has no rank and alpha of its own."""
        return self._scale(self.rank, self.alpha)

    @property
    def largest(self) -> int:
        """The largest rank of its modules."""
        return max([self.rank, *(rank for rank, _ in self.own.values())])

    def rank_of(self, module: str) -> int:
        return self.own.get(module, (self.rank, self.alpha))[0]

    def scale_of(self, module: str) -> float:
        return self._scale(*self.own.get(module, (self.rank, self.alpha)))

    def _scale(self, rank: int, alpha: float) -> float:
        """alpha / rank (Hu et al. 2021), or alpha / sqrt(rank) (rank-stabilised, Kalajdzievski 2023)."""
        return alpha / (rank**0.5 if self.rslora else rank)


@dataclass(frozen=True)
class Bank:
    """All adapters of a tribe on one base.

    They stand on the compute device, or, where they would not fit, in host memory behind a window:
    ``tensors``, ``modules``, ``snapshot`` and ``restore`` speak of this master copy, and only ``lora``,
    ``prefetch``, ``part`` and ``take_back`` know of the window.

    Adapters of lower rank are padded with zeros, as are modules that an adapter does not target:
    zero A and zero B have zero gradients, so padding stays zero in training.
    """

    adapters: tuple[Adapter, ...]
    layers: tuple[dict[str, SiteLora], ...]
    """Per decoder layer: site name -> its tensors."""
    names: tuple[dict[str, tuple[str, ...]], ...]
    """Per decoder layer: site name -> the module names of its projections."""
    window: Window | None = None
    """None: all adapters are on the compute device."""

    @property
    def limit(self) -> int:
        """The most different adapters that one batch may hold."""
        return self.window.size if self.window else len(self.adapters)

    @property
    def device(self) -> torch.device:
        """Where a batch finds its adapters."""
        return self.window.device if self.window else next(self.tensors())[1].device

    @property
    def rank(self) -> int:
        """The largest rank in the bank, which all are padded to."""
        return max(adapter.largest for adapter in self.adapters)

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

    def lora(
        self, names: Sequence[str | None], beside: Sequence[str | None] = (), mergeable: bool = False
    ) -> Lora | None:
        """What ``Decoder.hidden`` needs for a batch whose rows belong to ``names`` (None: bare base).

        Behind a window it holds until the next call, or longer if that one names its adapters ``beside``.
        ``mergeable``: see ``Routing``; not for a pass that must round as one with gradients does.

        Raises:
            SpartaError: an adapter is unknown, or there are more different ones than ``limit``.
        """
        slots = [None if name is None else self.slot(name) for name in names]
        layers, scales = self.layers, [adapter.scale for adapter in self.adapters]
        if self.window is not None:
            kept = [self.slot(name) for name in beside if name is not None]
            places = self.window.bring([slot for slot in slots if slot is not None], kept)
            at = {place: scales[slot] for slot, place in places.items()}
            layers, scales = self.window.layers, [at.get(place, 0.0) for place in range(self.limit)]
            slots = [None if slot is None else places[slot] for slot in slots]
        routing = route(slots, scales, self.device, mergeable)
        return None if routing is None else (layers, routing)

    def prefetch(self, names: Sequence[str | None]) -> None:
        """Begin to bring in the adapters of a later batch, as far as the one at hand leaves room."""
        if self.window is not None:
            self.window.prefetch([self.slot(name) for name in names if name is not None])

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Every tensor of the bank with its name, always in the same order."""
        self._settle()
        for number, sites in enumerate(self.layers):
            for site, lora in sites.items():
                yield f"{number}.{site}.a", lora.a
                for part, b in enumerate(lora.b):
                    yield f"{number}.{site}.b{part}", b

    def modules(self, slot: int) -> Iterator[tuple[str, Tensor, Tensor]]:
        """One adapter as (module name, A [rank, in], B [out, rank]): views of the bank's memory.

        Module names are those of the transformers model, such as ``layers.0.self_attn.q_proj``.
        """
        self._settle()
        for number, sites in enumerate(self.layers):
            for site, lora in sites.items():
                shrinks = lora.a[slot].chunk(len(lora.b))
                for name, a, b in zip(self.names[number][site], shrinks, lora.b, strict=True):
                    module = f"layers.{number}.{name}"
                    rank = self.adapters[slot].rank_of(module)
                    yield module, a[:rank], b[slot, :, :rank]

    def part(self, first: int, last: int) -> Bank:
        """The adapters ``first`` to ``last - 1`` as a bank of their own on the compute device.

        It shares this one's memory where all adapters are there. Else it is a copy, which ``take_back``
        writes to the master, and the window makes room for it until the next ``lora``.
        """
        if self.window is not None:
            self.window.close()
        layers = tuple(
            {
                site: SiteLora(
                    self._slice(lora.a, first, last),
                    tuple(self._slice(b, first, last) for b in lora.b),
                    None if lora.gain is None else self._slice(lora.gain, first, last),
                )
                for site, lora in sites.items()
            }
            for sites in self.layers
        )
        return replace(self, adapters=self.adapters[first:last], layers=layers, window=None)

    @torch.no_grad()
    def take_back(self, first: int, part: Bank) -> None:
        """Write ``part``, which begins at the adapter ``first``, to the master copy it was taken from."""
        if self.window is None:
            return
        for (_, mine), (_, theirs) in zip(self.tensors(), part.tensors(), strict=True):
            mine[first : first + len(part.adapters)].copy_(theirs)

    def _slice(self, tensor: Tensor, first: int, last: int) -> Tensor:
        piece = tensor[first:last].detach()
        return piece if self.window is None else piece.to(self.window.device, copy=True)

    def _settle(self) -> None:
        """The master may be written by whoever gets hold of it: no copy may still be reading it."""
        if self.window is not None:
            self.window.settle()

    def snapshot(self) -> dict[str, Tensor]:
        """A copy of every tensor, to go back to with ``restore``."""
        return {name: tensor.detach().clone() for name, tensor in self.tensors()}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Overwrite the bank with ``tensors``, as ``snapshot`` gave them."""
        with torch.no_grad():
            for name, tensor in self.tensors():
                tensor.copy_(tensors[name])


def empty_bank(
    decoder: Decoder, adapters: Sequence[Adapter], dtype: torch.dtype, resident: int | None = None
) -> Bank:
    """A bank of zeros for ``adapters`` on ``decoder``; with nothing but zeros it changes no output.

    Args:
        decoder: the base.
        adapters: at least one.
        dtype: of the bank.
        resident: how many adapters may stand on the base's device at once, at least one; where there are
            more, all wait in host memory. None: no limit.
    """
    count = len(adapters)
    rank = max(adapter.largest for adapter in adapters)
    targets = {target for adapter in adapters for target in adapter.targets}
    waiting = resident is not None and resident < count
    device = torch.device("cpu") if waiting else decoder.device
    pinned = waiting and decoder.device.type == "cuda"  # only pinned memory is copied while the GPU computes

    def zeros(*shape: int) -> Tensor:
        return torch.zeros(count, *shape, dtype=dtype, device=device, pin_memory=pinned)

    layers, names = [], []
    for number, layer in enumerate(decoder.layers):
        used = {key: site for key, site in layer.sites.items() if targets.intersection(site.names)}
        layers.append(
            {
                key: SiteLora(
                    zeros(len(site.names) * rank, site.inputs),
                    tuple(zeros(width, rank) for width in site.widths),
                    _gain(adapters, [f"layers.{number}.{name}" for name in site.names], rank, device),
                )
                for key, site in used.items()
            }
        )
        names.append({key: site.names for key, site in used.items()})
    window = None
    if resident is not None and resident < count:
        window = Window(layers, resident, decoder.device)
    return Bank(tuple(adapters), tuple(layers), tuple(names), window)


def _gain(
    adapters: Sequence[Adapter], modules: Sequence[str], rank: int, device: torch.device
) -> Tensor | None:
    """What a site's modules need beside the one scale of each adapter; None: nothing."""
    gains = [[each.scale_of(module) / each.scale for module in modules] for each in adapters]
    if all(gain == 1 for row in gains for gain in row):
        return None
    return torch.tensor(gains, dtype=torch.float32, device=device).repeat_interleave(rank, dim=1)
