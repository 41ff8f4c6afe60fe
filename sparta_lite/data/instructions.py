"""Instructions from any rows, and which of them an iteration uses."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sparta_lite.data.choices import LISTS
from sparta_lite.data.detection import Chats, Reading, chats_in, detected
from sparta_lite.data.fields import checked, parsed, require_columns, text_of
from sparta_lite.data.messages import opening_of
from sparta_lite.data.row import FaultError, Row, columns_of, cut, some, sound
from sparta_lite.data.rows import parted, read_rows
from sparta_lite.randomness import generator


@dataclass(frozen=True)
class Instructions:
    """The texts in the source's order, each once."""

    texts: tuple[str, ...]
    duplicates: tuple[str, ...] = ()
    """Places of the rows that were left out because an earlier one says the same."""
    skipped: tuple[str, ...] = ()
    """The rows that were left out because they hold no instruction: place and reason."""
    remarks: tuple[str, ...] = ()
    """What was left out of rows that were read."""

    def notices(self, source: str) -> Iterator[str]:
        """What a user should hear about rows of ``source`` that were left out."""
        if self.duplicates:
            yield f"{source}: {len(self.duplicates)} duplicate rows were left out: {some(self.duplicates)}"
        if self.skipped:
            yield f"{source}: {len(self.skipped)} rows were skipped: {some(self.skipped)}"
        yield from (f"{source}: {remark}" for remark in self.remarks)


def load_instructions(
    path: str,
    column: str | None,
    template: str | None,
    subset: str | None = None,
    split: str | None = None,
    condition: str | None = None,
) -> Instructions:
    """Read instructions by column or template, without either by what the columns are called.

    Args:
        path, subset, split, condition: see `sparta_lite.data.rows.read_rows`.
        column: the column that holds the instruction, as text or as a conversation; or
        template: text over the columns of a row, ``"{instruction}\\n{input}"``; single parts may be empty.

    Raises:
        SpartaError: the source cannot be read, no row has the column, or more than half of the rows hold no
            such text; it names source and row.
    """
    rows = read_rows(path, subset, split, condition)
    reading = _reading(rows, column, template, path)
    taken, skipped = sound(rows, lambda row: checked(reading.take(row)), path)
    read = [row for row, _ in taken]
    remarks = [*left_out(read, reading.chats), *_choices_left_out(read, column)]
    return unique(taken, skipped, remarks)


def unique(
    taken: Sequence[tuple[Row, str]], skipped: Sequence[str], remarks: Sequence[str] = ()
) -> Instructions:
    """Every text of ``taken`` once."""
    texts: dict[str, None] = {}
    duplicates = []
    for row, text in taken:
        if text in texts:
            duplicates.append(row.place)
        texts[text] = None
    return Instructions(tuple(texts), tuple(duplicates), tuple(skipped), tuple(remarks))


def left_out(rows: Sequence[Row], chats: Chats) -> Iterator[str]:
    """What of the conversations in ``rows`` was not read: system prompts, and turns behind the first."""
    systems, longer = [], []
    for row in rows:
        for messages in chats(row):
            try:
                opening = opening_of(messages)
            except FaultError:  # it was not what was read
                continue
            systems += [row.place] * opening.system
            longer += [row.place] * opening.more
    if systems:
        ours = "generation.system gives one to every question"
        yield f"system prompts were left out in {len(systems)} rows: {some(systems)}; {ours}"
    if longer:
        yield f"the first turn alone was read in {len(longer)} rows with several: {some(longer)}"


def draw(size: int, count: int, seed: int, iteration: int) -> list[int]:
    """Indices of the ``count`` instructions, out of ``size``, that an iteration (from 0) uses.

    The iterations walk through one shuffled pass over the data after another, so that nothing returns before
    everything was used; pass p is shuffled by (seed, p) alone.
    """
    chosen: list[int] = []
    start = iteration * count
    while len(chosen) < count:
        number, place = divmod(start + len(chosen), size)
        order = list(range(size))
        generator("instructions", seed, number).shuffle(order)
        chosen += order[place : place + count - len(chosen)]
    return chosen


def _reading(rows: Sequence[Row], column: str | None, template: str | None, path: str) -> Reading:
    name = parted(path)[0]
    if column is not None:
        require_columns(rows, [column], name)
        return Reading(lambda row: text_of(row, column), chats_in(column))
    if template is None:
        return detected(rows, name)
    text = parsed(template, name)
    require_columns(rows, text.columns, name)
    return Reading(text.filled, chats_in(*text.columns))


def _choices_left_out(rows: Sequence[Row], column: str | None) -> Iterator[str]:
    """Whether choices stand beside the column that was asked for."""
    for name in LISTS if column is not None else ():
        if places := [row.place for row in rows if columns_of(row).get(name)]:
            both = f'"{{{cut(column or "", 40)}}}\\n{{{name}}}"'
            yield f"{name} of {len(places)} rows were left out; data.template: {both} reads them too"
