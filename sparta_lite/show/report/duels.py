"""All duels of a run, packed for the page to unpack: answers are untrusted text and never become HTML."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Sequence
from typing import Any

from sparta_lite.show.report.html import whole
from sparta_lite.show.report.reading import Settled


def packed(tribe: Sequence[str], iterations: Sequence[Settled]) -> str:
    """Every duel with answers, votes and verdict: JSON, compressed with gzip, in base 64.

    The page puts the texts into text nodes alone; base 64 cannot end the element that carries it. A duel is::

        [iteration, duel, instruction, [fighter, fighter], [answer, answer], [tokens, tokens],
         [[judge, score, score], ...], [score, score] or null, winner: 0, 1 or null]

    with adapters as places in ``tribe`` and iterations counted from 1, as people do.
    """
    place = {name: number for number, name in enumerate(tribe)}
    rows = [_row(place, settled, number) for settled in iterations for number in range(len(settled.duels))]
    text = json.dumps({"tribe": list(tribe), "duels": rows}, separators=(",", ":"), allow_nan=False)
    # Without a time in its header equal runs give equal files.
    return base64.b64encode(gzip.compress(text.encode("ascii"), mtime=0)).decode("ascii")


def _row(place: dict[str, int], settled: Settled, number: int) -> list[Any]:
    each = settled.duels[number]
    verdict = settled.verdicts[number]
    return [
        settled.iteration + 1,
        each.duel.index,
        whole(each.instruction),
        [place[name] for name in each.duel.fighters],
        [whole(response.text) for response in each.responses],
        [len(response.ids) for response in each.responses],
        [[place[judge], *map(_short, scores)] for judge, scores in settled.votes(each.duel.index).items()],
        None if verdict is None else [_short(score) for score in verdict.scores],
        None if verdict is None else verdict.winner,
    ]


def _short(score: float | None) -> float | None:
    return None if score is None else round(score, 3)
