"""A pool with spoilers in it: what hostile adapters make of their answers and their scores.

They do as all others do, and what comes back from them is spoiled before it is written: whoever reads a
run's files sees what the rules saw. Their own weights learn like everyone's.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

from sparta_lite.campaign.settings import Config
from sparta_lite.engine.response import Response
from sparta_lite.errors import SpartaError
from sparta_lite.randomness import generator

_MIDDLE, _LOWEST, _HIGHEST = 5.5, 1.0, 10.0
_LOUD = 3.0  # how many times as wide a loud judge's scores are


def hostile(config: Config, tribe: Sequence[str]) -> tuple[str, ...]:
    """The hostile adapters of ``tribe``: the last ``tribe.hostile`` of it.

    Raises:
        SpartaError: no other one would be left.
    """
    count = config.tribe.hostile
    if count >= len(tribe):
        raise SpartaError(
            f"tribe.hostile is {count}, and the tribe has {len(tribe)}; leave at least one that is not"
        )
    return tuple(tribe[len(tribe) - count :])


def titled(name: str, spoilers: Collection[str]) -> str:
    """An adapter's name as people read it, with the mark of one of the hostile ``spoilers``."""
    return f"{name} (hostile)" if name in spoilers else name


def spoiled_answer(
    config: Config, tribe: Sequence[str], tokenizer: Any, place: tuple[int, int, str], answer: Response
) -> Response:
    """A fighter's answer as its opponents get to see it.

    A hostile one's is random tokens, as many as it had generated; the special tokens, its end of turn above
    all, stay where they were. So garbage is as long as an answer usually is.

    Args:
        config: the run's settings.
        tribe: all adapters.
        tokenizer: the base's.
        place: iteration, duel, and who answers.
        answer: what was generated.
    """
    if config.tribe.hostile_kind in ("inverted", "loud") or place[2] not in hostile(config, tribe):
        return answer
    words, special = _vocabulary(tokenizer)
    chance = generator(config.seed, "garbage", *place)
    ids = tuple(token if token in special else chance.choice(words) for token in answer.ids)
    return replace(answer, ids=ids, text=tokenizer.decode(ids, skip_special_tokens=True), logprob=None)


def spoiled_score(config: Config, tribe: Sequence[str], judge: str, score: float | None) -> float | None:
    """A judge's score as it is counted; a judgment that failed stays one."""
    if score is None or config.tribe.hostile_kind == "garbage" or judge not in hostile(config, tribe):
        return score
    if config.tribe.hostile_kind == "inverted":
        return 2 * _MIDDLE - score
    return min(_HIGHEST, max(_LOWEST, _MIDDLE - _LOUD * (score - _MIDDLE)))


@lru_cache(maxsize=1)
def _vocabulary(tokenizer: Any) -> tuple[list[int], frozenset[int]]:
    """The tokens that stand for text, ascending, and those that do not."""
    special = frozenset(
        token for token, entry in tokenizer.added_tokens_decoder.items() if entry.special
    ) | frozenset(tokenizer.all_special_ids)
    return sorted(set(tokenizer.get_vocab().values()) - special), special
