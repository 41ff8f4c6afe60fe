"""The paper's tasks: where they come from, what is asked, who may see which question.

=====================  =========================================  ======================================
task                   on the hub                                 answered with
=====================  =========================================  ======================================
gsm8k                  openai/gsm8k (main)                        a number
math-easy              DigitalLearningGmbH/MATH-lighteval         an expression in a box; levels 1 and 2
math-medium            the same                                   the same; level 3
math-hard              the same                                   the same; levels 4 and 5
medqa                  GBaker/MedQA-USMLE-4-options               a letter
normad-country         akhilayerukola/NormAd                      yes, no or neutral
normad-value           the same                                   the same
normad-rot             the same                                   the same
knowledge-crosswords   none known: give the published file        a letter
com2                   none known: give the published file        free text, scored by a judge
alpaca                 tatsu-lab/alpaca                           free text, scored by a judge
truthfulqa             truthfulqa/truthful_qa (generation)        yes or no: is the proposed answer true?
=====================  =========================================  ======================================

A path takes the place of the hub: a file of the published repository, or any other in either form. Of the
published levels easy and medium were seen to be 1-2 and 3; hard is taken for the rest. The published files of
gsm8k and truthfulqa hold no answers: they serve for duels, and held-out questions come from the hub.

Duels and held-out questions of one source are disjoint. Where it has a split called test, validation, valid
or dev beside others, that one is held out, less what the training split holds as well. Otherwise one question
in five is held out, chosen by a hash of the bare question without the wording around it, so that it is on the
same side in every file and for every seed; only where the hub has a test split of its own and the file no
answers do duels take all.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from sparta_lite.data import forms
from sparta_lite.data.detection import chats_in
from sparta_lite.data.filters import keep
from sparta_lite.data.forms import Entry
from sparta_lite.data.grading import grade_choice, grade_expression, grade_label, grade_number, grade_truth
from sparta_lite.data.instructions import Instructions, left_out, unique
from sparta_lite.data.row import WHOLE, FaultError, Row, Splits, listed, some, sound
from sparta_lite.data.rows import parted, read_splits, split_name
from sparta_lite.data.task import Mark, Question, Task
from sparta_lite.errors import SpartaError, shown
from sparta_lite.randomness import generator, key

_HELD_OUT = ("test", "validation", "valid", "dev")
"""Names of splits that are held out, the first that exists."""

_ONE_IN = 5
"""Of a source without such a split one question in so many is held out."""


_CHATS = chats_in("prompt", "instruction", "input", "question", "problem")
"""Where a conversation may stand in a row of a task."""


@dataclass(frozen=True)
class Preset:
    hub: str | None
    read: Callable[[Row], Entry]
    grade: Callable[[Question, str], Mark] | None
    subset: str | None = None
    levels: tuple[str, ...] = ()
    """The levels that belong to the task; empty takes every row."""
    own_test: bool = False
    """Whether the hub has held-out questions that no published file holds."""
    keyless: bool = False
    """Whether the published file holds no answers, but is parted as the hub's questions are."""

    @property
    def measured_on_hub(self) -> bool:
        """Whether the hub's held-out questions are none that duels over a published file use."""
        return self.own_test or self.keyless


_MATH = "DigitalLearningGmbH/MATH-lighteval"
_NORMAD = "akhilayerukola/NormAd"


def _math(*levels: str) -> Preset:
    return Preset(_MATH, forms.competition_problem, grade_expression, levels=levels, own_test=True)


