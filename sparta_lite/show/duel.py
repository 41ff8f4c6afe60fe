"""The latest duel in the live view: the instruction, both answers, every judge's votes."""

from __future__ import annotations

from rich.cells import cell_len
from rich.segment import Segment

from sparta_lite.campaign.events import DuelDecided
from sparta_lite.show.lines import (
    ACCENT,
    ACCENT_STRONG,
    FAINT,
    PLAIN,
    SECOND,
    SECOND_STRONG,
    STRONG,
    WORSE,
    Line,
    cell,
    cut,
    rule,
)
from sparta_lite.show.text import clean, clip, counted, wrapped

SIDE_BY_SIDE = 120
_VOTE = 12
"""Cells of one judge's two scores and the blanks around them."""


def duel_lines(duel: DuelDecided, of: int, width: int, height: int) -> list[Line]:
    """At most ``height`` lines; where they are few the votes go first, then the second line of an answer."""
    if height < 4:
        return []
    inner = width - 2
    title = f"latest duel  {duel.duel + 1} of {of}, iteration {duel.iteration + 1}"
    votes = _votes(duel, inner, min(height - 4, 8))
    room = height - 1 - len(votes) - (1 if height >= 14 else 0)
    question = wrapped(_start_of(duel.instruction, inner, room), inner, max(1, room // 5))
    room -= len(question)
    answers = _side_by_side(duel, inner, room) if width >= SIDE_BY_SIDE else _stacked(duel, inner, room)
    body = [*([Segment(row, STRONG)] for row in question), *answers]
    if height >= 14:
        body.append([])
    return [rule(title, width), *([Segment(" ", PLAIN), *line] for line in [*body, *votes])]


def _stacked(duel: DuelDecided, width: int, height: int) -> list[Line]:
    heads = _heads(duel, min(18, width // 3))
    indent = sum(cell_len(segment.text) for segment in heads[0]) + 2
    lines: list[Line] = []
    for head, response in zip(heads, duel.responses, strict=True):
        inner = width - indent
        rows = wrapped(_start_of(response, inner, height), inner, max(height // 2, 1)) or ("",)
        lines.append([*head, Segment("  " + rows[0], PLAIN)])
        lines += [[Segment(" " * indent + row, PLAIN)] for row in rows[1:]]
    return lines


def _side_by_side(duel: DuelDecided, width: int, height: int) -> list[Line]:
    half = (width - 3) // 2
    heads = _heads(duel, 40)
    sides = [
        wrapped(_start_of(response, half, height), half, max(height - 1, 1)) for response in duel.responses
    ]
    between = Segment(" │ ", FAINT)
    first = heads[0] + [Segment(" " * (half - sum(cell_len(segment.text) for segment in heads[0])), PLAIN)]
    lines: list[Line] = [[*first, between, *heads[1]]]
    for row in range(max(len(side) for side in sides)):
        left, right = (side[row] if row < len(side) else "" for side in sides)
        lines.append([cell(left, half), between, Segment(right, PLAIN)])
    return lines


def _heads(duel: DuelDecided, longest: int) -> list[Line]:
    """Each fighter: a mark if it won, its name, its score."""
    names = [clip(clean(name), longest) for name in duel.fighters]
    width = max(cell_len(name) for name in names)
    heads: list[Line] = []
    for index, style in enumerate((ACCENT, SECOND)):
        won = duel.winner == duel.fighters[index]
        mark = "▸ " if won else "= " if duel.winner is None and duel.scores is not None else "  "
        heads.append(
            [
                Segment(mark, style),
                cell(names[index], width, style + STRONG if won else style),
                cell(
                    f"{duel.scores[index]:.2f}" if duel.scores else "–", 6, STRONG if won else PLAIN, "right"
                ),
            ]
        )
    return heads


def _votes(duel: DuelDecided, width: int, height: int) -> list[Line]:
    """Each judge's scores of the first and the second response, the higher one in its fighter's colour."""
    if not duel.votes or height < 1:
        return []
    longest = max(cell_len(clean(judge)) for judge in duel.votes)
    columns = max(width // (longest + _VOTE), 1)
    if -(-len(duel.votes) // columns) > min(height, 2):
        columns = max(-(-len(duel.votes) // min(height, 2)), 1)
    size = min(width // columns, longest + _VOTE)
    if size < _VOTE + 3:
        failed = sum(votes.count(None) for votes in duel.votes.values())
        counts = f"{counted(len(duel.votes), 'judges')}, {counted(failed, 'failed judgments')}"
        return [[Segment(clip(counts, width), FAINT)]]
    cells = [_vote(judge, votes, size) for judge, votes in duel.votes.items()]
    rows = [cells[start : start + columns] for start in range(0, len(cells), columns)]
    return [cut([segment for part in row for segment in part], width) for row in rows]


def _vote(judge: str, votes: tuple[float | None, float | None], size: int) -> Line:
    first, second = votes
    styles = [PLAIN, PLAIN]
    if first is not None and second is not None and first != second:
        styles[first < second] = (ACCENT_STRONG, SECOND_STRONG)[first < second]
    texts = ["–" if vote is None else f"{vote:.1f}" for vote in votes]
    styles = [WORSE if vote is None else style for vote, style in zip(votes, styles, strict=True)]
    return [
        cell(clean(judge), size - _VOTE, FAINT),
        cell(texts[0], 5, styles[0], "right"),
        Segment(":", FAINT),
        cell(texts[1], 6, styles[1]),
    ]


def _start_of(text: str, width: int, lines: int) -> str:
    """Enough of ``text`` for the space there is: cleaning and wrapping a whole long answer takes time."""
    return clean(text[: 4 * width * max(lines, 1)])
