"""What a run goes on from, looked at before anything is loaded or written."""

from __future__ import annotations

from collections.abc import Sequence

from sparta_lite.campaign.events import read_events
from sparta_lite.campaign.journals import recorded
from sparta_lite.campaign.reading import read_metrics, read_reputation, require
from sparta_lite.campaign.records import DUELS, JUDGMENTS
from sparta_lite.campaign.settings import Config
from sparta_lite.campaign.store import Store
from sparta_lite.campaign.training_state import read_training
from sparta_lite.engine.peft_io import read_adapter


def require_sound(store: Store, config: Config, tribe: Sequence[str]) -> None:
    """Refuse a run whose files are damaged or were changed since they were written.

    Of adapters the latest ones alone are looked at, from which the run goes on.

    Raises:
        SpartaError: one is; it names the file.
    """
    store.require_unchanged()
    read_metrics(store, tribe, config.iterations)
    if store.events.is_file():
        read_events(store.content(store.events), store.events)
    complete = store.complete()
    for iteration in range(complete):
        reputation = read_reputation(store, iteration)
        other = set(reputation.tribe) != set(tribe)
        require("is not of the run's tribe" if other else None, str(store.reputation(iteration)))
    if complete:
        for name in tribe:
            place = store.require_adapter(complete - 1, name)
            if store.digests() is None:
                read_adapter(name, place)
    for path, form in ((store.duels(complete), DUELS), (store.judgments(complete), JUDGMENTS)):
        form.lines(recorded(store, path), path)
    if store.training(complete).is_file():
        read_training(store.training(complete))