TASKS: dict[str, Preset] = {
    "gsm8k": Preset("openai/gsm8k", forms.word_problem, grade_number, subset="main", own_test=True),
    "math-easy": _math("Level 1", "Level 2"),
    "math-medium": _math("Level 3"),
    "math-hard": _math("Level 4", "Level 5"),
    "medqa": Preset("GBaker/MedQA-USMLE-4-options", forms.medical_choice, grade_choice, own_test=True),
    "normad-country": Preset(_NORMAD, forms.country_norm, grade_label),
    "normad-value": Preset(_NORMAD, forms.value_norm, grade_label),
    "normad-rot": Preset(_NORMAD, forms.rule_norm, grade_label),
    "knowledge-crosswords": Preset(None, forms.lettered, grade_choice),
    "com2": Preset(None, forms.open_ended, None),
    "alpaca": Preset("tatsu-lab/alpaca", forms.open_ended, None),
    "truthfulqa": Preset(
        "truthfulqa/truthful_qa", forms.proposed_answer, grade_truth, subset="generation", keyless=True
    ),
}


def load_task_instructions(
    name: str,
    path: str | None,
    subset: str | None = None,
    split: str | None = None,
    condition: str | None = None,
) -> Instructions:
    """What duels are fought over: questions alone, none of them held out.

    Args:
        name: a task of `TASKS`.
        path: a file, directory or hub dataset in either form; None: the task's place on the hub.
        subset, split, condition: see `sparta_lite.data.rows.read_rows`.

    Raises:
        SpartaError: there is no such task, its source cannot be read, or most rows are not of its form.
    """
    entries, skipped = _fought_over(name, path, subset, split, condition)
    remarks = left_out([row for row, _ in entries], _CHATS)
    return unique([(row, entry.question.text) for row, entry in entries], skipped, tuple(remarks))


def load_answers(
    name: str,
    path: str | None,
    subset: str | None = None,
    split: str | None = None,
    condition: str | None = None,
) -> dict[str, Question]:
    """The same instructions with their answers: for SPIN and for looking back at a run, never for duels.

    Raises:
        SpartaError: see `load_task_instructions`.
    """
    entries, _ = _fought_over(name, path, subset, split, condition)
    return {entry.question.text: entry.question for _, entry in entries}


def _fought_over(
    name: str, path: str | None, subset: str | None, split: str | None, condition: str | None
) -> tuple[list[tuple[Row, Entry]], list[str]]:
    """The entries that duels use, and which rows are none."""
    preset = preset_of(name)
    where, named, splits = _source(name, preset, path, subset)
    training = split_name(where, splits, split or named)
    if _is_test(training, splits):
        raise SpartaError(
            f"{where}: the split {shown(training)} is held out; choose another one for the duels"
        )
    rows = splits[training]()
    if condition is not None:
        rows = keep(rows, condition, where)
    entries, skipped = _entries(preset, rows, where)
    has_test = any(_is_test(each, splits) for each in splits)
    if not has_test and not (preset.own_test and all(entry.question.answer is None for _, entry in entries)):
        entries = [(row, entry) for row, entry in entries if not _is_held_out(entry)]
    if not entries:
        raise SpartaError(f"{where}: all questions of so few rows are held out; give a file with more")
    return entries, skipped


def load_task(name: str, path: str | None, items: int, seed: int) -> Task:
    """Held-out questions with their answers: the first ``items`` of a shuffle by ``seed``.

    Args:
        name: a task of `TASKS`.
        path: a file, directory or hub dataset in either form, ``PATH#SPLIT`` names the split that is held
            out; None: the task's place on the hub.
        items: at most so many questions.
        seed: of the shuffle.

    Raises:
        SpartaError: as `load_task_instructions`, or there is no answer, or no question, that is held out.
    """
    preset = preset_of(name)
    where, named, splits = _source(name, preset, path, None)
    test = next((split for split in _HELD_OUT if _is_test(split, splits)), None)
    if named is not None and test is not None and not _is_test(named, splits):
        raise SpartaError(
            f"{where}: the split {shown(named)} is for duels; choose another one, such as {test!r}"
        )
    split = split_name(where, splits, named or test)
    entries, skipped = _entries(preset, splits[split](), where)
    if not _is_test(split, splits):
        entries = [(row, entry) for row, entry in entries if _is_held_out(entry)]
    elif "train" in splits:
        fought = {entry.core for _, entry in _entries(preset, splits["train"](), where)[0]}
        entries = [(row, entry) for row, entry in entries if entry.core not in fought]
    if not entries:
        raise SpartaError(f"{where}: holds no question that duels leave out; give a file with more rows")
    unanswered = [row.place for row, entry in entries if preset.grade and entry.question.answer is None]
    if 2 * len(unanswered) > len(entries):
        instead = f"take evaluation.paths.{name} out to measure on the hub's" if preset.hub else "give others"
        raise SpartaError(
            f"{where}: {len(unanswered)} of {len(entries)} held-out questions of {name} have no answer to "
            f"compare with; {instead}, or give a file with answers"
        )
    questions = [
        entry.question for _, entry in entries if not preset.grade or entry.question.answer is not None
    ]
    chosen = list({question.text: question for question in questions}.values())
    generator("held-out", name, seed).shuffle(chosen)
    notices = []
    if skipped:
        notices.append(f"{where}: {len(skipped)} rows were skipped: {some(skipped)}")
    if unanswered:
        lost = f"{len(unanswered)} held-out questions have no answer to compare with and are not asked"
        notices.append(f"{where}: {lost}: {some(unanswered)}")
    return Task(name, tuple(chosen[:items]), preset.grade, tuple(notices))


