"""Questions of one's own to the adapters of a run, or to its bare base, all in one batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sparta_lite.campaign.arena import question_limit
from sparta_lite.campaign.resident import Resident, choose, held_here, load_resident
from sparta_lite.engine.decode import Prompt, generate
from sparta_lite.errors import SpartaError
from sparta_lite.kernels.sampling import Sampling
from sparta_lite.outcome.finished import Finished, best_adapter
from sparta_lite.randomness import key

BASE = "base"
"""Stands for the bare base."""
BEST = "best"


@dataclass(frozen=True)
class Talk:
    """Who answers, loaded once."""

    finished: Finished
    names: tuple[str, ...]
    """Adapters, or ``base``."""
    resident: Resident

    def ask(self, question: str, number: int) -> list[str]:
        """An answer of each, as the run's settings make them answer.

        Args:
            question: on its own: nothing that was said before is remembered.
            number: of the question; with the run's seed it decides the draw.
        """
        config = self.finished.config
        settings = config.generation
        limit = question_limit(config, self.resident.base.context)
        ids = self.resident.chat.question(question, limit).ids
        prompts = [
            Prompt(None if name == BASE else name, ids, key(config.seed, "chat", number, name))
            for name in self.names
        ]
        sampling = Sampling(settings.temperature, settings.top_k, settings.top_p)
        responses = generate(
            self.resident.base, self.resident.bank, prompts, sampling, settings.max_new_tokens, len(prompts)
        )
        return [response.text for response in responses]


def open_talk(finished: Finished, chosen: Sequence[str]) -> Talk:
    """Load the run's base and the adapters that are ``chosen``, by name, as ``best`` or as ``base``.

    Raises:
        SpartaError: the tribe has no such adapter, none was measured best, or something cannot be loaded.
    """
    names = tuple(dict.fromkeys(best_adapter(finished) if name == BEST else name for name in chosen))
    unknown = [name for name in names if name != BASE and name not in finished.adapters]
    if unknown:
        raise SpartaError(
            f"{finished.store.root}: has no adapter {unknown[0]!r}; its tribe is {', '.join(finished.tribe)}"
        )
    # A bank is never empty: for the bare base alone any adapter comes along.
    loaded = [name for name in names if name != BASE] or finished.tribe[:1]
    places, record = finished.places(loaded), finished.store.read_run()
    choices = choose(finished.config, training=False, record=record)
    config = held_here(finished.config, choices, record)
    resident = load_resident(config, choices, places, training=False, date=finished.date)
    return Talk(finished, names, resident)
