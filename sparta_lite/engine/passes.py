"""Forward passes over whole sequences, in batches of rows of one adapter each."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence

from torch import Tensor

from sparta_lite.engine.bank import Bank
from sparta_lite.engine.base import Base
from sparta_lite.engine.memory import OnShrink, shrink_to_fit
from sparta_lite.engine.packing import Row, lay_out

AdapterRow = tuple[str | None, Row]
"""A row and the adapter that reads it; None is the bare base."""
Read = Callable[[], None]
"""Waits for what a batch came to, and takes it in."""


def in_batches(
    rows: Sequence[AdapterRow],
    batch_tokens: int,
    work: Callable[[list[int], str | None], Read],
    on_shrink: OnShrink | None,
) -> None:
    """Give every row to ``work``, as indices, in smaller batches from the first on that did not fit.

    What a batch came to is read once the device has been given the next one, so that it has no need to wait.

    Args:
        rows: in any order; those of one adapter and of similar length go together.
        batch_tokens: tokens in one batch, padding included; a longer row goes alone.
        work: also learns whose batch comes next; gives what reads the result.
        on_shrink: told when memory ran out and batches are smaller from now on.

    Raises:
        SpartaError: not even one row fits into memory.
    """
    waiting = deque(
        sorted(range(len(rows)), key=lambda index: (rows[index][0] or "", rows[index][1].length, index))
    )

    def attempt(size: int) -> tuple[int, Read]:
        batch = _batch(rows, waiting, size)
        following = rows[waiting[len(batch)]][0] if len(batch) < len(waiting) else None
        return len(batch), work(batch, following)

    unread: Read | None = None
    while waiting:
        batch = _batch(rows, waiting, batch_tokens)
        least, longest = rows[batch[0]][1].length, rows[batch[-1]][1].length
        tokens = len(batch) * longest
        (done, read), size = shrink_to_fit(
            attempt,
            tokens,
            least=least,
            phase="scoring",
            advice=f"one row of {least} tokens does not fit; lower its length, or tribe.resident",
            on_shrink=on_shrink,
        )
        batch_tokens = size if size < tokens else batch_tokens
        for _ in range(done):
            waiting.popleft()
        if unread is not None:
            unread()
        unread = read
    if unread is not None:
        unread()


def hidden_states(
    base: Base, bank: Bank, rows: Sequence[AdapterRow], following: str | None, keep: Tensor | None = None
) -> Tensor:
    """Hidden states of a batch padded on the right, [rows, longest, hidden], or those at ``keep`` alone.

    Args:
        base: the resident base.
        bank: the adapters.
        rows: at least one.
        following: the adapter of the batch that comes next; it is brought in meanwhile.
        keep: see ``Decoder.hidden``.
    """
    layout = lay_out([row for _, row in rows]).to(base.decoder.device)
    lora = bank.lora([adapter for adapter, _ in rows], mergeable=True)
    mixing = layout.mixing(base.decoder.mixers)
    hidden = base.decoder.hidden(layout.ids, layout.positions, mixing, lora, keep)
    bank.prefetch([following])
    return hidden


def _batch(rows: Sequence[AdapterRow], order: Iterable[int], batch_tokens: int) -> list[int]:
    """The first rows of ``order`` that can go through together: of one adapter, at least one."""
    batch: list[int] = []
    for index in order:
        adapter, row = rows[index]
        if batch and (adapter != rows[batch[0]][0] or (len(batch) + 1) * row.length > batch_tokens):
            break
        batch.append(index)
    return batch