def preset_of(name: str) -> Preset:
    """The preset called ``name``.

    Raises:
        SpartaError: there is none.
    """
    if name not in TASKS:
        nearest = difflib.get_close_matches(name[:100], TASKS, n=1)
        meant = f" (did you mean {nearest[0]!r}?)" if nearest else ""
        raise SpartaError(f"no task is called {shown(name)}{meant}; the tasks: {', '.join(TASKS)}")
    return TASKS[name]


def _source(
    name: str, preset: Preset, path: str | None, subset: str | None
) -> tuple[str, str | None, Splits]:
    """Where the task is read from, the split that the path names, and all splits."""
    if path is None and preset.hub is None:
        raise SpartaError(
            f"{name}: is not known to be on the hub; give its file, as data.path for the duels and as "
            f"evaluation.paths.{name}, or with `eval --path`, for the held-out questions"
        )
    where, named = parted(path or str(preset.hub))
    splits = read_splits(where, subset or (preset.subset if path is None else None))
    return where, named, _by_own_column(splits) if tuple(splits) == (WHOLE,) else splits


def _by_own_column(splits: Splits) -> Splits:
    """The splits that the column ``datasplit`` names, where all rows have one."""
    rows = splits[WHOLE]()
    tables: dict[str, list[Row]] = {}
    for row in rows:
        name = row.value.get("datasplit") if isinstance(row.value, dict) else None
        tables.setdefault(name if isinstance(name, str) else WHOLE, []).append(row)
    if not rows or WHOLE in tables:
        return {WHOLE: partial(list, rows)}
    return {name: partial(list, table) for name, table in tables.items()}


def _is_test(split: str, splits: Splits) -> bool:
    """Whether the source holds ``split`` for tests, beside others."""
    return split in _HELD_OUT and split in splits and len(splits) > 1


def _is_held_out(entry: Entry) -> bool:
    return key("held-out", entry.core) % _ONE_IN == 0


def _entries(preset: Preset, rows: Sequence[Row], where: str) -> tuple[list[tuple[Row, Entry]], list[str]]:
    """The rows of the task's levels as questions, and those that are none."""
    return sound(_of_levels(rows, preset.levels, where) if preset.levels else rows, preset.read, where)


def _of_levels(rows: Sequence[Row], levels: tuple[str, ...], where: str) -> list[Row]:
    """The rows of these levels, and those without one, which is a fault of theirs."""
    kept, others, found = [], set[str](), False
    for row in rows:
        try:
            level = forms.level_of(row)
        except FaultError:
            kept.append(row)
            continue
        if level in levels:
            kept.append(row)
            found = True
        else:
            others.add(level)
    if others and not found:
        raise SpartaError(
            f"{where}: no row has a level of {', '.join(levels)}; it has: {listed(sorted(others))}"
        )
    return kept
