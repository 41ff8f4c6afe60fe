"""Conversations to imitate, parted by a column into the subsets that make one adapter each."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from sparta_lite.data.detection import CHATS, SYSTEMS, TEXTS_BESIDE, beside, with_input
from sparta_lite.data.fields import encodable, messages_in, parsed, require_columns, value_of
from sparta_lite.data.messages import Conversation, conversation_of
from sparta_lite.data.row import FaultError, Row, all_columns, columns_of, kind, listed, sound
from sparta_lite.data.rows import parted, read_rows
from sparta_lite.errors import SpartaError, shown
from sparta_lite.randomness import generator

TULU_V2 = "tulu-v2"
_TULU_V2_PLACE = "allenai/tulu-v2-sft-mixture"
_TULU_V2_COLUMN = "dataset"
_TULU_V2_SUBSETS = {
    "code_alpaca": "code_alpaca",
    "cot": "cot",
    "flan_v2": "flan_v2",
    "gpt4_alpaca": "gemini_alpaca",  # the paper's has Alpaca's answers by Gemini, the mixture those by GPT-4
    "lima": "lima",
    "oasst1": "oasst1",
    "open_orca": "open_orca",
    "science": "science",  # of several parts, such as science.scierc_ner
    "sharegpt": "sharegpt",
    "wizardlm": "wizardlm",
}
"""The mixture's name of a subset -> the paper's."""

_NOT_IN_A_NAME = re.compile(r"[^\w.-]+")
_LONGEST_NAME = 60  # characters of a subset, which names a directory
_TEMPLATE = "--template"

_Drawn = TypeVar("_Drawn")


@dataclass(frozen=True)
class Columns:
    """Which columns make a conversation: ``messages``, or a prompt and its response."""

    prompt: str | None = None
    """The prompt's column, or text over columns such as ``"{instruction}\\n{input}"``; None: what the columns
    are called decides."""
    response: str = "response"
    messages: str = "messages"


@dataclass(frozen=True)
class Subsets:
    conversations: Mapping[str, Sequence[Conversation]]
    """Subset -> its conversations, in the file's order; the names can name directories."""
    places: Mapping[str, Sequence[str]]
    """Subset -> where each of its conversations stands."""
    skipped: tuple[str, ...]
    """The rows that were left out: place and reason."""


def read_subsets(path: str, by: str | None, columns: Columns, split: str | None = None) -> Subsets:
    """Read conversations and part them by a column's values.

    Args:
        path: as ``rows.read_rows`` takes it, or ``tulu-v2``: the paper's ten subsets.
        by: the column whose value names a row's subset; None only with ``tulu-v2``, which brings its own.
        columns: where the conversation stands in a row.
        split: None: the only one, or ``train``.

    Raises:
        SpartaError: nothing can be read, a column is missing, most rows are no conversations, or there are
            fewer than three subsets, or one in which no assistant says anything.
    """
    tulu = path == TULU_V2
    by = by or (_TULU_V2_COLUMN if tulu else None)
    if by is None:
        raise SpartaError(f"{path}: which column parts it into subsets? Name it with --by")
    rows = read_rows(_TULU_V2_PLACE if tulu else path, None, split)
    name = parted(path)[0]
    require_columns(rows, [by], name)
    if tulu:
        rows = [row for row in rows if _of_tulu(row, by) is not None]
    read = _reader(rows, columns, name)
    names = _Names(by, _of_tulu if tulu else _label)
    taken, skipped = sound(rows, lambda row: (names.of(row), _answered(read(row))), name, "conversations")
    found: dict[str, list[tuple[str, Conversation]]] = {}
    for row, (subset, conversation) in taken:
        found.setdefault(subset, []).append((row.place, conversation))
    _require_tribe(found, names, f"{name}: column {shown(by)}")
    return Subsets(
        {subset: [conversation for _, conversation in found[subset]] for subset in sorted(found)},
        {subset: [place for place, _ in found[subset]] for subset in sorted(found)},
        tuple(skipped),
    )


def sample(conversations: Sequence[_Drawn], rows: int | None, seed: int, name: str) -> Sequence[_Drawn]:
    """At most ``rows`` of a subset, drawn by seed and name, in the file's order."""
    if rows is None or rows >= len(conversations):
        return conversations
    chosen = generator("forge rows", seed, name).sample(range(len(conversations)), rows)
    return [conversations[index] for index in sorted(chosen)]


class _Names:
    """The names of the subsets, and the values that they stand for."""

    def __init__(self, by: str, label: Callable[[Row, str], str | None]) -> None:
        self._by = by
        self._label = label
        self.values: dict[str, str] = {}

    def of(self, row: Row) -> str:
        """The name of the row's subset.

        Raises:
            FaultError: the row names none.
        """
        label = self._label(row, self._by)
        if label is None:
            value = columns_of(row).get(self._by)
            raise FaultError(
                f"has {shown(value)} in column {shown(self._by)}, which must name the row's subset"
            )
        name = _NOT_IN_A_NAME.sub("_", label).lstrip(".-")[:_LONGEST_NAME] or "_"
        if self.values.setdefault(name, label) != label:
            raise SpartaError(
                f"--by {shown(self._by)}: the values {shown(self.values[name])} and {shown(label)} would "
                f"both name the adapter {shown(name)}; rename one"
            )
        return name


def _label(row: Row, by: str) -> str | None:
    value = value_of(row, by)
    if not isinstance(value, str | int) or isinstance(value, bool) or not str(value).strip():
        return None
    return str(value).strip()


def _of_tulu(row: Row, by: str) -> str | None:
    """The paper's name of the row's subset; None for one that it leaves out."""
    label = columns_of(row).get(by)
    return _TULU_V2_SUBSETS.get(label.partition(".")[0]) if isinstance(label, str) else None


