"""Many adapters and the bare base answer many tasks in mixed batches; their answers are marked or judged."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sparta_lite.campaign.arena import judge_limit, question_limit
from sparta_lite.campaign.intervals import Interval, bootstrap, wilson
from sparta_lite.campaign.settings import Config
from sparta_lite.data.task import Mark, Question, Task
from sparta_lite.engine.bank import Bank
from sparta_lite.engine.base import Base
from sparta_lite.engine.chat import Chat
from sparta_lite.engine.decode import Progress, Prompt, generate
from sparta_lite.engine.memory import OnShrink
from sparta_lite.engine.response import Response
from sparta_lite.engine.score import expected_scores
from sparta_lite.kernels.sampling import Sampling

GREEDY = Sampling(temperature=0)


@dataclass(frozen=True)
class Sheet:
    """One adapter's answers to one task, question by question: marked, or scored where ``judged``."""

    questions: tuple[Question, ...]
    marks: tuple[Mark, ...]
    """Empty where answers are judged."""
    scores: tuple[float | None, ...]
    """1 to 10, None where the judgment failed; empty where answers are marked."""

    @property
    def value(self) -> float | None:
        """The share of right answers, or the mean of the valid scores; None without one valid score."""
        if self.marks:
            return self.marks.count("right") / len(self.marks)
        valid = self._valid()
        return sum(valid) / len(valid) if valid else None

    @property
    def interval(self) -> Interval | None:
        """95 %: Wilson's for a share, a bootstrapped one for a mean score; None without one valid score."""
        if self.marks:
            return wilson(self.marks.count("right"), len(self.marks))
        return bootstrap(valid) if (valid := self._valid()) else None

    @property
    def unparsed(self) -> int:
        """Answers in which none could be found, or whose judgment failed."""
        return self.marks.count("unparsed") + self.scores.count(None)

    def by_group(self) -> dict[str, float | None]:
        """The value in every group of questions that has a name."""
        groups: dict[str, list[int]] = {}
        for index, question in enumerate(self.questions):
            if question.group:
                groups.setdefault(question.group, []).append(index)
        return {group: self._part(indices).value for group, indices in groups.items()}

    def _part(self, indices: Sequence[int]) -> Sheet:
        return Sheet(
            tuple(self.questions[index] for index in indices),
            tuple(self.marks[index] for index in indices if self.marks),
            tuple(self.scores[index] for index in indices if self.scores),
        )

    def _valid(self) -> list[float]:
        return [score for score in self.scores if score is not None]


def examine(
    config: Config,
    base: Base,
    bank: Bank,
    chat: Chat,
    tasks: Sequence[Task],
    names: Sequence[str | None],
    progress: Progress | None = None,
    on_shrink: OnShrink | None = None,
) -> dict[str, dict[str | None, Sheet]]:
    """Greedy answers to every question of every task, all adapters in one batch.

    A task that has no right answers is judged by the bare base, which is no fighter: one forward
    pass gives the expected score of an answer.

    Args:
        config: lengths, sizes of batches, and how a judge is asked.
        base: the resident base.
        bank: the adapters.
        chat: the run's conversation format.
        tasks: what is asked.
        names: adapters that answer; None is the bare base.
        progress: told after every step; one item is one answer.
        on_shrink: told when memory ran out and batches are smaller from now on.

    Returns:
        Task name -> adapter -> what it came to.
    """
    limit = question_limit(config, base.context)
    asked = [[chat.question(question.text, limit).ids for question in task.questions] for task in tasks]
    responses = generate(
        base,
        bank,
        [Prompt(name, ids) for questions in asked for name in names for ids in questions],
        GREEDY,
        config.evaluation.max_new_tokens,
        config.sizes.places,
        progress,
        on_shrink=on_shrink,
    )
    following = iter(responses)
    return {
        task.name: dict(
            zip(
                names,
                _sheets(config, base, bank, chat, task, len(names), following, progress, on_shrink),
                strict=True,
            )
        )
        for task in tasks
    }


def _sheets(
    config: Config,
    base: Base,
    bank: Bank,
    chat: Chat,
    task: Task,
    adapters: int,
    responses: Iterator[Response],
    progress: Progress | None,
    on_shrink: OnShrink | None,
) -> list[Sheet]:
    """One sheet per adapter; takes as many responses as it needs."""
    questions = task.questions
    given = [[(question, next(responses)) for question in questions] for _ in range(adapters)]
    if task.grade is not None:
        grade = task.grade
        return [
            Sheet(questions, tuple(grade(question, each.text) for question, each in answers), ())
            for answers in given
        ]
    base.warm.release()  # its memory is the judge's now
    limit = judge_limit(config, base.context, chat.score_tokens)
    papers = [chat.judge(question.text, each.ids, limit) for answers in given for question, each in answers]
    found = iter(
        expected_scores(
            base,
            bank,
            [Prompt(None, paper.ids) for paper in papers if paper is not None],
            chat.score_tokens,
            config.judge.minimum_mass,
            config.sizes.batch_tokens,
            None if progress is None else lambda done, tokens: progress(0, tokens),
            on_shrink,
            sampling=Sampling(*config.judge.in_one_pass),
            minimum_prefix=config.judge.least_prefix,
        )
    )
    scores = [None if paper is None else next(found).value for paper in papers]
    return [
        Sheet(questions, (), tuple(scores[start : start + len(questions)]))
        for start in range(0, len(scores), len(questions))
    ]
