"""A few adapters on the compute device, the others of their bank waiting in host memory."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sparta_lite.engine.sites import SiteLora
from sparta_lite.errors import SpartaError

_NEVER = -1


@dataclass
class _Place:
    """What stands in one place of the window."""

    slot: int = _NEVER
    """Of the bank."""
    version: int = _NEVER
    """Of the master copy when it was read."""
    arrived: torch.cuda.Event | None = None
    """On a GPU, the end of the copy."""


class Window:
    """The places on the device through which the adapters of a bank pass, least recently used first out.

    Its tensors are those of the bank with ``size`` in place of the number of adapters. They are made when
    first needed and can be given up in between. On a GPU, copies run on a stream of their own: work
    on the adapters of one batch goes on while those of the next come in.

    A place is good only while the master copy has the version that it was read at. Torch counts every
    write to a tensor, through whatever view it happens, and that counter is the version; fused
    optimizers go past it, which is why training works on a part of the bank and takes it back.
    """

    def __init__(self, master: Sequence[dict[str, SiteLora]], size: int, device: torch.device) -> None:
        """
        Args:
            master: all adapters, per decoder layer, in host memory; pinned where ``device`` is a GPU.
            size: places, at least one.
            device: where the base computes.
        """
        self.size, self.device = size, device
        self._master = master
        self._sources = _flat(master)
        self._layers: tuple[dict[str, SiteLora], ...] = ()
        self._targets: list[Tensor] = []
        self._places: list[_Place] = []
        self._order: list[int] = []  # places, the least recently used first
        self._busy: set[int] = set()  # places of the batch at hand
        self._copying = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._before: torch.cuda.Event | None = None  # the end of all work on earlier batches

    @property
    def layers(self) -> tuple[dict[str, SiteLora], ...]:
        """The window's tensors, per decoder layer; empty before the first ``bring``."""
        return self._layers

    def bring(self, slots: Iterable[int], beside: Iterable[int]) -> dict[int, int]:
        """Make sure that a batch finds its adapters; work given to the device from now on may use them.

        Args:
            slots: of the batch's adapters.
            beside: slots that must stay where earlier calls put them.

        Returns:
            The place of every slot in both.

        Raises:
            SpartaError: more different slots than places.
        """
        wanted = {*slots, *beside}
        if len(wanted) > self.size:
            raise SpartaError(
                f"{len(wanted)} adapters in one batch; tribe.resident lets {self.size} stand on the device: "
                "raise it"
            )
        self._open()
        at = {place.slot: index for index, place in enumerate(self._places)}
        self._busy = {at[slot] for slot in wanted if slot in at}
        if self._copying is not None:
            self._before = torch.cuda.current_stream(self.device).record_event()
        version = self._version()
        for slot in sorted(wanted):
            if slot not in at:
                at[slot] = next(index for index in self._order if index not in self._busy)
                self._busy.add(at[slot])
            self._fill(at[slot], slot, version)
        for slot in wanted:
            arrived = self._places[at[slot]].arrived
            if arrived is not None:
                torch.cuda.current_stream(self.device).wait_event(arrived)
        return {slot: at[slot] for slot in wanted}

    def prefetch(self, slots: Sequence[int]) -> None:
        """Begin to copy adapters that a later batch needs, as many as fit beside the batch at hand."""
        if not self._targets:
            return
        at = {place.slot: index for index, place in enumerate(self._places)}
        version = self._version()
        taken = self._busy | {at[slot] for slot in slots if slot in at}
        for slot in slots:
            place = at.get(slot)
            if place is None:
                place = next((index for index in self._order if index not in taken), None)
            if place is not None and place not in self._busy:
                taken.add(place)
                self._fill(place, slot, version)

    def settle(self) -> None:
        """Wait until no copy reads the master any more."""
        if self._copying is not None:
            self._copying.synchronize()

    def close(self) -> None:
        """Give the window's memory back until the next ``bring``."""
        self.settle()
        self._layers, self._targets, self._places, self._order = (), [], [], []
        self._busy = set()

    def _open(self) -> None:
        if self._targets:
            return
        layers = tuple(
            {
                site: SiteLora(
                    self._places_for(lora.a),
                    tuple(map(self._places_for, lora.b)),
                    None if lora.gain is None else self._places_for(lora.gain),
                )
                for site, lora in sites.items()
            }
            for sites in self._master
        )
        self._layers, self._targets = layers, _flat(layers)
        self._places = [_Place() for _ in range(self.size)]
        self._order = list(range(self.size))

    def _places_for(self, master: Tensor) -> Tensor:
        # Zeros, for a row on the bare base may stand on the line of a place that nothing has filled.
        return torch.zeros(self.size, *master.shape[1:], dtype=master.dtype, device=self.device)

    def _version(self) -> int:
        """Of the master copy; it never falls, and every write raises it."""
        return sum(tensor._version for tensor in self._sources)

    def _fill(self, index: int, slot: int, version: int) -> None:
        """Copy an adapter into a place, unless it stands there already; it is the latest used by now."""
        place = self._places[index]
        self._order.remove(index)
        self._order.append(index)
        if (place.slot, place.version) == (slot, version):
            return
        # Should the copy fail, the place holds nothing.
        place.slot = place.version = _NEVER
        if self._copying is None:
            self._copy(slot, index)
        else:
            with torch.cuda.stream(self._copying):
                if self._before is not None:
                    self._copying.wait_event(self._before)
                self._copy(slot, index)
                place.arrived = self._copying.record_event()
        place.slot, place.version = slot, version

    @torch.no_grad()
    def _copy(self, slot: int, index: int) -> None:
        for source, target in zip(self._sources, self._targets, strict=True):
            target[index].copy_(source[slot], non_blocking=True)


def _flat(layers: Collection[dict[str, SiteLora]]) -> list[Tensor]:
    found = [tensor for sites in layers for lora in sites.values() for tensor in (lora.a, *lora.b, lora.gain)]
    return [tensor for tensor in found if tensor is not None]