def _require_tribe(found: Mapping[str, object], names: _Names, where: str) -> None:
    if silent := [name for name in names.values if name not in found]:
        raise SpartaError(
            f"{where}: no assistant says anything in the subset {shown(silent[0])}; fill it or remove it"
        )
    if len(found) < 3:
        raise SpartaError(
            f"{where} has {len(found)} different values, a tribe needs at least 3 adapters; part it by "
            "another column"
        )


def _answered(conversation: Conversation) -> Conversation:
    """``conversation`` itself.

    Raises:
        FaultError: there is nothing in it to learn.
    """
    for _, text in conversation:
        encodable(text)
    if not any(role == "assistant" and text.strip() for role, text in conversation):
        raise FaultError("has nothing that an assistant says")
    if not any(role in ("user", "system", "tool") for role, _ in conversation):
        raise FaultError(
            "has an answer to nothing",
            "name the column of the prompt with --column, its answer's with --response",
        )
    return conversation


def _reader(rows: Sequence[Row], columns: Columns, path: str) -> Callable[[Row], Conversation]:
    """How a row's conversation is read: by the columns that are named, else by what they are called.

    Raises:
        SpartaError: no row has those columns, or none of a known form.
    """
    names = all_columns(rows)
    if columns.prompt is not None:
        return _by_prompt(rows, columns, path)
    if chat := next((name for name in (columns.messages, *CHATS) if name in names), None):
        return lambda row: _with_system(row, _turns(row, chat, "user"))
    if {"prompt", "completion"} <= set(names):
        return lambda row: _with_system(row, _completed(row))
    if "instruction" in names and (
        answer := next((c for c in (columns.response, "output") if c in names), None)
    ):
        _require_nothing_beside(rows, "instruction", answer, path)
        return lambda row: _with_system(row, _alpaca(row, answer))
    if not names:  # no row is an object, which is said row by row
        return lambda row: ()
    raise SpartaError(
        f"{path}: has no column {shown(columns.messages)}; it has {listed(names)}: {_way(names)}"
    )


def _by_prompt(rows: Sequence[Row], columns: Columns, path: str) -> Callable[[Row], Conversation]:
    column = str(columns.prompt)
    if "{" in column:
        template = parsed(column, path, _TEMPLATE)
        require_columns(rows, [*template.columns, columns.response], path)
        return lambda row: (("user", template.filled(row)), *_turns(row, columns.response, "assistant"))
    require_columns(rows, [column], path)
    if columns.response not in all_columns(rows) and any(_is_chat(row, column) for row in rows):
        return lambda row: _turns(row, column, "user")  # question and answer stand in one column
    require_columns(rows, [columns.response], path)
    return lambda row: _with_system(row, _answered_by(row, column, columns.response))


def _require_nothing_beside(rows: Sequence[Row], asked: str, answer: str, path: str) -> None:
    """Refuse an answer to a question about a text in another column, which would teach to make things up."""
    if (name := beside(rows, asked, TEXTS_BESIDE)) is not None:
        raise SpartaError(
            f"{path}: has a column '{name}' beside '{asked}'; --template \"{{{name}}}\\n{{{asked}}}\" "
            f"--response {answer} reads both, --column {asked} --response {answer} this alone"
        )


def _completed(row: Row) -> Conversation:
    """TRL's prompt and completion, unless a label says that it is a bad one.

    Raises:
        FaultError: it does.
    """
    if str(columns_of(row).get("label")).lower() == "false":  # in a CSV file it is a text
        raise FaultError("has the label false: its completion is none to learn", "remove such rows")
    return _answered_by(row, "prompt", "completion")


def _answered_by(row: Row, prompt: str, response: str) -> Conversation:
    """Prompt and response; some write the response with the whole conversation before it."""
    asked, answer = _turns(row, prompt, "user"), _turns(row, response, "assistant")
    start = int(answer[0][0] == "system" != asked[0][0])
    return answer if answer[start : start + len(asked)] == asked else (*asked, *answer)


def _is_chat(row: Row, column: str) -> bool:
    try:
        return messages_in(value_of(row, column)) is not None
    except FaultError:
        return False


def _turns(row: Row, column: str, role: str) -> Conversation:
    """The messages in a column; a text is one of ``role``."""
    value = value_of(row, column)
    messages = messages_in(value)
    if messages is not None:
        return conversation_of(messages)
    if not isinstance(value, str):
        raise FaultError(f"holds {kind(value)} in column {shown(column)}, neither text nor messages")
    return ((role, value),)


def _alpaca(row: Row, answer: str) -> Conversation:
    """Alpaca's question and answer, behind the earlier ones that some have in ``history``."""
    earlier: list[tuple[str, str]] = []
    for pair in columns_of(row).get("history") or ():
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(text, str) for text in pair):
            raise FaultError("holds no pairs of texts in column 'history'")
        earlier += [("user", pair[0]), ("assistant", pair[1])]
    return (*earlier, ("user", with_input(row)), *_turns(row, answer, "assistant"))


def _with_system(row: Row, conversation: Conversation) -> Conversation:
    """The conversation, behind the system prompt that stands in a column of its own."""
    given = next((columns_of(row)[name] for name in SYSTEMS if name in columns_of(row)), None)
    if not isinstance(given, str) or not given.strip() or conversation[0][0] == "system":
        return conversation
    return (("system", given), *conversation)


def _way(names: Sequence[str]) -> str:
    if "chosen" in names:
        whole = "--column prompt --response chosen" if "prompt" in names else "--column chosen"
        return f"{whole} learns what was chosen"
    if "text" in names:
        return "a text without turns teaches no answer; name question and answer with --column and --response"
    return "name the prompt with --column or --template, and --response"
