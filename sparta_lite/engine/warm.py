"""The cache and the recorded steps of one call of ``generate``, kept for the next."""

from __future__ import annotations

from sparta_lite.engine.bank import Bank
from sparta_lite.engine.cache import Cache
from sparta_lite.engine.model import Decoder
from sparta_lite.engine.step import Steps, recordable
from sparta_lite.kernels.sampling import Sampling

_ROUND = 64  # positions: calls whose longest rows differ by less share one cache


class Warm:
    """What generation on one base leaves behind: at most one cache, with the steps recorded on it.

    A recorded step reads the adapters where they stand in the bank, so that it computes with whatever stands
    there when it is launched: training in the bank's memory makes no recording void. Steps that cannot be
    recorded are not kept, for a new cache costs nothing beside them.
    """

    def __init__(self) -> None:
        self._kept: Steps | None = None

    @property
    def bank(self) -> Bank | None:
        """The adapters that the recorded steps read; None: none are kept."""
        return None if self._kept is None else self._kept.bank

    def take(self, decoder: Decoder, bank: Bank, places: int, capacity: int, sampling: Sampling) -> Steps:
        """Steps over a cache of at least so many places and positions, all of them empty.

        They belong to the caller until it gives them back: after a failure it closes them instead.
        """
        kept, self._kept = self._kept, None
        if kept is not None:
            if kept.serve(decoder, bank, places, capacity):
                kept.begin_anew(sampling, places)
                return kept
            kept.close()
        del kept  # its memory goes before the next cache takes as much
        if recordable(decoder, bank):
            capacity = -(-capacity // _ROUND) * _ROUND
        return Steps(decoder, bank, Cache(decoder, places, capacity), sampling)

    def give_back(self, steps: Steps) -> None:
        """Keep ``steps`` for the next call, if that saves it anything."""
        if steps.recordable:
            self._kept = steps
        else:
            steps.close()

    def release(self) -> None:
        """Give the memory of what is kept to whoever needs it."""
        kept, self._kept = self._kept, None
        if kept is not None:
            kept.close()
